"""Nets without BatchNorm, made smaller from weights alone: how many answers stay, by compensation.

    python tools/without_data.py --models ../shared/corpus --data ../shared/data/mnist.npz

Which compensation is the default where there are neither data nor BatchNorm was decided by this table. Every
model of the folder that takes one digit (28 x 28 numbers) and gives ten scores is run on test images in 0..1,
before and after; models that fail, nearly always give one answer, or give the answers of an earlier one are
left out. Writes results/without_data.md.
"""

from __future__ import annotations

import argparse
from math import prod
from pathlib import Path

import numpy as np

import onnxmerge
from onnxmerge.errors import OnnxMergeError
from onnxmerge.runtime import Runtime

RESULTS = Path(__file__).parent / "results" / "without_data.md"
METHODS = ("none", "merge", "lbyl", "folding")
SHARES = (0.3, 0.5)
HEAD = """# Without data and without BatchNorm

`python tools/without_data.py`: the share of the answers (the highest of ten scores, on {count} MNIST test
images in 0..1) that stay as they were when 30% and 50% of the channels of every group are removed, from
weights alone. The default was chosen by this table. All take the channels of the largest l1 norm, but for
folding, which chooses its own. The nets are other people's, small, and most of them fully connected; of text
models, which have no BatchNorm either, nothing trained was at hand.

| net | channels removed | {methods} |
|---|---|{rules}|
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True, help="a folder of ONNX files")
    parser.add_argument("--data", type=Path, required=True, help="an .npz with x_test, uint8 [N, 28, 28]")
    parser.add_argument("--count", type=int, default=1000, help="images")
    options = parser.parse_args()
    with np.load(options.data) as stored:
        images = stored["x_test"][: options.count].astype(np.float32) / 255
    runtime = Runtime.create("cpu", 1)
    lines, means = [], {(share, method): [] for share in SHARES for method in METHODS}
    seen: list[np.ndarray] = []
    for path in sorted(options.models.glob("*.onnx")):
        before = answers(path, images, runtime)
        if before is None or len(np.unique(before)) < 5 or any((before == other).all() for other in seen):
            continue
        seen.append(before)
        name = path.stem.split("__")[-1]
        for share in SHARES:
            stay = {method: kept(path, method, share, images, before, runtime) for method in METHODS}
            failed = [method for method, value in stay.items() if value is None]
            if failed:
                lines.append(f"| {name} | {share:.0%} | {', '.join(failed)} did not run |")
                continue
            for method, value in stay.items():
                means[share, method].append(value)
            best = max(stay.values())
            cells = (f"**{v:.1f}**" if v == best else f"{v:.1f}" for v in stay.values())
            lines.append(f"| {name} | {share:.0%} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    for share in SHARES:
        cells = (f"{np.mean(means[share, method]):.1f}" for method in METHODS)
        lines.append(f"| mean of {len(means[share, 'none'])} | {share:.0%} | {' | '.join(cells)} |")
    head = HEAD.format(count=len(images), methods=" | ".join(METHODS), rules="|".join(["---"] * len(METHODS)))
    RESULTS.write_text(head + "\n".join(lines) + "\n", encoding="utf-8")


def kept(
    path: Path, method: str, share: float, images: np.ndarray, before: np.ndarray, runtime: Runtime
) -> float | None:
    """The share of the answers that stay, in percent; None where the method does not run."""
    try:
        result = onnxmerge.optimize(
            path, ratio=share, criterion="l1", compensation=method, samples=4, tolerance=1.0, threads=1
        )
    except OnnxMergeError:
        return None
    after = answers(result.model, images, runtime)
    return None if after is None else float(100 * (after == before).mean())


def answers(model, images: np.ndarray, runtime: Runtime) -> np.ndarray | None:
    """The highest of ten scores for every image, int64 [N]; None where it is not such a model."""
    try:
        session = runtime.session(model)
        (source,) = session.inputs
        shape = [size if isinstance(size, int) else 1 for size in source.shape or ()]
        if prod(shape) != 28 * 28 or source.dtype != np.float32:
            return None
        found = [next(iter(session.run({source.name: x.reshape(shape)}).values())).ravel() for x in images]
    except (OnnxMergeError, ValueError):
        return None
    return np.argmax(found, axis=1) if len(found[0]) == 10 else None


if __name__ == "__main__":
    main()

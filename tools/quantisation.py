"""Fewer channels, fewer bits, and both: size, time and accuracy.

    python tools/quantisation.py --shared ../shared > tools/results/quantisation.md

Needs a folder with ``models``, ``data`` (see ``tools/accuracy.py``) and ``corpus`` (ONNX files). Labelled
models are calibrated on training images without their labels, and their accuracy is that of the test images.
For models of the corpus there are no data: they run on the photographs that come with the package, and what
is measured is the change of their answers to others of those.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accuracy import load_bench

import onnxmerge
from onnxmerge.report import Report
from onnxmerge.report.headline import percent

LABELLED = {"resnet56_bn": 0.5, "mobilenetv2": 0.8}
CORPUS = {
    "Linzaer+Ultra-Light-Fast-Generic-Face-Detector-1MB__version-RFB-320": 0.7,
    "dog-qiuqiu+FastestDet__FastestDet": 0.8,
}
HEADING = """\
# Fewer channels and fewer bits

`python tools/quantisation.py`, one thread. Size and time are shares of the input's. Widths are those that
suit int8 kernels, too: multiples of what the CPU computes at once, in which VNNI's steps fit. int8 is static,
with ranges of 128 calibration samples; {why}. Accuracy is that of the test images, one draw of the
calibration images; what has no labels shows the change of its answers, on photographs that stand in for real
data, and says little about those.

The machine was shared while this ran: times are medians of runs in turn with the input, and still noisy.

| model | what | size | time | accuracy, or change |
|---|---|---|---|---|"""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--models", nargs="+", default=[*LABELLED, *CORPUS], help="only these")
    args = parser.parse_args()
    lines, why = [], ""
    for name, share in LABELLED.items():
        if name not in args.models:
            continue
        bench = load_bench(args.shared, name, "test")

        def accuracy(session: Any, bench: Any = bench) -> float:
            data, first = bench.judged, session.get_inputs()[0]
            step = first.shape[0] if isinstance(first.shape[0], int) else 50
            right = 0
            for i in range(0, len(data), step):
                scores = session.run(None, {first.name: data[i : i + step]})[0]
                scores = scores.reshape(len(scores), -1)
                right += int((scores.argmax(axis=1) == bench.labels[i : i + step]).sum())
            return 100 * right / len(data)

        options = {"calibration": bench.draw(0), "samples": args.samples, "evaluate": accuracy}
        found, why = rows(name, bench.path, share, options)
        lines += found
    for name, share in CORPUS.items():
        if name not in args.models:
            continue
        found, _ = rows(name.split("__")[-1], args.shared / "corpus" / f"{name}.onnx", share, {"samples": 64})
        lines += found
    print(HEADING.format(why=why))
    print("\n".join(lines))


def rows(name: str, path: Path, share: float, options: dict[str, Any]) -> tuple[list[str], str]:
    """The lines of one model, and how it became int8."""
    fixed = {"precision": "int8", "threads": 1, "device": "cpu", "tolerance": 10.0}
    alone: Report = onnxmerge.optimize(path, ratio=0.0, **fixed, **options).report
    both: Report = onnxmerge.optimize(path, macs=share, **fixed, **options).report
    assert alone.precision is not None and both.precision is not None
    size = alone.input.bytes
    told: Callable[[Any], str] = lambda step: (  # noqa: E731
        f"{step.bytes / size:.2f} | {step.latency:.2f} | "
        + (f"{step.score:.1f}%" if step.score is not None else f"change {percent(step.change)}")
    )
    dense = "" if alone.score is None else f"{alone.score.before:.1f}%"
    lines = [
        f"| {name} | dense | 1 ({size:,} bytes) | 1 | {dense} |",
        f"| | {share:g} of the MACs | {told(both.precision.before)} |",
        f"| | int8 | {told(alone.precision.after)} |",
        f"| | {share:g} of the MACs, int8 | {told(both.precision.after)} |",
    ]
    return lines, alone.precision.why


if __name__ == "__main__":
    main()

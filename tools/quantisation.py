"""Fewer channels, fewer bits, and both: size, time and accuracy.

    python tools/quantisation.py --shared ../shared > tools/results/quantisation.md

Needs a folder with ``models``, ``data`` (see ``tools/accuracy.py``) and ``corpus`` (ONNX files). Labelled
models are calibrated on training images without their labels, and their accuracy is that of the test images.
For models of the corpus there are no data: they run on the photographs that come with the package, and what
is measured is the change of their answers to others of those.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from accuracy import Bench, load_bench

import onnxmerge
from onnxmerge.report.facts import StepFacts
from onnxmerge.report.headline import percent

RUNS = 50

LABELLED = {"resnet56_bn": 0.5, "mobilenetv2": 0.8}
CORPUS = {
    "Linzaer+Ultra-Light-Fast-Generic-Face-Detector-1MB__version-RFB-320": 0.7,
    "dog-qiuqiu+FastestDet__FastestDet": 0.8,
}
HEADING = """\
# Fewer channels and fewer bits

`python tools/quantisation.py`, one thread. Size and time are shares of the input's. Widths are those that
suit int8 kernels, too: multiples of what the CPU computes at once, in which VNNI's steps fit. int8 is static,
with ranges of 128 calibration samples ({why}).
Accuracy is that of the test images, one draw of the calibration images; what has no labels shows the change
of its answers, on photographs that stand in for real data, and says little about those. The last row of each
is what becomes of the int8 file where that is all there is. The times of RFB-320 hold what storing its
weights better saves (`storage.md`).

Time is CPU time of the thread, the median of 50 runs on one sample, for the machine was shared: waiting for
other work does not count, but what that takes of the caches does.

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

        options = {"calibration": bench.draw(0), "samples": args.samples}
        found, why = rows(name, bench.path, share, options, bench)
        lines += found
    for name, share in CORPUS.items():
        if name not in args.models:
            continue
        path = args.shared / "corpus" / f"{name}.onnx"
        found, why = rows(name.split("__")[-1], path, share, {"samples": 64}, None)
        lines += found
    print(HEADING.format(why=why))
    print("\n".join(lines))


class Measure:
    """The accuracy of a session on labelled images, nothing without them; and its times by the way."""

    def __init__(self, bench: Bench | None) -> None:
        self._bench = bench
        self.times: list[float] = []

    def __call__(self, session: Any) -> float:
        first = session.get_inputs()[0]
        fixed = isinstance(first.shape[0], int)
        shape = [d if isinstance(d, int) else 1 for d in first.shape]
        sample = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        took = []
        for _ in range(RUNS):
            start = time.thread_time()
            session.run(None, {first.name: sample})
            took.append(time.thread_time() - start)
        self.times.append(float(np.median(took)))
        if self._bench is None:
            return 0.0
        images, labels, step = self._bench.judged, self._bench.labels, first.shape[0] if fixed else 50
        right = 0
        for i in range(0, len(images), step):
            scores = session.run(None, {first.name: images[i : i + step]})[0]
            right += int((scores.reshape(len(scores), -1).argmax(axis=1) == labels[i : i + step]).sum())
        return 100 * right / len(images)


def rows(
    name: str, path: Path, share: float, options: dict[str, Any], bench: Bench | None
) -> tuple[list[str], str]:
    """The lines of one model, and how it became int8."""
    fixed = {"precision": "int8", "threads": 1, "device": "cpu", "tolerance": 10.0} | options
    of_alone, of_both = Measure(bench), Measure(bench)
    made = onnxmerge.optimize(path, ratio=0.0, evaluate=of_alone, **fixed)
    alone = made.report
    both = onnxmerge.optimize(path, macs=share, evaluate=of_both, **fixed).report
    assert alone.precision is not None and both.precision is not None and both.score is not None
    size = both.input.bytes
    of_later = Measure(bench)
    later = onnxmerge.optimize(made.model, macs=share, evaluate=of_later, **fixed | {"precision": None})
    # The input is evaluated twice, then what is written, then what it was in full precision.
    (_, dense, int8), (_, again, lowered, pruned) = of_alone.times, of_both.times

    def told(what: str, step: StepFacts, ratio: float) -> str:
        found = f"{step.score:.1f}%" if bench is not None else f"change {percent(step.change)}"
        return f"| | {what} | {step.bytes / size:.2f} | {ratio:.2f} | {found} |"

    first = f"{both.score.before:.1f}%" if bench is not None else ""
    lines = [
        f"| {name} | dense | 1 ({size:,} bytes) | 1 ({1000 * dense:.2f} ms) | {first} |",
        told(f"{share:g} of the MACs", both.precision.before, pruned / again),
        told("int8", alone.precision.after, int8 / dense),
        told(f"{share:g} of the MACs, int8", both.precision.after, lowered / again),
        told(f"int8, {share:g} of its MACs", _beside(path, later, options), of_later.times[-1] / dense),
    ]
    return lines, alone.precision.why


def _beside(path: Path, later: onnxmerge.Result, options: dict[str, Any]) -> StepFacts:
    """What became of the int8 file, beside the file in full precision."""
    facts, score = later.report.output, later.report.score
    given = {key: options[key] for key in ("calibration",) if key in options}
    parity = onnxmerge.compare(path, later.model, threads=1, device="cpu", **given).parity
    ratio = later.report.latency.ratio
    after = None if score is None else score.after
    return StepFacts(facts.bytes, parity.change, parity.change_upper_90, ratio, after)


if __name__ == "__main__":
    main()

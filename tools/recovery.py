"""What recovery gives back of the accuracy that a smaller model lost: a row for every model and budget.

    python tools/recovery.py --shared ../shared --draws 1 --steps 300
    python tools/recovery.py --models resnet20_bn --split train
    python tools/recovery.py --others --steps 150

A draw's images are cut in two, by seed: the smaller part is held out of everything, calibration included, and
recovery is judged by it. Accuracy is that of the test images, which nothing else looks at; with ``--split
train`` it is that of training images that no draw uses: settings are chosen there. Every run is kept in
``results/recovery.jsonl``, and the table is made of all that are there. ``--others`` takes models of other
kinds instead, on generic photographs or made-up inputs, and measures how far their answers are from the
original's on inputs that neither calibration nor recovery saw.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from accuracy import Bench, load_bench

import onnxmerge
from onnxmerge.config import Config, Recovery
from onnxmerge.data import Dataset
from onnxmerge.data.holdout import CHECKING
from onnxmerge.data.image_inputs import image_input
from onnxmerge.pipeline import analysed
from onnxmerge.progress import Clock
from onnxmerge.runtime import Runtime
from onnxmerge.train.recovery import Recovered, recover
from onnxmerge.validation import compare

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        budget: the option of ``optimize``.
        most: points of top-1 that may be lost; half of it is the goal.
        data: ``given``, or ``none`` for generic photographs.
        once: points lost without recovery when the bars were set; None: not measured.
    """

    model: str
    budget: str
    share: float
    most: float
    once: float | None
    data: str = "given"

    @property
    def key(self) -> str:
        return f"{self.model} {self.budget} {self.share:g} {self.data}"


ROWS = (
    Row("resnet56_bn", "macs", 0.5, 0.8, 1.5),
    Row("resnet56_bn", "macs", 0.4, 1.6, 3.7),
    Row("resnet56_bn", "macs", 0.3, 3.5, 7),
    Row("resnet20_bn", "macs", 0.6, 1.5, 3.0),
    Row("resnet20_bn", "macs", 0.5, 3, 5.5),
    Row("resnet8", "macs", 0.7, 3, 6.6),
    Row("resnet8", "macs", 0.5, 8, 13.6),
    Row("mobilenetv2", "macs", 0.8, 3, 4.4),
    Row("mobilenetv2", "macs", 0.7, 9, 17.6),
    Row("mobilenetv2", "macs", 0.6, 20, 32),
    Row("resnet56_bn", "macs", 0.5, 1.8, 2.9, "none"),
    Row("resnet56_bn", "latency", 0.6, 0.8, None),
)


def run(row: Row, bench: Bench, draw: int, args: argparse.Namespace) -> dict[str, object]:
    """One draw: the smaller model, and what recovery makes of it."""
    runtime = Runtime.create("cpu", args.threads)
    begin = time.perf_counter()
    fit, held_out = _inputs(row, bench, draw, args)
    calibration = None if row.data == "none" else fit.arrays
    student = onnxmerge.optimize(
        bench.path,
        calibration=calibration,
        seed=draw,
        threads=args.threads,
        device="cpu",
        tolerance=math.inf if row.data == "none" else None,
        **{row.budget: row.share},
    ).model
    making = time.perf_counter() - begin
    teacher = onnx.load(bench.path)
    options = Recovery(steps=args.steps, seconds=args.seconds, batch=args.batch)
    image = image_input(teacher, runtime.session(bench.path).inputs)
    images = {} if image is None else {image.name: image.layout}
    found = recover(teacher, student, fit, held_out, options, images=images, threads=args.threads, seed=draw)
    right = [
        100 * float((bench.answers(model, runtime) == bench.labels).mean())
        for model in (bench.path, student, found.model)
    ]
    return {
        "row": row.key,
        "draw": draw,
        "split": args.split,
        "images": len(fit) + len(held_out),
        "dense": right[0],
        "without": right[1],
        "with": right[2],
        "minutes_making": making / 60,
        "minutes": found.seconds / 60,
        **_facts(found),
    }


def _inputs(row: Row, bench: Bench, draw: int, args: argparse.Namespace) -> tuple[Dataset, Dataset]:
    if row.data == "none":
        config = Config(seed=draw, threads=args.threads, device="cpu")
        samples = analysed(bench.path, None, None, config, Clock()).samples
        assert samples.evaluation is not None
        return samples.fit, samples.evaluation
    name = onnx.load(bench.path, load_external_data=False).graph.input[0].name
    data = Dataset("training images", arrays={name: bench.draw(draw)})
    return data.split(*CHECKING, seed=draw)


def _facts(found: Recovered) -> dict[str, object]:
    names = ("taken", "error_before", "error_after", "steps", "batch", "learning_rate", "stopped", "trials")
    return {name: getattr(found, name) for name in names}


@dataclass(frozen=True)
class Other:
    """A model without labelled data here, by its path in the shared folder or the repository's ``models``."""

    kind: str
    path: str

    @property
    def key(self) -> str:
        return Path(self.path).stem


# Samples in a step of runs that do not say it.
_BATCH = 32
# Of the photographs that they are given: some are large.
SAMPLES = 96
OTHERS = (
    Other("digits", "digits.onnx"),
    Other("OCR", "corpus/DefTruth+lite.ai.toolkit__chinese_ocr_angle_net.onnx"),
    Other("detector", "corpus/Kazuhito00+Image-Processing-Node-Editor__face_detection_yunet_120x160.onnx"),
    Other("audio", "corpus/dscripka+openWakeWord__embedding_model.onnx"),
    Other("policy", "corpus/vivenkumarXR+Unity-ML-Agent__3DBall.onnx"),
    Other(
        "transformer", "corpus/NeuralNetworkVerification+Marabou__self-attention-mnist-pgd-medium-sim.onnx"
    ),
)


def run_other(other: Other, draw: int, args: argparse.Namespace) -> dict[str, object]:
    """Relative errors |y' - y| / |y| of all outputs, before and after, on inputs of another seed."""
    own = Path(__file__).resolve().parents[1] / "models" / other.path
    path = own if own.exists() else args.shared / other.path
    given = np.load(own.with_name("digits_calib.npz")) if own.exists() else None
    parts = None if given is None else _thirds({name: given[name] for name in given.files}, draw)
    config = Config(seed=draw, threads=args.threads, device="cpu", samples=SAMPLES)
    study = analysed(path, None if parts is None else parts[0], None, config, Clock())
    samples = study.samples
    again = replace(config, seed=draw + 100)
    fit, held_out, unseen = (
        (samples.fit, samples.evaluation, analysed(path, None, None, again, Clock()).samples.evaluation)
        if parts is None
        else (Dataset("digits", arrays=part) for part in parts)
    )
    student = onnxmerge.optimize(
        path,
        calibration=None if parts is None else parts[0],
        config=replace(config, macs=0.7, tolerance=math.inf),
    ).model
    teacher = onnx.load(path)
    image = image_input(teacher, study.source.session.inputs)
    found = recover(
        teacher,
        student,
        fit,
        held_out,
        Recovery(steps=args.steps, seconds=args.seconds, batch=args.batch),
        images={} if image is None else {image.name: image.layout},
        threads=args.threads,
        seed=draw,
    )
    runtime = Runtime.create("cpu", args.threads)
    change = [
        compare(
            (runtime.session(teacher).run(feed) for feed in unseen.feeds()),
            (runtime.session(model).run(feed) for feed in unseen.feeds()),
            study.source.kinds,
        )
        for model in (student, found.model)
    ]
    return {
        "row": f"other {other.key}",
        "draw": draw,
        "split": "unseen",
        "samples": len(fit),
        "data": unseen.source,
        "without": change[0].relative_error,
        "with": change[1].relative_error,
        "changed": [one.change for one in change],
        "minutes": found.seconds / 60,
        **_facts(found),
    }


def _thirds(arrays: dict[str, np.ndarray], seed: int) -> list[dict[str, np.ndarray]]:
    """Inputs to learn from (most of them), to be judged by, and to be measured on."""
    count = len(next(iter(arrays.values())))
    order = np.random.default_rng(seed).permutation(count)
    cuts = np.split(order, [count * 6 // 10, count * 8 // 10])
    return [{name: a[np.sort(rows)] for name, a in arrays.items()} for rows in cuts]


def others_table(runs: list[dict]) -> str:
    """The lines of the table of other kinds."""
    newest = {(one["row"], one["draw"]): one for one in runs if one["split"] == "unseen"}
    lines = [
        "| kind | model | inputs | error without | with | held-out error | taken | steps | minutes |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for other in OTHERS:
        for one in (v for (row, _), v in sorted(newest.items()) if row == f"other {other.key}"):
            cells = (
                other.kind,
                other.key,
                f"{one['samples']}, {one['data']}",
                f"{one['without']:.4f}",
                f"{one['with']:.4f}",
                f"{one['error_before']:.5f} > {one['error_after']:.5f}",
                "yes" if one["taken"] else "no",
                str(one["steps"]),
                f"{one['minutes']:.1f}",
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def table(runs: list[dict], split: str) -> str:
    """The lines of the table, a row's draws together; the newest run of a draw counts."""
    newest: dict[str, dict[int, dict]] = defaultdict(dict)
    for one in runs:
        if one["split"] == split:
            newest[one["row"]][one["draw"]] = one
    lines = [
        "| model | data | budget | dense | points lost without | with recovery | at most | once | minutes "
        "| steps | held-out error | taken | draws |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in ROWS:
        draws = list(newest[row.key].values())
        if not draws:
            continue

        def mean(value, draws=draws) -> float:
            return float(np.mean([value(d) for d in draws]))

        lost = [d["dense"] - d["with"] for d in draws]
        error = f" ± {np.std(lost, ddof=1) / math.sqrt(len(lost)):.2f}" if len(lost) > 1 else ""
        cells = (
            row.model,
            row.data,
            f"--{row.budget} {row.share:g}",
            f"{mean(lambda d: d['dense']):.2f}",
            f"{mean(lambda d: d['dense'] - d['without']):.2f}",
            f"{np.mean(lost):.2f}{error}",
            f"{row.most:g}" + ("" if np.mean(lost) <= row.most else " (missed)"),
            "" if row.once is None else f"{row.once:g}",
            f"{mean(lambda d: d['minutes']):.1f}",
            f"{mean(lambda d: d['steps']):.0f} of {mean(lambda d: d.get('batch', _BATCH)):.0f}",
            f"{mean(lambda d: d['error_before']):.4f} > {mean(lambda d: d['error_after']):.4f}",
            f"{sum(d['taken'] for d in draws)} of {len(draws)}",
            str(len(draws)),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def write(page: Path, tables: dict[str, str]) -> None:
    """Put the tables between the marks that bear their names; the words around them stay."""
    text = page.read_text(encoding="utf-8")
    for name, lines in tables.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        head, rest = text.split(begin)
        text = head + begin + lines + end + rest.split(end)[1]
    page.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shared", type=Path, default=Path(__file__).resolve().parents[2] / "shared")
    parser.add_argument("--models", nargs="*")
    parser.add_argument("--budgets", nargs="*", default=("macs", "latency"))
    parser.add_argument("--shares", nargs="*", type=float)
    parser.add_argument("--data", nargs="*", choices=("given", "none"), default=("given", "none"))
    parser.add_argument("--draws", nargs="*", type=int, default=(0,), help="their numbers")
    parser.add_argument("--others", action="store_true", help="models of other kinds")
    parser.add_argument("--split", choices=("test", "train"), default="test")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--batch", type=int, default=Recovery.batch)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    kept = RESULTS / "recovery.jsonl"

    def keep(done: dict) -> None:
        with kept.open("a", encoding="utf-8") as file:
            file.write(json.dumps(done) + "\n")
        print(json.dumps(done), flush=True)

    for draw in args.draws:
        for other in OTHERS if args.others else ():
            if args.models is None or other.kind in args.models:
                keep(run_other(other, draw, args))
        if args.others:
            continue
        for row in ROWS:
            wanted = (args.models is None or row.model in args.models) and row.budget in args.budgets
            if not wanted or row.data not in args.data or (args.shares and row.share not in args.shares):
                continue
            keep(run(row, load_bench(args.shared, row.model, args.split), draw, args))
    runs = [json.loads(line) for line in kept.read_text().splitlines()]
    print(table(runs, args.split))
    print(others_table(runs))
    if args.split == "test":
        write(RESULTS / "recovery.md", {"budgets": table(runs, "test"), "others": others_table(runs)})


if __name__ == "__main__":
    main()

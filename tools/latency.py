"""How much faster models really run: measured time of the output as a share of the input's.

    python tools/latency.py measure FOLDER --out rows.jsonl [--only TEXT ...] [--threads 1 2]
    python tools/latency.py measure --shared ../shared --models resnet56_bn --out rows.jsonl
    python tools/latency.py table rows.jsonl
    python tools/latency.py goals --shared ../shared --out goals.jsonl > goals.md

For every model a share of the MACs with and without alignment, and a share of the time at each number
of threads. Ratios are medians over interleaved runs of both models, in fresh sessions. ``floor`` is the
ratio with one channel in every group: what no budget can go below. Rows are appended one by one, and
models that have theirs are skipped. FOLDER is as in tools/reach.py; models that take no images are left
out there, and answers are compared on generic images. With --shared they are on labelled test images.

``goals`` is what budgets cost with whole layers going and without: points of top-1 lost on the test images,
the time that was predicted and what was measured, over several calibration draws, at each number of threads.
It wants an otherwise idle machine, takes about two hours, goes on where it was broken off, and prints a
table.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from accuracy import SHARES, Bench, load_bench

import onnxmerge
from onnxmerge import rewrite
from onnxmerge.config import Config
from onnxmerge.errors import OnnxMergeError
from onnxmerge.pipeline import analysed
from onnxmerge.plan import Selection
from onnxmerge.progress import Clock
from onnxmerge.runtime import Runtime
from onnxmerge.validation import SLOWER, compare_latency

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import folders

# A measured share this far above the goal still counts as reached.
REACHED = 0.03
# A change that nothing exceeds.
ANY = 1e9
# Where the smallest widths take more than this, a goal of 0.6 is not to be expected.
FLOOR = 0.5
# What ``goals`` asks for. A share of the MACs comes out the same at every number of threads.
GOALS = {
    "resnet56_bn": (("latency", 0.6), ("latency", 0.5), ("macs", 0.5)),
    "resnet20_bn": (("latency", 0.6), ("macs", 0.6)),
    "resnet8": (("latency", 0.6), ("macs", 0.6)),
    "mobilenetv2": (("latency", 0.8), ("latency", 0.7), ("macs", 0.8)),
}
# New sessions of both models: the median of their ratios is the time.
SESSIONS = 5


@dataclass(frozen=True, eq=False)
class Subject:
    """A model with what it is calibrated and compared on; None: generic images."""

    name: str
    path: Path
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    calibration: np.ndarray | None = None
    judged: np.ndarray | None = None


def measure(args: argparse.Namespace) -> None:
    known = {(r["model"], r["budget"]) for r in _rows(args.out)} if args.out.exists() else set()
    with args.out.open("a", encoding="utf-8") as out:
        for subject in _subjects(args):
            for row in _measured(subject, args, known):
                out.write(json.dumps(row) + "\n")
                out.flush()
                print(row, flush=True)


def _subjects(args: argparse.Namespace) -> Iterator[Subject]:
    if args.folder is not None:
        # Small inputs first, so that a run that is broken off has most models.
        for entry in sorted(folders.entries(args.folder), key=_input_size):
            if entry.runs and any(text in entry.path.name for text in args.only):
                yield Subject(entry.path.stem, entry.path, {k: tuple(v) for k, v in entry.shapes.items()})
    if args.shared is not None:
        for name in args.models or SHARES:
            bench = load_bench(args.shared, name, "test")
            images = bench.draw(0)[: args.samples]
            yield Subject(name, bench.path, calibration=images, judged=bench.judged[:500])


def _input_size(entry: folders.Entry) -> int:
    return sum(int(np.prod(shape)) for shape in entry.shapes.values())


def _measured(subject: Subject, args: argparse.Namespace, known: set) -> Iterator[dict[str, Any]]:
    budgets = {
        f"macs {args.macs:g}": {"macs": args.macs},
        f"macs {args.macs:g}, not aligned": {"macs": args.macs, "align": 1},
    } | {
        f"latency {args.latency:g}, {n} thread(s)": {"latency": args.latency, "threads": n}
        for n in args.threads
    }
    if all((subject.name, budget) in known for budget in budgets):
        return
    config = Config(shapes=subject.shapes, samples=args.samples, threads=args.threads[0], device="cpu")
    try:
        study = analysed(subject.path, subject.calibration, None, config, Clock())
    except OnnxMergeError as error:
        yield {"model": subject.name, "budget": next(iter(budgets)), "error": str(error)}
        return
    if study.samples.kind == "made up":
        return
    feed = next(iter(study.samples.fit.feeds(batch=1)))
    tiny = Selection({group.name: np.zeros(1, np.int64) for group in study.analysis.channels.groups})
    floor = _ratios(subject.path, rewrite.pruned(study.analysis, tiny, ()), feed, args)
    for budget, options in budgets.items():
        if (subject.name, budget) not in known:
            yield {"model": subject.name, "budget": budget, "floor": floor} | _row(
                subject, feed, options, args
            )


def _row(subject: Subject, feed, options: Mapping[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    begin = time.perf_counter()
    # Time is measured here, also of what would be refused.
    common = {
        "shapes": subject.shapes,
        "samples": args.samples,
        "device": "cpu",
        "threads": args.threads[0],
        "tolerance": ANY,
    }
    try:
        result = onnxmerge.optimize(subject.path, calibration=subject.calibration, **common | dict(options))
    except OnnxMergeError as error:
        return {"error": str(error)}
    report = result.report
    return {
        "macs": report["output"]["macs"] / report["input"]["macs"],
        "ratios": _ratios(subject.path, result.model, feed, args),
        "unchanged": report["unchanged"],
        "agreement": _agreement(subject, result.model, report),
        "error": None,
        "relative_error": report["parity"]["relative_error"],
        "seconds": time.perf_counter() - begin,
    }


def _ratios(path: Path, model: onnx.ModelProto, feed, args: argparse.Namespace) -> dict[str, list[float]]:
    """Per number of threads the median ratio and its quartiles."""
    found = {}
    for threads in args.threads:
        runtime = Runtime.create("cpu", threads)
        latency = compare_latency(runtime.session(path), runtime.session(model), feed, seconds=args.seconds)
        found[str(threads)] = [latency.ratio, *latency.spread]
    return found


def _agreement(subject: Subject, model: onnx.ModelProto, report) -> float | None:
    if subject.judged is None:
        return report["parity"]["top1_agreement"]
    runtime = Runtime.create("cpu")
    answers = []
    for source in (subject.path, model):
        session = runtime.session(source)
        step = session.inputs[0].shape[0] if isinstance(session.inputs[0].shape[0], int) else 50
        feeds = (subject.judged[i : i + step] for i in range(0, len(subject.judged), step))
        output = session.outputs[0].name
        answers.append(
            np.concatenate([session.run({session.inputs[0].name: x}, [output])[output] for x in feeds])
        )
    return float((answers[0].argmax(-1) == answers[1].argmax(-1)).mean())


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def table(args: argparse.Namespace) -> None:
    rows = _rows(args.out)
    threads = list(next(r["ratios"] for r in rows if r.get("ratios")))
    head = " | ".join(f"time, {n} thread(s)" for n in threads)
    print(f"| model | budget | MACs | {head} | floor | top-1 agreement | relative error | seconds |")
    print("|" + "---|" * (7 + len(threads)))
    for r in rows:
        if not r.get("ratios"):
            print(f"| {r['model']} | {r['budget']} | {r['error']} |" + " |" * (4 + len(threads)))
            continue
        ratios = " | ".join(f"{r['ratios'][n][0]:.2f}" for n in threads)
        agreement = "-" if r["agreement"] is None else f"{100 * r['agreement']:.1f}"
        print(
            f"| {r['model']} | {r['budget']}{' (input written)' if r['unchanged'] else ''} | {r['macs']:.2f} "
            f"| {ratios} | {r['floor'][threads[0]][0]:.2f} | {agreement} | {r['relative_error']:.3f} "
            f"| {r['seconds']:.0f} |"
        )
    print()
    for line in _summary(rows, threads):
        print(line)


def goals(args: argparse.Namespace) -> None:
    known = _rows(args.out) if args.out.exists() else []
    done = {tuple(row[key] for key in _RUN) for row in known}
    with args.out.open("a", encoding="utf-8") as out:
        for name in args.models or GOALS:
            bench = load_bench(args.shared, name, "test")
            dense = bench.answers(bench.path, Runtime.create("cpu", 1))
            for (kind, value), depth, draw, threads in product(
                GOALS[name], (False, True), range(args.draws), args.threads
            ):
                run = (name, kind, value, depth, draw, threads)
                if run in done or (kind == "macs" and threads != args.threads[0]):
                    continue
                row = dict(zip(_RUN, run, strict=True)) | _goal(bench, dense, run, args.seconds)
                known.append(row)
                out.write(json.dumps(row) + "\n")
                out.flush()
                print(row, file=sys.stderr, flush=True)
    _goals_table(known)


# What tells the runs of ``goals`` apart.
_RUN = ("model", "kind", "value", "depth", "draw", "threads")


def _goal(bench: Bench, dense: np.ndarray, run: tuple, seconds: float) -> dict[str, Any]:
    """What one run of ``goals`` comes to; its error where the budget cannot be met."""
    _, kind, value, depth, draw, threads = run
    options = {kind: value, "depth": depth, "seed": draw, "threads": threads, "device": "cpu"}
    begin = time.perf_counter()
    try:
        result = onnxmerge.optimize(bench.path, calibration=bench.draw(draw), **options)
    except OnnxMergeError as error:
        return {"error": str(error)}
    spent = time.perf_counter() - begin
    runtime = Runtime.create("cpu", threads)
    found = bench.answers(result.model, runtime)
    ratios = []
    for _ in range(SESSIONS):
        before, after = runtime.session(bench.path), runtime.session(result.model)
        feed = {before.inputs[0].name: bench.judged[:1]}
        ratios.append(compare_latency(before, after, feed, seconds=seconds / SESSIONS).ratio)
    return {
        "error": None,
        "lost": float(100 * ((dense == bench.labels).mean() - (found == bench.labels).mean())),
        "predicted": result.report["latency"]["predicted_ratio"],
        "measured": float(np.median(ratios)),
        "gone": sum(not group["after"] for group in result.report["groups"]),
        "macs": result.report["output"]["macs"] / result.report["input"]["macs"],
        "seconds": spent,
    }


def _goals_table(rows: list[dict[str, Any]]) -> None:
    head = ["model", "budget", "threads", "draws", "points lost without depth", "with depth", "groups gone"]
    head += ["MACs", "time predicted", "measured", "measured by predicted", "seconds without", "with"]
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for key in dict.fromkeys((r["model"], r["kind"], r["value"], r["threads"]) for r in rows):
        mine = [r for r in rows if (r["model"], r["kind"], r["value"], r["threads"]) == key]
        without, deep = ([r for r in mine if r["depth"] is d and not r["error"]] for d in (False, True))

        def cell(found: list[dict[str, Any]], name: str, digits: int = 2) -> str:
            """The mean, and in brackets the smallest and the largest."""
            values = [row[name] for row in found if row[name] is not None]
            if not values:
                return "-"
            return f"{np.mean(values):.{digits}f} ({min(values):.{digits}f}..{max(values):.{digits}f})"

        held = [r | {"by": r["measured"] / r["predicted"]} for r in deep if r["predicted"]]
        model, kind, value, threads = key
        cells = [model, f"{kind} {value:g}", str(threads), str(len(deep))]
        cells += [cell(without, "lost"), cell(deep, "lost"), cell(deep, "gone", 0), cell(deep, "macs")]
        cells += [cell(deep, "predicted"), cell(deep, "measured"), cell(held, "by")]
        cells += [cell(without, "seconds", 0), cell(deep, "seconds", 0)]
        print("| " + " | ".join(cells) + " |")
    for row in rows:
        if row["error"]:
            print(f"\n{row['model']}, {row['kind']} {row['value']:g}, draw {row['draw']}: {row['error']}")


def _summary(rows: list[dict[str, Any]], threads: list[str]) -> Iterator[str]:
    for n in threads:
        goals = [r for r in rows if r["budget"].startswith("latency") and f" {n} thread" in r["budget"]]
        able = [r for r in goals if r.get("floor") and r["floor"][n][0] <= FLOOR]
        goal = float(goals[0]["budget"].split()[1].rstrip(",")) if goals else 0.0
        met = [r for r in able if r.get("ratios") and r["ratios"][n][0] <= goal + REACHED]
        yield (
            f"{n} thread(s): {goal:g} of the time reached within {REACHED} by {len(met)} of {len(able)} "
            f"models whose smallest widths take at most {FLOOR:g}."
        )
        measured = [r for r in rows if r.get("ratios") and "not aligned" not in r["budget"]]
        slower = [r for r in measured if r["ratios"][n][0] > SLOWER]
        names = ", ".join(f"{r['model']} ({r['ratios'][n][0]:.2f})" for r in slower)
        yield f"{n} thread(s): slower than the input: {len(slower)} of {len(measured)} {names}"
    for budget in dict.fromkeys(r["budget"] for r in rows if r.get("ratios")):
        found = [r["ratios"][threads[0]][0] for r in rows if r["budget"] == budget and r.get("ratios")]
        yield f"{budget}: median {np.median(found):.2f} of the time over {len(found)} models."


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(required=True)
    measuring = verbs.add_parser("measure")
    measuring.set_defaults(run=measure)
    measuring.add_argument("folder", type=Path, nargs="?")
    measuring.add_argument("--only", nargs="*", default=[""], help="parts of file names")
    measuring.add_argument("--shared", type=Path, help="a folder as in tools/accuracy.py")
    measuring.add_argument("--models", nargs="*")
    measuring.add_argument("--threads", nargs="*", type=int, default=[1, 2])
    measuring.add_argument("--macs", type=float, default=0.5)
    measuring.add_argument("--latency", type=float, default=0.6)
    measuring.add_argument("--samples", type=int, default=64)
    measuring.add_argument("--seconds", type=float, default=2.0)
    measuring.add_argument("--out", type=Path, required=True)
    asking = verbs.add_parser("goals")
    asking.set_defaults(run=goals)
    asking.add_argument("--shared", type=Path, required=True, help="a folder as in tools/accuracy.py")
    asking.add_argument("--models", nargs="*", choices=GOALS)
    asking.add_argument("--draws", type=int, default=3)
    asking.add_argument("--threads", nargs="*", type=int, default=[1, 2])
    asking.add_argument("--seconds", type=float, default=5.0, help="of measuring each output")
    asking.add_argument("--out", type=Path, required=True)
    printing = verbs.add_parser("table")
    printing.set_defaults(run=table)
    printing.add_argument("out", type=Path)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()

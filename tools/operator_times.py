"""Where the time of a run goes, by kind of operator, in models before and after something was removed.

    python tools/operator_times.py --out tools/results/operator_times.md NAME=MODEL[,FEEDS.npz[,SMALLER]] ...

Every model is profiled by onnxruntime on one thread as it is, and at ``--macs`` of its multiplications:
widths alone decide the time, so what is removed is not compensated for. A node's time is the shortest of
``--runs`` runs, which is what is left of it on a machine that is busy with other work; shares are of the
sum of all nodes. Inputs are those of the file, one run each, or random numbers. Where values decide the
time, too (an exponential of absurd scores is slow), a smaller model that was fitted is given. Of a model of
which nothing can be removed, the first column is all there is.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

import onnxmerge
from onnxmerge.config import Config
from onnxmerge.errors import BudgetError
from onnxmerge.operators.table import OPERATORS
from onnxmerge.pipeline import analysed
from onnxmerge.progress import Clock

# Kinds that take less than this share of the time, before and after, are added up.
LEAST = 0.02
# Fused operators of onnxruntime, by the operator whose weights they hold.
FUSED = {"FusedConv": "Conv", "NhwcMaxPool": "MaxPool", "FusedMatMul": "MatMul", "FusedGemm": "Gemm"}
# What runs within these is listed by itself.
_CONTROL = ("If", "Loop", "Scan")
_RECURRENT = ("LSTM", "GRU", "RNN")


def node_times(
    model: onnx.ModelProto, feeds: Sequence[Mapping[str, np.ndarray]], runs: int
) -> dict[str, float]:
    """The shortest time of every node in microseconds, summed by kind of operator."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_profiling, options.log_severity_level = True, 3
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = f"{folder}/run"
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        for run in range(runs):
            session.run(None, dict(feeds[run % len(feeds)]))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    kinds: dict[str, str] = {}
    times: dict[str, list[float]] = defaultdict(list)
    for event in events:
        within = event.get("args", {}).get("op_name") in _CONTROL
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time") and not within:
            times[event["name"]].append(event["dur"])
            kinds[event["name"]] = event["args"]["op_name"]
    found: Counter[str] = Counter()
    for name, all_times in times.items():
        # A node within the body of a loop runs several times in a run.
        count = max(round(len(all_times) / runs), 1)
        found[kinds[name]] += count * min(all_times)
    return dict(found)


def smaller(path: Path, share: float) -> onnx.ModelProto | None:
    """The model at a share of its multiplications, whose answers do not matter here; None: out of reach."""
    try:
        return onnxmerge.optimize(
            path, macs=share, criterion="l2", compensation="none", tolerance=math.inf, threads=1, samples=16
        ).model
    except BudgetError as error:
        print(f"{path.name}: {error}")
        return None


def feeds_of(path: Path, given: Path | None) -> list[Mapping[str, np.ndarray]]:
    if given is not None:
        return [dict(np.load(given))]
    study = analysed(path, None, None, Config(samples=1, threads=1, device="cpu"), Clock(), generic=False)
    return [study.feed]


def rows(name: str, before: Mapping[str, float], after: Mapping[str, float] | None, kept: str) -> list[str]:
    """The lines of the table of one model."""
    total = sum(before.values())
    now = total if after is None else sum(after.values())
    kinds = sorted(before.keys() | (after or {}).keys(), key=lambda k: -before.get(k, 0.0))
    later = before if after is None else after
    shown = [k for k in kinds if max(before.get(k, 0) / total, later.get(k, 0) / now) >= LEAST]
    rest = [k for k in kinds if k not in shown]
    reached = "of which nothing can be removed" if after is None else f"{now / total:.2f} of that {kept}"
    lines = [
        "",
        f"### {name}",
        "",
        f"Nodes take {total / 1000:.2f} ms, {reached}.",
        "",
        "| operators | share before | share after | of their own time | holds weights |",
        "|---|---|---|---|---|",
    ]
    for kind in shown:
        a, b = before.get(kind, 0.0), later.get(kind, 0.0)
        cells = [kind, f"{a / total:.1%}", f"{b / now:.1%}", f"{b / a:.2f}" if a else "new"]
        lines.append(f"| {' | '.join(cells)} | {'yes' if _weighs(kind) else 'no'} |")
    if rest:
        a, b = (sum(t.get(k, 0.0) for k in rest) for t in (before, later))
        lines.append(f"| {len(rest)} others | {a / total:.1%} | {b / now:.1%} | {b / max(a, 1e-9):.2f} | |")
    fixed, left = (sum(t for kind, t in times.items() if not _weighs(kind)) for times in (before, later))
    lines += [
        "",
        f"Operators without weights take {fixed / total:.0%} of the time before and {left / now:.0%} after.",
    ]
    return lines


def _weighs(kind: str) -> bool:
    operator = OPERATORS.get(("", FUSED.get(kind, kind)))
    return kind in _RECURRENT or (operator is not None and operator.linear is not None)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", metavar="NAME=MODEL[,FEEDS[,SMALLER]]")
    parser.add_argument("--macs", type=float, default=0.7)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--out", type=Path, required=True, help="lines are appended")
    arguments = parser.parse_args()
    for given in arguments.models:
        name, _, paths = given.partition("=")
        path, feeds, made = (*paths.split(","), "", "")[:3]
        fed = feeds_of(Path(path), Path(feeds) if feeds else None)
        before = node_times(onnx.load(path), fed, arguments.runs)
        found = onnx.load(made) if made else smaller(Path(path), arguments.macs)
        kept = "in the smaller model given" if made else f"at {arguments.macs:g} of the multiplications"
        after = None if found is None else node_times(found, fed, arguments.runs)
        with arguments.out.open("a", encoding="utf-8") as out:
            out.write("\n".join(rows(name, before, after, kept)) + "\n")


if __name__ == "__main__":
    main()

"""How fast the tool itself is: against what cannot be avoided, and against published merging in plain loops.

    python tools/speed.py limit MODEL [--calib FILE] [--samples N] [--macs 0.5] [--note TEXT]
    python tools/speed.py loops MODEL [--ratio 0.5]

``limit``: the time of a run, imports, parity and latency apart, beside two passes of the calibration data
through the model and the multiplications of the Gram products at the speed of BLAS on this machine: what
least squares cannot do without. Beside it the same with a pass of the smaller model, the factorisations, and
reading and writing the file. Everything is processor time of one thread: other work on the machine does not
count. A row goes to tools/results/speed.json, a table of all rows beside it. ``loops``: neuron merging (Kim
et al. 2020, Algorithm 1, with the published BatchNorm terms) written as loops over channels, only that and
nothing else, beside a whole run of the tool with the same method.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from scipy.linalg.blas import ssyrk
from scipy.linalg.lapack import dpotrf
from threadpoolctl import threadpool_limits

import onnxmerge
from onnxmerge.channels.filters import Filters, channel_filters
from onnxmerge.config import Config
from onnxmerge.decisions import made
from onnxmerge.graph.files import load
from onnxmerge.pipeline import analysed, chosen, measured, without_misjudged
from onnxmerge.progress import Clock
from onnxmerge.statistics.dense import MOST_FEATURES
from onnxmerge.statistics.regression import linear_form
from onnxmerge.study import Study

RESULTS = Path(__file__).parent / "results" / "speed.json"
# Stages of a run that are not the work itself.
APART = ("parity", "latency")
# Rows per site behind the criterion (the default of ``statistics.dense.collect``).
STATISTICS_ROWS = 20_000


def limit(args: argparse.Namespace) -> None:
    config = Config(macs=args.macs, samples=args.samples, threads=1, device="cpu")
    clock = Clock(now=time.process_time)
    with threadpool_limits(1, user_api="blas"):
        study = analysed(args.model, args.calib, None, config, clock)
        decision = without_misjudged(study, made(study, chosen(study)))
        measured(study, decision, examples=False)
        stages = {name: round(s, 2) for name, s in clock.seconds.items() if name not in APART}
        dense = _pass(study, study.source.loaded.proto)
        pruned = _pass(study, decision.candidate.model)
        grams, factorisations = _multiplications(study)
        syrk, potrf = _blas()
        files = _files(args.model, decision.candidate.model)
    row = {
        "name": Path(args.model).stem,
        "note": args.note,
        "samples": len(study.samples.fit),
        "macs": args.macs,
        "stages": stages,
        "run": round(sum(stages.values()), 2),
        "passes": round(2 * dense, 2),
        "grams": round(float(grams / syrk), 2),
        "more": round(float(pruned + factorisations / potrf + files), 2),
        "syrk": round(syrk / 1e9, 1),
    }
    print(row)
    rows = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    rows[f"{row['name']} {row['samples']}"] = row
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    RESULTS.with_suffix(".md").write_text(_table(list(rows.values())), encoding="utf-8")


def _table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    head = ("network", "samples", "MACs kept", "run", "passes", "Gram", "ratio", "more", "ratio", "stages")
    lines = [
        "# Speed",
        "",
        "`python tools/speed.py limit MODEL --calib FILE --macs M`, processor seconds of one thread on a "
        "machine that others use, too. *Run*: without imports, parity and latency. *Passes*: two, of the "
        "calibration data through the model. *Gram*: the multiplications of the Gram products at the speed "
        "of BLAS. *Ratio*: the run over passes and Gram products. *More*: a pass of the smaller model, the "
        "factorisations, and reading and writing the file; beside it the ratio to all of these. A row stays "
        "until it is made again.",
        "",
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
    ]
    for row in rows:
        least, more = row["passes"] + row["grams"], row["more"]
        cells = [
            row["name"] + (f" ({row['note']})" if row["note"] else ""),
            *map(str, (row["samples"], row["macs"], row["run"], row["passes"], row["grams"])),
            f"{row['run'] / least:.2f}",
            str(more),
            f"{row['run'] / (least + more):.2f}",
            ", ".join(f"{name} {s:.1f}" for name, s in row["stages"].items() if s >= 0.05),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _pass(study: Study, model: onnx.ModelProto) -> float:
    session = study.runtime.session(model)
    begin = time.process_time()
    for feed in study.samples.fit.feeds():
        session.run(feed)
    return time.process_time() - begin


def _multiplications(study: Study) -> tuple[float, float]:
    """Of one triangle of every Gram matrix with its targets, and of factorising them."""
    channels = study.analysis.channels
    grams = factorisations = 0.0
    for site in study.analysis.sites:
        form = linear_form(site)
        if form is None:
            continue
        features, rows = form.features, form.blocks * len(study.samples.fit)
        shape = channels.view.shapes[site.node.y[0].name]
        there = rows * np.prod(shape[1:]) / site.output.size if site.output is not None else rows
        if features <= MOST_FEATURES and (channels.group_of[site.channel] >= 0).any():
            grams += min(there, STATISTICS_ROWS * form.blocks) * features**2 / 2
            factorisations += form.blocks * features**3 / 2
        grams += min(there, study.config.patches * form.blocks) * features * (features / 2 + form.outputs)
        factorisations += form.blocks * (features**3 / 6 + features**2 * form.outputs)
    return grams, factorisations


def _blas() -> tuple[float, float]:
    """Multiplications per second of a float32 Gram product (one triangle) and a float64 factorisation."""
    rows = np.random.default_rng(0).standard_normal((4096, 1024), dtype=np.float32)
    gram = ssyrk(1.0, rows.T, lower=1)
    begin = time.process_time()
    for _ in range(5):
        gram = ssyrk(1.0, rows.T, lower=1)
    syrk = 5 * rows.shape[0] * rows.shape[1] ** 2 / 2 / (time.process_time() - begin)
    square = np.asarray(gram, dtype=np.float64) + 1e3 * np.eye(len(gram))
    begin = time.process_time()
    for _ in range(5):
        dpotrf(square, lower=1)
    potrf = 5 * len(square) ** 3 / 6 / (time.process_time() - begin)
    return syrk, potrf


def _files(model: str, smaller: onnx.ModelProto) -> float:
    begin = time.process_time()
    load(model)
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(smaller, Path(folder) / "out.onnx")
        return time.process_time() - begin


def loops(args: argparse.Namespace) -> None:
    options = {"ratio": args.ratio, "criterion": "l1", "compensation": "merge", "samples": 1, "device": "cpu"}
    result = onnxmerge.optimize(args.model, **options)
    seconds = result.report["seconds"]
    run = sum(s for name, s in seconds.items() if name not in APART)
    merging = sum(seconds.get(name, 0.0) for name in ("score", "select", "compensate"))
    study = analysed(args.model, None, None, Config(**options), Clock())
    kept = {name: set(index) for name, index in result.plan.keep.items()}
    begin = time.perf_counter()
    folded = 0
    for group in study.analysis.channels.groups:
        for filters in channel_filters(study.analysis.channels, group):
            partners = list(_merged(filters, kept[group.name]))
            for site in study.analysis.sites:
                if np.isin(site.channel, group.channels).any():
                    folded += _fold(np.array(site.weight.constant), site.axis, partners)
    plain = time.perf_counter() - begin
    print(
        f"{Path(args.model).stem} at ratio {args.ratio}: loops {plain:.2f} s for {folded} slices; the tool "
        f"{merging:.2f} s for scores, selection and merging, {run:.2f} s for its whole run"
    )


def _merged(filters: Filters, kept: set[int], trade_off: float = 0.85) -> Iterator[tuple[int, int, float]]:
    """(removed, kept, scale) of one layer: Algorithm 1 as it stands."""
    norm = filters.batch_norm
    for i in range(len(filters.vectors)):
        if i in kept:
            continue
        found = []
        for j in kept:
            v, w = filters.vectors[i], filters.vectors[j]
            lengths = max(np.linalg.norm(v), 1e-12), max(np.linalg.norm(w), 1e-12)
            cosine, scale, shift = v @ w / (lengths[0] * lengths[1]), lengths[0] / lengths[1], 0.0
            if norm is not None:
                s, gamma, sigma = scale, norm.gamma, norm.variance
                scale = s * gamma[j] / gamma[i] * sigma[i] / sigma[j]
                inner = s * (norm.mean[i] - sigma[i] * norm.beta[i] / gamma[i]) - norm.mean[j]
                shift = abs(gamma[j] / sigma[j] * inner + norm.beta[j]) / scale
            found.append((cosine, shift, scale, j))
        shifts = [shift for _, shift, _, _ in found]
        width = max(shifts) - min(shifts) or 1.0
        price = [
            trade_off * (1 - cosine) + (1 - trade_off) * (shift - min(shifts)) / width
            for cosine, shift, _, _ in found
        ]
        cosine, _, scale, j = found[int(np.argmin(price))]
        if cosine >= 0.1:
            yield i, j, scale


def _fold(weight: np.ndarray, axis: int, partners: list[tuple[int, int, float]]) -> int:
    """Add the slices of removed channels to those of their partners, in place; returns how many."""
    slices = np.moveaxis(weight, axis, 0)
    for i, j, scale in partners:
        slices[j] += scale * slices[i]
    return len(partners)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(required=True)
    limiting = verbs.add_parser("limit")
    limiting.set_defaults(run=limit)
    limiting.add_argument("model")
    limiting.add_argument("--calib")
    limiting.add_argument("--macs", type=float, default=0.5)
    limiting.add_argument("--samples", type=int, default=512)
    limiting.add_argument("--note", default="", help="what the data are")
    looping = verbs.add_parser("loops")
    looping.set_defaults(run=loops)
    looping.add_argument("model")
    looping.add_argument("--ratio", type=float, default=0.5)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()

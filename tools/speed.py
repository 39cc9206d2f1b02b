"""How fast the tool itself is: against what cannot be avoided, and against published merging in plain loops.

    python tools/speed.py limit MODEL --calib FILE [--macs 0.5] [--threads N]
    python tools/speed.py loops MODEL [--ratio 0.5]

``limit``: the time of a run, imports, parity and latency apart, beside three passes over the calibration
data (dense; dense and pruned side by side), the multiplications of the Gram products and factorisations
at the speed of BLAS on this machine, and reading and writing the file. ``loops``: neuron merging (Kim et
al. 2020, Algorithm 1, with the published BatchNorm terms) written as loops over channels, only that and
nothing else, beside a whole run of the tool with the same method.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.linalg.blas import ssyrk
from scipy.linalg.lapack import dpotrf
from threadpoolctl import threadpool_limits

import onnxmerge
from onnxmerge.channels.filters import Filters, channel_filters
from onnxmerge.config import Config
from onnxmerge.graph.files import load
from onnxmerge.pipeline import analysed
from onnxmerge.progress import Clock
from onnxmerge.statistics.dense import MOST_FEATURES
from onnxmerge.statistics.regression import linear_form
from onnxmerge.study import Study

# Stages of a run that are not the work itself.
APART = ("parity", "latency")
# Rows per site behind the criterion (the default of ``statistics.dense.collect``).
STATISTICS_ROWS = 20_000


def limit(args: argparse.Namespace) -> None:
    config = Config(macs=args.macs, threads=args.threads, device="cpu")
    clock = Clock()
    study = analysed(args.model, args.calib, None, config, clock)
    result = onnxmerge.optimize(args.model, calibration=args.calib, config=config)
    stages = {name: s for name, s in result.report["seconds"].items() if name not in APART}
    dense = _pass(study, study.source.loaded.proto)
    passes = 2 * dense + _pass(study, result.model)
    grams, factorisations = _multiplications(study)
    syrk, potrf = _blas(study.runtime.threads)
    linear = grams / syrk + factorisations / potrf
    files = _files(args.model, result)
    least = passes + linear + files
    total = sum(stages.values())
    print(f"{Path(args.model).stem}, {len(study.samples.fit)} samples, {study.runtime.threads} thread(s)")
    print(f"  run {total:.1f} s: " + ", ".join(f"{name} {s:.1f}" for name, s in stages.items()))
    products = f"{grams / 1e9:.0f} G multiplications of Gram products at {syrk / 1e9:.0f} G/s"
    solved = f"{factorisations / 1e9:.1f} G of factorisations at {potrf / 1e9:.0f} G/s"
    print(
        f"  limit {least:.1f} s: passes {passes:.1f}; {products} and {solved} {linear:.1f}; files {files:.2f}"
    )
    print(f"  run / limit {total / least:.2f}")


def _pass(study: Study, model) -> float:
    session = study.runtime.session(model)
    begin = time.perf_counter()
    for feed in study.samples.fit.feeds():
        session.run(feed)
    return time.perf_counter() - begin


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


def _blas(threads: int) -> tuple[float, float]:
    """Multiplications per second of a float32 Gram product (one triangle) and a float64 factorisation."""
    rows = np.random.default_rng(0).standard_normal((4096, 1024), dtype=np.float32)
    with threadpool_limits(threads, user_api="blas"):
        gram = ssyrk(1.0, rows.T, lower=1)
        begin = time.perf_counter()
        for _ in range(5):
            gram = ssyrk(1.0, rows.T, lower=1)
        syrk = 5 * rows.shape[0] * rows.shape[1] ** 2 / 2 / (time.perf_counter() - begin)
        square = np.asarray(gram, dtype=np.float64) + 1e3 * np.eye(len(gram))
        begin = time.perf_counter()
        for _ in range(5):
            dpotrf(square, lower=1)
        potrf = 5 * len(square) ** 3 / 6 / (time.perf_counter() - begin)
    return syrk, potrf


def _files(model: str, result: onnxmerge.Result) -> float:
    begin = time.perf_counter()
    load(model)
    with tempfile.TemporaryDirectory() as folder:
        result.save(Path(folder) / "out.onnx")
        return time.perf_counter() - begin


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
    limiting.add_argument("--threads", type=int)
    looping = verbs.add_parser("loops")
    looping.set_defaults(run=loops)
    looping.add_argument("model")
    looping.add_argument("--ratio", type=float, default=0.5)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()

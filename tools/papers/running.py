"""Fill the cells: make a net smaller by a method, and count the test images that it gets right."""

from __future__ import annotations

import json
import math
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from accuracy import Bench, load_bench
from networks import RECIPES
from tables import METHODS, SAMPLES, TABLES, Row
from train_common import Data, read
from training import DATA

import onnxmerge
from onnxmerge.channels.filters import channel_filters
from onnxmerge.channels.sites import producers
from onnxmerge.compensation import COMPENSATIONS
from onnxmerge.config import Config
from onnxmerge.graph.output import atomic_write
from onnxmerge.pipeline import analysed
from onnxmerge.progress import Clock
from onnxmerge.runtime import Runtime

# Small networks of ours are in the repository.
_OURS = Path(__file__).parents[2] / "models"
# Where weights alone decide, images only say how the answers change, which is not reported here.
_LOOKED_AT = 16


def run_all(
    out: Path,
    folder: Path,
    shared: Path,
    tables: list[str],
    nets: list[str],
    methods: list[str],
    shares: list[float],
    device: str,
    threads: int,
) -> None:
    """Fill the cells that ``out`` (a file of JSON lines) lacks, net after net; nets that are missing wait.

    Args:
        tables, nets, methods, shares: of these alone; empty: of all. A share is what is removed.
    """
    done = {cell["key"] for cell in cells(out)}
    runtime = Runtime.create(device, threads)
    wanted: dict[str, list[tuple[Row, str]]] = {}
    for table in (t for t in TABLES if not tables or t.name in tables):
        rows = (r for r in table.rows if not nets or r.net in nets)
        for row in (r for r in rows if not shares or r.removed in shares):
            for name in (m for m in METHODS if not methods or m in methods):
                wanted.setdefault(row.net, []).append((row, name))
    for net, asked in wanted.items():
        left = {row.key(name): (row, name) for row, name in asked if row.key(name) not in done}
        bench = _bench(net, folder, shared) if left else None
        if bench is None:
            continue
        judge = Judge(bench, runtime, device, threads)
        for key, (row, name) in left.items():
            if not judge.takes(name):
                continue
            cell = {"key": key, "net": net, "method": name, **judge.cell(row, name)}
            with out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(cell) + "\n")
            print(cell, flush=True)


def cells(out: Path) -> list[dict[str, Any]]:
    """The cells that are filled."""
    return [json.loads(line) for line in out.read_text("utf-8").splitlines()] if out.exists() else []


def forget(out: Path, net: str) -> None:
    """Drop the cells of a net, whose weights are no longer those that they are of."""
    kept = [cell for cell in cells(out) if cell["net"] != net]
    with atomic_write(out) as part:
        part.write_text("".join(json.dumps(cell) + "\n" for cell in kept), encoding="utf-8")


def _bench(net: str, folder: Path, shared: Path) -> Bench | None:
    """A net with its images; None, and a line that says so, where it is not there."""
    if net.startswith("shared/"):
        name = net.removeprefix("shared/")
        there = (shared / "models" / f"{name}.onnx").exists()
        bench = load_bench(shared, name, "test") if there else None
    else:
        path = next((p for f in (folder, _OURS) if (p := f / f"{net}.onnx").exists()), None)
        bench = None if path is None else trained_bench(path, shared)
    if bench is None:
        print(f"{net}: not there, left out", file=sys.stderr, flush=True)
    return bench


def trained_bench(path: Path, shared: Path) -> Bench:
    """A net that was trained here; calibration is drawn from its training images."""
    file, mean, std = DATA[RECIPES[path.stem].data]
    data = _data(shared / "data" / file, mean, std)
    (pool, _), (judged, labels) = ((x.numpy(), y.numpy()) for x, y in (data.train, data.test))
    return Bench(path.stem, path, pool, judged, labels)


@cache
def _data(path: Path, mean: tuple[float, ...], std: tuple[float, ...]) -> Data:
    return read(path, mean=mean, std=std)


class Judge:
    """One net, as it is and with less in it."""

    def __init__(self, bench: Bench, runtime: Runtime, device: str, threads: int):
        self._bench, self._runtime = bench, runtime
        self._running = {"device": device, "threads": threads}
        self._dense = self._right(bench.path)
        self._images = bench.draw(0)[:SAMPLES]
        study = analysed(bench.path, self._images[:1], None, Config(samples=1, **self._running), Clock())
        self._channels = study.analysis.channels

    def takes(self, name: str) -> bool:
        """Whether a method is there and has something to go by."""
        compensation = METHODS[name].options.get("compensation", "lstsq")
        known = [p for g in self._channels.groups for p in producers(self._channels, g)]
        normed = any(p.batch_norm is not None for p in known)
        return compensation in COMPENSATIONS and (normed or not METHODS[name].norms)

    def cell(self, row: Row, name: str) -> dict[str, Any]:
        """One run: test images right, in percent, before and after, and what is left of the net."""
        method, begin = METHODS[name], time.process_time()
        options = {"ratio": row.removed, **row.options, **method.options}
        if method.published:
            options["criterion"] = row.criterion
        looked = {"nothing": self._images[:_LOOKED_AT], "photographs": None, "images": self._images}
        result = onnxmerge.optimize(
            self._bench.path, calibration=looked[method.data], tolerance=math.inf, **options, **self._running
        )
        before, after = result.report.input, result.report.output
        found = {
            "dense": self._dense, "right": self._right(result.model), "images": len(self._bench.labels),
            "macs": after.macs / before.macs, "params": after.params / before.params,
            "used": result.report.method.compensation, "seconds": round(time.process_time() - begin, 1),
        }  # fmt: skip
        facts = self._bench.path.with_suffix(".json")
        if name == "prune" and row.net in RECIPES and facts.exists():
            found["trained"] = json.loads(facts.read_text("utf-8"))
        return found | ({"pairs": self._pairs()} if name == "merge" else {})

    def _right(self, model: Any) -> float:
        answers = self._bench.answers(model, self._runtime)
        return round(100 * float((answers == self._bench.labels).mean()), 4)

    def _pairs(self) -> list[int]:
        """How many groups are merged as a convolution with the depthwise one behind it, and of how many."""
        groups = self._channels.groups
        return [sum(is_pair(self._channels, group) for group in groups), len(groups)]


def is_pair(channels: Any, group: Any) -> bool:
    """Whether merging takes a convolution and the depthwise one behind it as one convolution."""
    made = producers(channels, group)
    dense = [p for p in made if not p.depthwise]
    behind = [p for p in made if p.depthwise]
    vectors = [filters.vectors for filters in channel_filters(channels, group)]
    if len(dense) != 1 or len(behind) != 1 or len(vectors) != 1:
        return False
    outer = np.einsum("ci,cj->cij", dense[0].filters, behind[0].filters).reshape(len(vectors[0]), -1)
    return outer.shape == vectors[0].shape and np.allclose(outer, vectors[0])

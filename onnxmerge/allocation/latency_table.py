"""What widths cost in time: the model's own layers, profiled in place at several widths.

A few models with all groups at the same share of their channels are built and profiled with
onnxruntime, fusions and layouts included. A layer's time at other widths is interpolated over its
multiplications, counted at the widths that the hardware pads them to; all that is no linear layer
is interpolated over the size of the activations.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypedDict

import numpy as np

from onnxmerge.allocation import Alignment
from onnxmerge.allocation.targets import NARROWEST
from onnxmerge.channels import Channels
from onnxmerge.channels.analysis import Analysis
from onnxmerge.channels.cost import Table, Term, kept_lengths
from onnxmerge.errors import OutputError
from onnxmerge.graph.output import atomic_write
from onnxmerge.graph.view import GraphView, NodeView
from onnxmerge.operators.table import lookup
from onnxmerge.plan import Selection
from onnxmerge.progress import Progress
from onnxmerge.rewrite import pruned
from onnxmerge.runtime import Runtime
from onnxmerge.validation.latency import median_seconds

# Shares of every group's channels at which the model is profiled; then at the narrowest aligned
# widths, and with one channel everywhere.
SHARES = (1.0, 0.75, 0.5, 0.25, 0.0)
LEVELS = len(SHARES) + 1
Feed = Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class LatencyTable:
    """Seconds per layer at the profiled levels.

    Attributes:
        step: widths are padded to multiples of this.
        layers: node index of a linear layer -> seconds, one per level.
        rest: seconds of everything else, one per level.
        whole: the time with all channels, as a share of the input model's.
    """

    analysis: Analysis
    step: int
    layers: Mapping[int, tuple[float, ...]]
    rest: tuple[float, ...]
    whole: float = 1.0

    def share(self, lengths: np.ndarray) -> np.ndarray:
        """Predicted time at axis lengths [..., classes] as a share of the input model's; float64 [...]."""
        return self.seconds(lengths) * self.whole / max(self._seconds_of_all, 1e-12)

    def seconds(self, lengths: np.ndarray) -> np.ndarray:
        """Predicted seconds of one run at axis lengths [..., classes]; float64 [...]."""
        live = self._live(lengths)
        layers = _interpolated(self._work(lengths), *self._layer_points)
        # A layer that is gone takes no time at all, and neither do its activation and its sum.
        layers = np.where(live[..., [term.node.index for term in self._terms]], layers, 0.0).sum(axis=-1)
        made = self._output_table.products(lengths)
        left = np.where(live[..., [term.node.index for term in self._outputs]], made, 0.0).sum(axis=-1)
        rest = np.interp(made.sum(axis=-1), *self._rest_points)
        return layers + rest * left / np.maximum(made.sum(axis=-1), 1.0)

    def _live(self, lengths: np.ndarray) -> np.ndarray:
        """Which nodes are there at axis lengths [..., classes]; bool [..., nodes]."""
        count = len(self.analysis.channels.view.nodes)
        none_left = (lengths == 0) & (self.analysis.channels.classes.size > 0)
        if not none_left.any():
            return np.ones((*lengths.shape[:-1], count), dtype=bool)
        patterns, which = np.unique(none_left.reshape(-1, lengths.shape[-1]), axis=0, return_inverse=True)
        found = np.zeros((len(patterns), count), dtype=bool)
        for row, pattern in zip(found, patterns, strict=True):
            row[list(self.analysis.depth.without(np.flatnonzero(pattern)).live)] = True
        return found[which.reshape(-1)].reshape(*lengths.shape[:-1], count)

    @cached_property
    def _seconds_of_all(self) -> float:
        return float(self.seconds(self.analysis.channels.classes.size))

    @cached_property
    def _level_lengths(self) -> np.ndarray:
        """[levels, classes]"""
        return np.stack([
            kept_lengths(self.analysis.channels, self.analysis.removed(selection))
            for selection in levels(self.analysis.channels, self.step)
        ])  # fmt: skip

    @cached_property
    def _layer_points(self) -> tuple[np.ndarray, np.ndarray]:
        """Work and seconds of every profiled layer at the levels, float64 [layers, levels] each."""
        times = [self.layers[term.node.index] for term in self._terms]
        points = [_rising(w, t) for w, t in zip(self._work(self._level_lengths).T, times, strict=True)]
        work, seconds = (np.array([point[part] for point in points]).reshape(-1, LEVELS) for part in (0, 1))
        return work, seconds

    @cached_property
    def _rest_points(self) -> tuple[np.ndarray, np.ndarray]:
        return _rising(self._activations(self._level_lengths), self.rest)

    @cached_property
    def _terms(self) -> list[Term]:
        return [term for term in self.analysis.cost.layers if term.node.index in self.layers]

    @cached_property
    def _layer_table(self) -> Table:
        """The layers over twice the axis classes: lengths as outputs, then lengths as what is summed over."""
        number, count = self.analysis.channels.classes.number, len(self.analysis.channels.classes.size)
        classes = np.full((len(self._terms), max((len(t.axes) for t in self._terms), default=0)), 2 * count)
        for row, term in zip(classes, self._terms, strict=True):
            row[: len(term.axes)] = [number[a] + (count if a == term.summed else 0) for a in term.axes]
        return Table(np.ones(len(self._terms)), classes)

    @cached_property
    def _outputs(self) -> list[Term]:
        """All computed tensors."""
        return [Term(1, tuple(y.axes), n) for n in self.analysis.channels.view for y in n.y if y is not None]

    @cached_property
    def _output_table(self) -> Table:
        return Table.of(self._outputs, self.analysis.channels)

    def _work(self, lengths: np.ndarray) -> np.ndarray:
        """Multiplications with all padding, up to a constant per layer: [..., classes] -> [..., layers]."""
        sizes = self.analysis.channels.classes.size
        written, read = _padded_output(lengths, self.step), _padded_input(lengths, self.step)
        both = [np.where(lengths == sizes, sizes, padded) for padded in (written, read)]
        return self._layer_table.products(np.concatenate(both, axis=-1))

    def _activations(self, lengths: np.ndarray) -> np.ndarray:
        return self._output_table.products(lengths).sum(axis=-1)


def _padded_output(lengths: np.ndarray, step: int) -> np.ndarray:
    """Output lengths as the hardware computes them: whole blocks."""
    return np.ceil(lengths / step) * step


def _padded_input(lengths: np.ndarray, step: int) -> np.ndarray:
    """Lengths that are summed over: whole blocks too, but less than one block is read as it is."""
    return np.where(lengths >= step, _padded_output(lengths, step), lengths)


def _rising(work: np.ndarray, seconds: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Points for interpolation: ascending in work, and never faster for more of it."""
    from scipy.optimize import isotonic_regression  # 16 MB that no other budget needs

    order = np.argsort(work, kind="stable")
    return np.asarray(work, dtype=np.float64)[order], isotonic_regression(np.asarray(seconds)[order]).x


def _interpolated(x: np.ndarray, known_x: np.ndarray, known_y: np.ndarray) -> np.ndarray:
    """``np.interp`` with points of its own for every column: [..., T] and twice [T, points] -> [..., T]."""
    right = np.clip((x[..., None] >= known_x).sum(axis=-1), 1, known_x.shape[-1] - 1)
    column = np.arange(len(known_x))
    x0, x1 = known_x[column, right - 1], known_x[column, right]
    y0, y1 = known_y[column, right - 1], known_y[column, right]
    part = np.clip((x - x0) / np.where(x1 > x0, x1 - x0, 1.0), 0.0, 1.0)
    return y0 + part * (y1 - y0)


def levels(channels: Channels, step: int) -> list[Selection]:
    """The selections at which a model is profiled: all groups at the same share of their channels."""
    ladders = Alignment(step, NARROWEST).ladders(channels)
    chosen = [
        {name: ladder[np.abs(ladder - share * ladder[-1]).argmin()] for name, ladder in ladders.items()}
        for share in SHARES
    ]
    chosen.append(dict.fromkeys(ladders, 1))
    return [Selection({name: np.arange(count) for name, count in widths.items()}) for widths in chosen]


def latency_table(
    analysis: Analysis, runtime: Runtime, feed: Feed, step: int, progress: Progress | None = None
) -> LatencyTable:
    """The table of a model on this machine; measured once, then read from the user's cache.

    Raises:
        ModelError: a model of some width does not run.
    """
    path = _cache_path(analysis, runtime, step)
    found = _cached(path)
    if found is None:
        found = _measured(analysis, runtime, feed, step, progress)
        _remember(path, found)
    layers = {int(index): tuple(times) for index, times in found["layers"].items()}
    return LatencyTable(analysis, step, layers, tuple(found["rest"]))


class _Profile(TypedDict):
    """Seconds at every level: of linear layers by their node index (in JSON a text), and of the rest."""

    layers: dict[int, list[float]]
    rest: list[float]


def _measured(
    analysis: Analysis, runtime: Runtime, feed: Feed, step: int, progress: Progress | None
) -> _Profile:
    layers: dict[int, list[float]] = {}
    rest = []
    for number, selection in enumerate(levels(analysis.channels, step)):
        if progress is not None:
            progress("latency table", number, LEVELS)
        scratch = analysis.loaded.new_scratch()
        model = pruned(analysis, selection, (), scratch)
        if runtime.device == "cuda":
            seconds = median_seconds(runtime.session(model), feed)
            times, others = _shared_out(analysis, selection, seconds), 0.0
        else:
            times, others = _by_layer(analysis.channels.view, runtime.profile(model, feed))
        for index, seconds in times.items():
            layers.setdefault(index, [0.0] * number).append(seconds)
        rest.append(others)
        for known in layers.values():
            known += [0.0] * (number + 1 - len(known))
    return {"layers": layers, "rest": rest}


def _by_layer(view: GraphView, kernels: Mapping[str, float]) -> tuple[dict[int, float], float]:
    """The seconds of every linear layer by its node index, and of everything else."""
    times: dict[int, float] = {}
    others = 0.0
    for name, seconds in kernels.items():
        node = _layer(view, name)
        if node is None:
            others += seconds
        else:
            times[node.index] = times.get(node.index, 0.0) + seconds
    return times, others


def _shared_out(analysis: Analysis, selection: Selection, seconds: float) -> dict[int, float]:
    """The time of a run, by multiplications: a profile of a GPU only knows when kernels were started."""
    lengths = kept_lengths(analysis.channels, analysis.removed(selection)) / analysis.channels.classes.size
    table = Table.of(analysis.cost.layers, analysis.channels)
    work = table.values * table.products(lengths)
    parts = seconds * work / max(work.sum(), 1.0)
    return {term.node.index: float(part) for term, part in zip(analysis.cost.layers, parts, strict=True)}


def _layer(view: GraphView, name: str) -> NodeView | None:
    """The linear node behind a kernel: named by a node, or by the tensor that a fused kernel writes."""
    name = re.sub(r"(_nchwc|_token_\d+)+$", "", name).removeprefix("fused ")
    node = view.producer(name) if name in view else next((n for n in view if n.source.name == name), None)
    for _ in range(8):  # an activation, a normalisation, a sum: fused chains are short
        if node is None or ((operator := lookup(node)) is not None and operator.linear is not None):
            return node
        made = [p for x in node.x if x is not None and (p := view.producer(x.name)) is not None]
        if name not in view or not made:
            return None
        node = max(made, key=lambda n: n.index)
    return None


def _cache_path(analysis: Analysis, runtime: Runtime, step: int) -> Path:
    try:
        runtime_version = version("onnxruntime")
    except PackageNotFoundError:
        runtime_version = version("onnxruntime-gpu")
    groups = ",".join(group.name for group in analysis.channels.groups)
    machine = f"{platform.node()} {platform.processor()} {platform.machine()} {os.cpu_count()}"
    model = analysis.loaded.sha256, analysis.denormals, len(analysis.freed)
    facts = [*model, runtime.provider, runtime.threads, runtime_version, machine, step, groups]
    widths = [[len(keep) for keep in level.keep.values()] for level in levels(analysis.channels, step)]
    key = hashlib.sha256(repr((facts, widths)).encode()).hexdigest()[:32]
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "onnxmerge" / f"latency-{key}.json"


def _cached(path: Path) -> _Profile | None:
    try:
        found: _Profile = json.loads(path.read_text())
        return found if len(found["rest"]) == LEVELS else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(path: Path, found: _Profile) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as part:
            part.write_text(json.dumps(found))
    except (OSError, OutputError):
        return  # a cache that cannot be written is no reason to fail

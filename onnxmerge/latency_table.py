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
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from math import prod
from pathlib import Path

import numpy as np

from onnxmerge.channels import Channels
from onnxmerge.channels.cost import Term, removed_channels
from onnxmerge.clock import Progress
from onnxmerge.errors import OutputError
from onnxmerge.graph.output import atomic_write
from onnxmerge.graph.view import GraphView, NodeView
from onnxmerge.operators.table import lookup
from onnxmerge.plan import Selection
from onnxmerge.runtime import Runtime
from onnxmerge.subject import Subject

# Shares of every group's channels at which the model is profiled.
LEVELS = (1.0, 0.75, 0.5, 0.25, 0.0)
Feed = Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class LatencyTable:
    """Seconds per layer at the profiled levels.

    Attributes:
        step: widths are padded to multiples of this.
        layers: node index of a linear layer -> seconds, one per level.
        rest: seconds of everything else, one per level.
    """

    subject: Subject
    step: int
    layers: Mapping[int, tuple[float, ...]]
    rest: tuple[float, ...]

    def share(self, selection: Selection) -> float:
        """Predicted time of a selection as a share of the input model's."""
        return self.seconds(selection) / max(self._whole, 1e-12)

    def seconds(self, selection: Selection) -> float:
        """Predicted seconds of one run with only these channels."""
        lengths = self._lengths(selection)
        total = float(np.interp(self._activations(lengths), *self._rest_points))
        for term, points in self._layer_points:
            total += float(np.interp(self._work(term, lengths), *points))
        return total

    @cached_property
    def _whole(self) -> float:
        return self.seconds(Selection({}))

    @cached_property
    def _level_lengths(self) -> list[np.ndarray]:
        return [self._lengths(level_selection(self.subject.channels, share, self.step)) for share in LEVELS]

    @cached_property
    def _layer_points(self) -> list[tuple[Term, tuple[np.ndarray, np.ndarray]]]:
        """Every profiled layer with its work and seconds at the levels."""
        return [
            (term, _rising([self._work(term, lengths) for lengths in self._level_lengths], times))
            for term in self.subject.cost.layers
            if (times := self.layers.get(term.node.index)) is not None
        ]

    @cached_property
    def _rest_points(self) -> tuple[np.ndarray, np.ndarray]:
        return _rising([self._activations(lengths) for lengths in self._level_lengths], self.rest)

    def _lengths(self, selection: Selection) -> np.ndarray:
        """The positions that remain in each axis class."""
        channels = self.subject.channels
        kept = ~removed_channels(channels, selection.keep)[channels.label]
        return np.add.reduceat(kept, channels.classes.offset) if len(kept) else np.zeros(0)

    def _work(self, term: Term, lengths: np.ndarray) -> float:
        number = self.subject.channels.classes.number
        return prod(_padded(lengths[number[axis]], axis.size, self.step) for axis in term.axes)

    def _activations(self, lengths: np.ndarray) -> float:
        number = self.subject.channels.classes.number
        return float(sum(prod(lengths[number[a]] for a in axes) for axes in self._outputs))

    @cached_property
    def _outputs(self):
        return [y.axes for node in self.subject.channels.view for y in node.y if y is not None]


def _padded(length: float, size: int, step: int) -> float:
    """A length as the hardware computes it; axes that cannot shrink are as they are."""
    return length if length == size else np.ceil(length / step) * step


def _rising(work: list[float], seconds: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Points for interpolation: ascending in work, and never faster for more of it."""
    order = np.argsort(work, kind="stable")
    return np.asarray(work)[order], np.maximum.accumulate(np.asarray(seconds)[order])


def level_selection(channels: Channels, share: float, step: int) -> Selection:
    """Every group at about this share of its channels, in multiples of ``step`` where it is that wide."""
    keep = {}
    for group in channels.groups:
        least = min(step, len(group))
        count = max(least, round(len(group) * share / least) * least)
        keep[group.name] = np.arange(min(count, len(group)))
    return Selection(keep)


def latency_table(
    subject: Subject, runtime: Runtime, feed: Feed, step: int, progress: Progress | None = None
) -> LatencyTable:
    """The table of a model on this machine; measured once, then read from the user's cache.

    Raises:
        ModelError: a model of some width does not run.
    """
    path = _cache_path(subject, runtime, step)
    found = _cached(path)
    if found is None:
        found = _measured(subject, runtime, feed, step, progress)
        _remember(path, found)
    layers = {int(index): tuple(times) for index, times in found["layers"].items()}
    return LatencyTable(subject, step, layers, tuple(found["rest"]))


def _measured(subject: Subject, runtime: Runtime, feed: Feed, step: int, progress: Progress | None) -> dict:
    view = subject.channels.view
    layers: dict[int, list[float]] = {}
    rest = []
    for number, share in enumerate(LEVELS):
        if progress is not None:
            progress("latency table", number, len(LEVELS))
        scratch = subject.scratch()
        model = subject.pruned(level_selection(subject.channels, share, step), (), scratch)
        others = 0.0
        times: dict[int, float] = {}
        for name, seconds in runtime.profile(model, feed).items():
            node = _layer(view, name)
            if node is None:
                others += seconds
            else:
                times[node.index] = times.get(node.index, 0.0) + seconds
        for index, seconds in times.items():
            layers.setdefault(index, [0.0] * number).append(seconds)
        rest.append(others)
        for known in layers.values():
            known += [0.0] * (number + 1 - len(known))
    return {"layers": layers, "rest": rest}


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


def _cache_path(subject: Subject, runtime: Runtime, step: int) -> Path:
    try:
        runtime_version = version("onnxruntime")
    except PackageNotFoundError:
        runtime_version = version("onnxruntime-gpu")
    groups = ",".join(group.name for group in subject.channels.groups)
    machine = f"{platform.node()} {platform.processor()} {platform.machine()} {os.cpu_count()}"
    facts = [subject.loaded.sha256, runtime.provider, runtime.threads, runtime_version, machine, step, groups]
    key = hashlib.sha256(repr((facts, LEVELS)).encode()).hexdigest()[:32]
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "onnxmerge" / f"latency-{key}.json"


def _cached(path: Path) -> dict | None:
    try:
        found = json.loads(path.read_text())
        return found if len(found["rest"]) == len(LEVELS) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(path: Path, found: dict) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as part:
            part.write_text(json.dumps(found))
    except (OSError, OutputError):
        return  # a cache that cannot be written is no reason to fail

"""From learned masks to a smaller ONNX model: gates folded, dead channels cut out exactly."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx
from torch import Tensor

from onnxmerge import rewrite
from onnxmerge.channels import Channels
from onnxmerge.channels.analysis import Analysis
from onnxmerge.channels.cost import removed_channels
from onnxmerge.channels.depth import Depth
from onnxmerge.errors import InternalError, TrainingError
from onnxmerge.graph import load, save
from onnxmerge.graph.view import Axis
from onnxmerge.plan import Selection
from onnxmerge.runtime import Runtime
from onnxmerge.train.exporting import Example, Exporter, evaluating, inputs_of, to_onnx
from onnxmerge.train.masks import Masks
from onnxmerge.validation import check_model

TOLERANCE = 1e-4


@dataclass(frozen=True, eq=False)
class Shrunk:
    """A smaller model.

    Attributes:
        model: with the dead channels cut out.
        dense: the same model before that: all widths, zeros where gates are closed.
        macs: (before, after); ``params`` likewise.
        widths: (kept, before) by group.
        error: largest difference from the torch module with hard gates on the example, relative to
            the largest output.
    """

    model: onnx.ModelProto
    dense: onnx.ModelProto
    macs: tuple[int, int]
    params: tuple[int, int]
    widths: dict[str, tuple[int, int]]
    error: float

    def save(self, path: str | os.PathLike[str]) -> None:
        """Raises OutputError where the file cannot be written."""
        save(self.model, path)


def shrink(masks: Masks, example: Example, *, exporter: Exporter = to_onnx) -> Shrunk:
    """Export a module with its gates folded into the weights, and remove every dead channel.

    The gates stay in the module: training can go on.

    Args:
        masks: learned masks; the module's weights are read as they are now.
        example: as for ``wrap``; parity is checked on it.
        exporter: as for ``wrap``.

    Raises:
        ModelError: the module cannot be exported.
        TrainingError: what the module answers is not finite.
        InternalError: the smaller model does not answer as the module does, to 1e-4.
    """
    device = next(masks.module.parameters()).device
    inputs = tuple(x.to(device) for x in inputs_of(example))
    with evaluating(masks.module):
        expected = _arrays(masks.module(*inputs))
    if not all(np.isfinite(answer).all() for answer in expected):
        raise TrainingError("the trained module answers with values that are not finite: training diverged")
    with masks.folded() as module:
        dense = exporter(module, inputs)
    runtime = Runtime.create("cpu", 1)
    names = [value.name for value in dense.graph.input]
    feed = {name: x.detach().cpu().numpy() for name, x in zip(names, inputs, strict=False)}
    analysis = Analysis.of(load(dense), partial(runtime.trace, feed=feed))
    selection = living(analysis.channels, analysis.depth)
    model = rewrite.pruned(analysis, selection)
    check_model(model)
    error = _error(expected, list(runtime.session(model).run(feed).values()))
    if not error <= TOLERANCE:
        raise InternalError(f"the smaller model differs from the trained module by {error:.2e}")
    cost = analysis.cost
    return Shrunk(
        model,
        dense,
        (cost.macs, round(analysis.kept("macs", selection))),
        (cost.params, round(analysis.kept("params", selection))),
        {g.name: (len(selection.keep[g.name]), len(g)) for g in analysis.channels.groups},
        error,
    )


def living(channels: Channels, depth: Depth) -> Selection:
    """The channels that something reads: some weight of some consumer is not zero.

    What only removed channels read is dead too. A group that is dead as a whole goes where those who read it
    can do without, and keeps one channel elsewhere.
    """
    removed = np.zeros(channels.count, dtype=bool)
    readers = _readers(channels)
    gone: list[str] = []
    while True:
        dead = ~_read(channels, readers, removed)
        keep = {group.name: np.flatnonzero(~dead[group.channels]) for group in channels.groups}
        empty = [name for name, index in keep.items() if not len(index)]
        gone = depth.most([*gone, *(name for name in empty if name not in gone)])  # what went stays gone
        keep |= {name: np.zeros(1, dtype=np.int64) for name in empty if name not in gone}
        before, removed = removed, removed_channels(channels, keep)
        if np.array_equal(before, removed):
            return Selection(keep)


@dataclass(frozen=True, eq=False)
class _Reader:
    """A contraction: the axis it sums over, and where its stored weight is not zero."""

    data: Axis
    axis: int | None
    axes: tuple[Axis, ...]
    used: np.ndarray | None


def _readers(channels: Channels) -> list[_Reader]:
    # Statistics depend on what no weight reads, too.
    found = [_Reader(axis, None, (), None) for _, n in channels.normalised() for axis in n.data]
    for node, contract in channels.contracts():
        if contract.weight is None:
            found.append(_Reader(contract.data, None, (), None))
            continue
        axis = contract.weight if isinstance(contract.weight, Axis) else contract.weight.axis
        weight = next((t for t in node.x if t is not None and t.name == axis.tensor), None)
        values = None if weight is None else weight.constant
        if weight is None or values is None:
            found.append(_Reader(contract.data, None, (), None))
        else:
            found.append(_Reader(contract.data, axis.axis, tuple(weight.axes), values != 0))
    return found


def _read(channels: Channels, readers: list[_Reader], removed: np.ndarray) -> np.ndarray:
    """Which channels some consumer reads, when the positions of removed ones are gone, bool [count]."""
    read = np.zeros(channels.count, dtype=bool)
    for reader in readers:
        if reader.used is None or reader.axis is None:
            read[channels.of(reader.data)] = True
            continue
        used = reader.used
        for i, axis in enumerate(reader.axes):
            if i != reader.axis:
                used = np.compress(~removed[channels.of(axis)], used, axis=i)
        others = tuple(i for i in range(used.ndim) if i != reader.axis)
        read[channels.of(reader.axes[reader.axis])[used.any(axis=others)]] = True
    return read


def _arrays(result: Tensor | tuple[Tensor, ...]) -> list[np.ndarray]:
    outputs = (result,) if isinstance(result, Tensor) else result
    return [x.detach().cpu().numpy() for x in outputs]


def _error(expected: list[np.ndarray], outputs: list[np.ndarray]) -> float:
    return max(
        float(np.abs(a - b).max(initial=0) / max(np.abs(a).max(initial=0), 1e-9))
        for a, b in zip(expected, outputs, strict=True)
    )

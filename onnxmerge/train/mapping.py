"""Which channel every element of every parameter belongs to, found by the core's channel analysis.

The module is exported with its parameters replaced by marks: every element gets a bit pattern of
its own. Exporters rename, transpose, split and pack weights, and fold those operators away; the
marks come through all of it, so a fold site's weight says of each of its elements which parameter
it was. What arithmetic has touched is no mark any more, and its channels stay without a gate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn

from onnxmerge.channels import Channels
from onnxmerge.channels.analysis import Analysis
from onnxmerge.errors import ModelError
from onnxmerge.graph import load
from onnxmerge.graph.view import Axis, NodeView, Positions
from onnxmerge.runtime import Runtime
from onnxmerge.train.exporting import Example, Exporter, inputs_of

# Bit patterns of float32 between the smallest normal number and infinity.
_FIRST_MARK = 0x00800000
_MARKS = 0x7F800000 - _FIRST_MARK


@dataclass(frozen=True, eq=False)
class ChannelMap:
    """The channels that can have a gate, and where they are in the parameters.

    Attributes:
        analysis: the exported module and its analysis; its weights are marks.
        component: for every gate its channel (component number), int64 [K].
        group: for every gate the number of its group, int64 [K].
        index: by parameter name: for every element its gate, int64, K for none; broadcasts against
            the parameter.
        skipped: channels that stay without a gate, by the reason.
    """

    analysis: Analysis
    component: np.ndarray
    group: np.ndarray
    index: Mapping[str, np.ndarray]
    skipped: Mapping[str, int]

    @property
    def channels(self) -> Channels:
        return self.analysis.channels


def map_channels(module: nn.Module, example: Example, exporter: Exporter) -> ChannelMap:
    """Find the channels of a module.

    Raises:
        ModelError: it cannot be exported or run, or none of its channels can be gated.
    """
    parameters = {name: p for name, p in module.named_parameters() if p.dtype == torch.float32}
    with _marked(parameters):
        proto = exporter(module, example)
    runtime = Runtime.create("cpu", 1)
    names = [value.name for value in proto.graph.input]
    feed = {n: x.detach().cpu().numpy() for n, x in zip(names, inputs_of(example), strict=False)}
    analysis = Analysis.of(load(proto), partial(runtime.trace, feed=feed))
    channels = analysis.channels
    starts = np.cumsum([0, *(p.numel() for p in parameters.values())])
    owner, blocked = _owners(channels, int(starts[-1]))
    for name in _without_access(module):
        if name in parameters:
            number = list(parameters).index(name)
            inside = np.unique(owner[starts[number] : starts[number + 1]])
            reason = "its weight is inside of a recurrent layer"
            blocked |= dict.fromkeys(inside[inside >= 0].tolist(), reason)
    return _compact(analysis, parameters, starts, owner, blocked)


@contextmanager
def _marked(parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
    count = sum(p.numel() for p in parameters.values())
    if count > _MARKS:
        raise ModelError(f"the module has {count} parameters, more than the {_MARKS} that can be followed")
    kept = [p.data for p in parameters.values()]
    start = _FIRST_MARK
    try:
        for p in parameters.values():
            marks = torch.arange(start, start + p.numel(), dtype=torch.int32, device=p.device)
            p.data = marks.view(torch.float32).reshape(p.shape)
            start += p.numel()
        yield
    finally:
        for p, data in zip(parameters.values(), kept, strict=True):
            p.data = data


def _without_access(module: nn.Module) -> Iterator[str]:
    """Parameters that their module reads past its attributes, where no gate can stand."""
    for name, part in module.named_modules():
        if isinstance(part, nn.RNNBase):
            for own, _ in part.named_parameters(recurse=False):
                yield f"{name}.{own}" if name else own


def _owners(channels: Channels, count: int) -> tuple[np.ndarray, dict[int, str]]:
    """For every parameter element the channel that gates it (or -1), and channels that cannot be gated."""
    owner = np.full(count, -1, dtype=np.int64)
    blocked: dict[int, str] = {}
    for node, normalised in channels.normalised():
        reason = f"{node.op} normalises over it"
        for where in normalised.data:
            blocked |= dict.fromkeys(channels.of(where).tolist(), reason)
    for node, contract in channels.contracts():
        carried = channels.of(contract.data)
        axis = contract.weight.axis if isinstance(contract.weight, Positions) else contract.weight
        marks = None if axis is None else _marks(node, axis, count)
        if axis is None or marks is None:
            reason = f"{node.op} sums over it, and no parameter of the module is the other operand"
            blocked |= dict.fromkeys(carried.tolist(), reason)
            continue
        shape = [1] * marks.ndim
        shape[axis.axis] = axis.size
        channel = np.broadcast_to(channels.of(axis).reshape(shape), marks.shape)
        before = owner[marks]
        clash = (before >= 0) & (before != channel)
        if clash.any():
            both = np.union1d(before[clash], channel[clash]).tolist()
            blocked |= dict.fromkeys(both, "two layers use the same parameter in different directions")
        owner[marks] = channel
    return owner, blocked


def _marks(node: NodeView, axis: Axis, count: int) -> np.ndarray | None:
    """Which parameter element each element of a contraction's weight is, or None where some is none."""
    weight = next((t.constant for t in node.x if t is not None and t.name == axis.tensor), None)
    if weight is None or weight.dtype != np.float32:
        return None
    marks = np.ascontiguousarray(weight).view(np.int32).astype(np.int64) - _FIRST_MARK
    return marks if marks.size and marks.min() >= 0 and marks.max() < count else None


def _compact(
    analysis: Analysis,
    parameters: Mapping[str, nn.Parameter],
    starts: np.ndarray,
    owner: np.ndarray,
    blocked: dict[int, str],
) -> ChannelMap:
    channels = analysis.channels
    free = channels.group_of >= 0
    gated = free.copy()
    gated[list(blocked)] = False
    gated &= np.bincount(owner[owner >= 0], minlength=channels.count) > 0
    # In the order of groups, and of positions within them.
    component = np.concatenate([g.channels[gated[g.channels]] for g in channels.groups] or [np.zeros(0, int)])
    if not len(component):
        raise ModelError("no channel of the module can be gated: there is nothing to learn")
    number = np.full(channels.count + 1, len(component), dtype=np.int64)
    number[component] = np.arange(len(component))
    index = {}
    for name, start, p in zip(parameters, starts, parameters.values(), strict=False):
        gates = number[owner[start : start + p.numel()]].reshape(p.shape)
        if (gates < len(component)).any():
            index[name] = _broadcastable(gates)
    skipped: dict[str, int] = {}
    for channel, why in blocked.items():
        if free[channel]:
            skipped[why] = skipped.get(why, 0) + 1
    return ChannelMap(analysis, component, channels.group_of[component], index, skipped)


def _broadcastable(gates: np.ndarray) -> np.ndarray:
    """The smallest array that broadcasts to ``gates``."""
    for axis in range(gates.ndim):
        first = gates.take([0], axis=axis)
        if (gates == first).all():
            gates = first
    return gates

"""What makes channels can be blended: of the stored numbers of several channels one set becomes another.

Where everything that makes the channels of a group is stored, and everything that sums over them is a fold
site, several channels can become one: the numbers that make it are a blend of theirs, and who reads it adds
up the weights that read them.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from onnxmerge.channels.groups import Channels
from onnxmerge.channels.sites import fold_sites
from onnxmerge.graph.view import Axis, NodeView, TensorView


@dataclass(frozen=True, eq=False)
class Blend:
    """New positions along one axis of a stored tensor: weighted sums of the old ones.

    Attributes:
        axis: of the stored tensor.
        into: for every position the one that it goes into, int64 [axis.size]; -1 for nowhere. A position that
            something goes into loses what it had, unless that goes into it, too; all others stay.
        factor: what every position is multiplied by on its way, float64 [axis.size].
    """

    axis: Axis
    into: np.ndarray
    factor: np.ndarray

    def of(self, values: np.ndarray) -> np.ndarray:
        """The tensor with its new positions, in the type of ``values``."""
        new = np.moveaxis(np.array(values), self.axis.axis, 0)
        old = np.moveaxis(values, self.axis.axis, 0)
        for place in np.unique(self.into[self.into >= 0]):
            members = np.flatnonzero(self.into == place)
            new[place] = np.tensordot(self.factor[members], old[members].astype(np.float64), axes=1)
        return np.moveaxis(new, 0, self.axis.axis)


@dataclass(frozen=True, eq=False)
class Maker:
    """A stored tensor that takes part in making channels: a weight's rows, a bias, a scale.

    Attributes:
        axis: the one along which the channels lie.
        node: the one that reads it, which nobody else does.
        place: the number of that input.
    """

    tensor: TensorView
    axis: Axis
    node: NodeView
    place: int


@dataclass(frozen=True, eq=False)
class Making:
    """All that makes the channels of a group.

    Attributes:
        makers: in the order of the graph.
        why_not: why the group cannot be blended; empty where it can.
    """

    makers: tuple[Maker, ...]
    why_not: str = ""


def makings(channels: Channels) -> list[Making]:
    """Of every group what makes its channels."""
    found: dict[int, list[Maker]] = defaultdict(list)
    why_not: dict[int, str] = {}
    summed = _summed(channels, why_not)
    for axis in channels.classes.number:
        if axis.tensor not in channels.view:
            continue
        tensor, numbers = channels.view.tensor(axis.tensor), _groups(channels, axis)
        if not numbers or not tensor.is_constant:
            continue
        places = [(n, i) for n in channels.view.consumers(tensor.name) for i in _inputs(n, tensor.name)]
        readers = {node.index for node, _ in places}
        if readers <= summed[axis.tensor, axis.axis]:
            continue
        for number in numbers:
            reason = _reason(channels, number, axis, tensor, len(places))
            if reason:
                why_not.setdefault(number, reason)
            else:
                found[number].append(Maker(tensor, axis, *places[0]))
    return [
        Making(tuple(sorted(found[i], key=lambda maker: (maker.node.index, maker.place))), why_not.get(i, ""))
        for i in range(len(channels.groups))
    ]


def _summed(channels: Channels, why_not: dict[int, str]) -> dict[tuple[str, int], set[int]]:
    """The nodes that sum over an axis of a stored tensor, by tensor and axis; else a reason is noted."""
    sites = {(site.node.index, site.weight.name, site.axis) for site in fold_sites(channels)}
    summed: dict[tuple[str, int], set[int]] = defaultdict(set)
    for node, contract in channels.contracts():
        where = contract.weight
        axis = where if isinstance(where, Axis) or where is None else where.axis
        if axis is not None and (node.index, axis.tensor, axis.axis) in sites:
            summed[axis.tensor, axis.axis].add(node.index)
            continue
        for number in _groups(channels, contract.data):
            why_not.setdefault(number, f"'{node.name}' sums over its channels without a stored weight")
    return summed


def _reason(channels: Channels, number: int, axis: Axis, tensor: TensorView, reads: int) -> str:
    """Why a stored tensor cannot be blended; empty where it can."""
    if reads != 1 or channels.view.captured(tensor.name):
        return f"'{tensor.name}' is read in more than one place"
    if tensor.source.dtype is None or np.dtype(tensor.source.dtype).kind != "f":
        return f"'{tensor.name}' is not stored in floating point"
    counts = np.bincount(channels.of(axis), minlength=channels.count)[channels.groups[number].channels]
    return "" if np.all(counts == counts[0]) else f"only some of its channels lie in '{tensor.name}'"


def _groups(channels: Channels, axis: Axis) -> list[int]:
    """The groups that have channels on an axis."""
    return [int(n) for n in np.unique(channels.group_of[channels.of(axis)]) if n >= 0]


def _inputs(node: NodeView, name: str) -> list[int]:
    return [i for i, x in enumerate(node.x) if x is not None and x.name == name]

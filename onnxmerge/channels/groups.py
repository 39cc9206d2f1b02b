"""Channels and groups: the connected positions, and which of them are compared with one another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onnxmerge.channels.choices import decide
from onnxmerge.channels.units import AxisClasses, axis_classes, by_axes, connect, edges, frozen_where
from onnxmerge.graph.constants import is_constant, is_sparse
from onnxmerge.graph.view import Axis, GraphView, NodeView
from onnxmerge.operators.relations import (
    Contract,
    Freeze,
    Index,
    Mix,
    Normalise,
    Size,
    Statement,
    Telling,
    Tie,
)
from onnxmerge.operators.table import lookup, relations


@dataclass(frozen=True, eq=False)
class Group:
    """Channels of one width: they lie on the same axes and are compared with one another.

    Attributes:
        name: of the first linear operator that touches the channels; a number follows a name taken before.
        channels: component numbers, int64 [C], in the order of their positions.
        nodes: names of all nodes that the channels pass through, in order.
        chain: whether no sum and no concat couples them with other producers.
    """

    name: str
    channels: np.ndarray
    nodes: tuple[str, ...]
    chain: bool

    def __len__(self) -> int:
        return len(self.channels)


@dataclass(frozen=True, eq=False)
class Channels:
    """The result of channel analysis: every position's channel, the groups, and all reasons to stay away.

    Attributes:
        left_whole: groups that could be touched, and are not because somebody said so.
    """

    view: GraphView
    statements: tuple[Statement, ...]
    classes: AxisClasses
    label: np.ndarray
    groups: tuple[Group, ...]
    frozen: tuple[tuple[Statement, np.ndarray], ...]
    left_whole: tuple[Group, ...] = ()

    def of(self, axis: Axis) -> np.ndarray:
        """The channel (component number) at every position of an axis, int64 [size]."""
        return self.label[self.classes.ids(axis)]

    @cached_property
    def count(self) -> int:
        return int(self.label.max(initial=-1)) + 1

    @cached_property
    def group_of(self) -> np.ndarray:
        """For every channel the number of its group, or -1 where it is frozen."""
        number = np.full(self.count, -1, dtype=np.int64)
        for i, group in enumerate(self.groups):
            number[group.channels] = i
        return number

    def contracts(self) -> list[tuple[NodeView, Contract]]:
        """All contractions, in topological order of their nodes."""
        return self._contracts

    @cached_property
    def _contracts(self) -> list[tuple[NodeView, Contract]]:
        return [(s.node, s.relation) for s in self.statements if s.node and isinstance(s.relation, Contract)]

    def normalised(self) -> list[tuple[NodeView, Normalise]]:
        return [(s.node, s.relation) for s in self.statements if s.node and isinstance(s.relation, Normalise)]

    def sizes(self) -> list[tuple[NodeView, Size]]:
        return [(s.node, s.relation) for s in self.statements if s.node and isinstance(s.relation, Size)]

    def indices(self) -> list[tuple[NodeView, Index]]:
        return [(s.node, s.relation) for s in self.statements if s.node and isinstance(s.relation, Index)]


def find_channels(view: GraphView) -> Channels:
    """Find the channels of a graph.

    Every position of every axis gets a component number; components with a frozen position stay.
    Channels on the same axis classes form a group.
    """
    stated = [*_borders(view)]
    for node in view:
        if not is_constant(node.source):
            stated += [Statement(node, relation) for relation in relations(node)]
    axes = _all_axes(view)
    statements = decide(axes, stated)
    decided = [s.relation for s in statements]
    classes = axis_classes(axes, decided)
    label = connect(classes.total, edges(classes, decided))
    frozen = _frozen(classes, label, statements)
    blocked = np.zeros(int(label.max(initial=-1)) + 1, dtype=bool)
    for _, components in frozen:
        blocked[components] = True
    groups = _groups(view, classes, label, blocked, statements)
    return Channels(view, tuple(statements), classes, label, groups, frozen)


def _all_axes(view: GraphView) -> list[Axis]:
    axes: dict[Axis, None] = {}
    for name in [*view.inputs, *view.outputs]:
        if name in view:
            axes |= dict.fromkeys(view.tensor(name).axes)
    for node in view:
        for tensor in node.tensors:
            axes |= dict.fromkeys(tensor.axes)
    return list(axes)


def _borders(view: GraphView) -> Iterator[Statement]:
    """Inputs, outputs and values that subgraphs use are the model's interface with the world."""
    for names, why in ((view.outputs, "graph output"), (view.inputs, "graph input")):
        for name in names:
            if name in view:
                reason = f"{why} '{name}'"
                for axis in view.tensor(name).axes:
                    yield Statement(None, Freeze(axis, reason, Telling.BORDER))
    for node in view:
        for tensor in node.tensors:
            why = ""
            if view.captured(tensor.name):
                why = f"'{tensor.name}' is used inside of a subgraph"
            elif is_sparse(tensor.source):
                why = f"'{tensor.name}' is stored sparse"
            if why:
                yield from (Statement(node, Freeze(axis, why)) for axis in tensor.axes)


def _frozen(
    classes: AxisClasses, label: np.ndarray, statements: Sequence[Statement]
) -> tuple[tuple[Statement, np.ndarray], ...]:
    return tuple(
        (s, np.unique(label[classes.ids(frozen_where(s.relation))]))
        for s in statements
        if isinstance(s.relation, Mix | Freeze)
    )


def _groups(
    view: GraphView,
    classes: AxisClasses,
    label: np.ndarray,
    blocked: np.ndarray,
    statements: Sequence[Statement],
) -> tuple[Group, ...]:
    ids = np.flatnonzero(~blocked[label])
    first_position = np.full(len(blocked), classes.total, dtype=np.int64)
    np.minimum.at(first_position, label[ids], ids)
    members = by_axes(classes, label, ids)
    described = _Description(view, classes, statements)
    groups = []
    for signature, channels in members.items():
        if len(channels) > 1:
            order = np.array(channels)[np.argsort(first_position[channels], kind="stable")]
            groups.append((described.order(signature), order, described.nodes(signature), signature))
    groups.sort(key=lambda g: g[0])
    names: dict[str, int] = {}
    result = []
    for _, order, nodes, signature in groups:
        name = described.name(signature)
        names[name] = names.get(name, 0) + 1
        unique = name if names[name] == 1 else f"{name}#{names[name]}"
        result.append(Group(unique, order, nodes, described.chain(signature)))
    return tuple(result)


# The axis classes that the channels of a group lie on, ascending.
Signature = tuple[int, ...]


class _Description:
    """What a person wants to know of axis classes: nodes, a name, whether sums or concats join them."""

    def __init__(self, view: GraphView, classes: AxisClasses, statements: Sequence[Statement]):
        self._nodes: dict[int, dict[int, NodeView]] = {}
        self._joined: set[int] = set()
        for node in view:
            if is_constant(node.source):
                continue
            for tensor in node.tensors:
                for axis in tensor.axes:
                    self._nodes.setdefault(classes.number[axis], {})[node.index] = node
        for s in statements:
            if isinstance(s.relation, Tie) and s.relation.joins:
                for where in (s.relation.a, s.relation.b):
                    axis = where if isinstance(where, Axis) else where.axis
                    self._joined.add(classes.number[axis])

    def _all(self, signature: Signature) -> dict[int, NodeView]:
        return {i: node for number in signature for i, node in self._nodes.get(number, {}).items()}

    def order(self, signature: Signature) -> int:
        return min(self._all(signature), default=0)

    def nodes(self, signature: Signature) -> tuple[str, ...]:
        found = self._all(signature)
        return tuple(found[i].name for i in sorted(found))

    def name(self, signature: Signature) -> str:
        found = self._all(signature)
        linear = [i for i in sorted(found) if (op := lookup(found[i])) is not None and op.linear is not None]
        first = found[linear[0] if linear else min(found)]
        return first.name

    def chain(self, signature: Signature) -> bool:
        return not any(number in self._joined for number in signature)

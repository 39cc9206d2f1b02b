"""Which groups may be left without a channel, and what becomes of the graph then.

A contraction over no channels is its bias: a tensor that is the same everywhere but along its channels.
Such a tensor goes on through the operators that keep it so, until a sum or a product with another tensor
takes it in. A group may go where all that comes of it is taken in.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from heapq import heappop, heappush

import numpy as np

from onnxmerge.channels.groups import Channels
from onnxmerge.graph.view import NodeView
from onnxmerge.operators.indexing import is_concat
from onnxmerge.operators.pointwise import is_sum
from onnxmerge.operators.relations import Contract
from onnxmerge.operators.uniform import Shape, of_nothing, of_uniform, takes_uniform


@dataclass(frozen=True, eq=False)
class Fate:
    """What becomes of a graph when some channels go.

    Attributes:
        possible: whether everything can still be computed that is needed.
        empty: the tensors of no channels.
        uniform: the tensors that are the same everywhere but along their channels, by what represents them.
    """

    depth: Depth = field(repr=False)
    possible: bool
    empty: frozenset[str]
    uniform: Mapping[str, Shape]

    @cached_property
    def live(self) -> frozenset[int]:
        """The numbers of the nodes that are still needed."""
        return frozenset(self.depth.needed({*self.empty, *self.uniform})[0])


@dataclass(frozen=True, eq=False)
class Depth:
    """What can be left out of a model altogether."""

    channels: Channels
    _known: dict[frozenset[int], Fate] = field(default_factory=dict, repr=False)
    _named: dict[frozenset[str], Fate] = field(default_factory=dict, repr=False)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The groups that may go, each alone."""
        return tuple(g.name for g in self.channels.groups if self.together([g.name]))

    def together(self, names: Iterable[str]) -> bool:
        """Whether these groups may all go at once."""
        return self.of(names).possible

    def most(self, names: Iterable[str]) -> list[str]:
        """Those of these groups that may go together, the first ones first."""
        found: list[str] = []
        for name in names:
            if self.together([*found, name]):
                found.append(name)
        return found

    def followers(self, names: Iterable[str]) -> frozenset[str]:
        """The other groups that nothing reads any more when these go."""
        gone = frozenset(names)
        live = self.of(gone).live
        unread = {
            self.channels.groups[number].name
            for number, readers in self._readers.items()
            if not any(reader in live for reader in readers)
        }
        return frozenset(unread - gone) if gone else frozenset()

    def of(self, names: Iterable[str]) -> Fate:
        """What becomes of the graph when these groups go."""
        gone = frozenset(names)
        if gone not in self._named:
            removed = np.zeros(self.channels.count, dtype=bool)
            for group in self.channels.groups:
                removed[group.channels] = group.name in gone
            self._named[gone] = self.fate(removed)
        return self._named[gone]

    def fate(self, removed: np.ndarray) -> Fate:
        """What becomes of the graph when the channels in bool [channels.count] go."""
        gone, sizes = removed[self.channels.label], self.channels.classes.size
        counts = np.add.reduceat(gone, self.channels.classes.offset) if len(gone) else sizes
        return self.without(np.flatnonzero((counts == sizes) & (sizes > 0)))

    def without(self, classes: Iterable[int]) -> Fate:
        """What becomes of the graph when nothing is left of some axis classes."""
        key = frozenset(int(number) for number in classes)
        if key not in self._known:
            empty = frozenset(name for number in key for name in self._tensors.get(number, ()))
            self._known[key] = _Descent(self, empty).fate()
        return self._known[key]

    @cached_property
    def contracts(self) -> Mapping[int, list[Contract]]:
        """The contractions of every node, by its number."""
        found = defaultdict(list)
        for node, contract in self.channels.contracts():
            found[node.index].append(contract)
        return found

    def needed(self, settled: Collection[str]) -> tuple[set[int], set[str]]:
        """The nodes that are still needed where some tensors are known, and all that they read or make."""
        view = self.channels.view
        nodes: set[int] = set()
        tensors = set(self.roots)
        ahead = list(tensors)
        while ahead:
            node = view.producer(ahead.pop())
            if node is None or node.index in nodes:
                continue
            nodes.add(node.index)
            reads = {x.name for x in node.source.inputs if x.name} - tensors
            reads = {name for name in reads if name not in settled}
            tensors |= reads
            ahead += reads
        return nodes, tensors

    @cached_property
    def roots(self) -> frozenset[str]:
        """What must be computed: the graph outputs, and what subgraphs read."""
        view = self.channels.view
        made = [y.name for node in view for y in node.y if y is not None]
        return frozenset([*view.outputs, *(name for name in made if view.captured(name))])

    @cached_property
    def dependent(self) -> set[str]:
        """The tensors that depend on a graph input: others may be of another shape than at batch 1."""
        found = set(self.channels.view.inputs)
        for node in self.channels.view:
            if any(x is not None and x.name in found for x in node.x):
                found |= {y.name for y in node.y if y is not None}
        return found

    @cached_property
    def _tensors(self) -> Mapping[int, set[str]]:
        """The tensors of every axis class."""
        found = defaultdict(set)
        for axis, number in self.channels.classes.number.items():
            found[number].add(axis.tensor)
        return found

    @cached_property
    def _readers(self) -> Mapping[int, set[int]]:
        """The nodes that sum over channels of every group, by its number."""
        found = defaultdict(set)
        for node, contract in self.channels.contracts():
            for number in np.unique(self.channels.group_of[self.channels.of(contract.data)]):
                if number >= 0:
                    found[int(number)].add(node.index)
        return found


class _Descent:
    """One pass down the graph, from the tensors of no channels, for what becomes of those behind them."""

    def __init__(self, depth: Depth, empty: frozenset[str]):
        self._depth, self._view, self._empty = depth, depth.channels.view, empty
        self._uniform: dict[str, Shape] = {}
        self._broken: set[str] = set()
        self._refused = False
        self._ahead: list[int] = []

    def fate(self) -> Fate:
        for name in self._empty:
            maker = self._view.producer(name)
            self._visit([*self._view.consumers(name), *([maker] if maker is not None else [])])
        last = -1
        while self._ahead:
            number = heappop(self._ahead)
            if number > last:
                last = number
                self._pass(self._view.nodes[number])
        return Fate(self._depth, self._possible(), self._empty, self._uniform)

    def _visit(self, nodes: Iterable[NodeView]) -> None:
        for node in nodes:
            heappush(self._ahead, node.index)

    def _possible(self) -> bool:
        settled = {*self._empty, *self._uniform}
        if self._refused or settled & self._depth.roots:
            return False
        if not self._broken:
            return True
        # All of the graph is needed, but for what only leads to settled tensors.
        made = {name: maker.index for name in settled if (maker := self._view.producer(name)) is not None}
        last = max(made.values(), default=-1)
        makers = (self._view.producer(name) for name in self._broken)
        if any(maker is not None and maker.index > last for maker in makers):
            return False
        return not self._broken & self._depth.needed(settled)[1]

    def _pass(self, node: NodeView) -> None:
        """Decide what becomes of a node's outputs."""
        outputs = [y for y in node.y if y is not None]
        left = [y for y in outputs if y.name not in self._empty]
        inputs = [x for x in node.x if x is not None]
        if len(left) < len(outputs):
            # Who only makes what goes, goes too; but a residual stream stays.
            computed = sum(not x.is_constant for x in inputs)
            self._refused |= is_sum(node) and computed > 1 and all(x.name in self._empty for x in inputs)
            self._broken |= {y.name for y in left}
            return
        empty = {i for i, x in enumerate(node.x) if x is not None and x.name in self._empty}
        uniform = {
            i: self._uniform[x.name]
            for i, x in enumerate(node.x)
            if x is not None and x.name in self._uniform
        }
        shape = None
        if empty and (not is_concat(node) or uniform):
            contracts = self._depth.contracts.get(node.index, ())
            sums = len(contracts) == 1 and contracts[0].operand == 0 and empty == {0, 1}
            shape = of_nothing(node) if sums else None
        elif empty or (uniform and self._taken(node, uniform)):
            return
        elif uniform:
            others = (x for i, x in enumerate(node.x) if x is not None and i not in uniform)
            shape = of_uniform(node, uniform) if all(x.is_constant for x in others) else None
        if shape is None:
            self._broken |= {y.name for y in left}
            return
        for y in left:
            self._uniform[y.name] = shape
            self._visit(self._view.consumers(y.name))

    def _taken(self, node: NodeView, uniform: Mapping[int, Shape]) -> bool:
        """Whether another operand, which depends on the input, gives the output its shape."""
        others = [x for i, x in enumerate(node.x) if x is not None and i not in uniform and not x.is_constant]
        return any(x.name in self._depth.dependent for x in others) and takes_uniform(node, uniform)

"""The graph as operator rules see it: nodes with concrete shapes, constants and attributes.

A view is read-only. Shapes are those of one real run (batch 1), so they are known whatever
the exporter left out; lengths that depend on the input are told apart by their source, the
graph inputs, which are never touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import onnx_graphsurgeon as gs

from onnxmerge.graph.canonicalize.shape_values import (
    CHAIN_OPERATORS,
    SHAPE_OPERANDS,
    Dim,
    Element,
    ShapeValues,
    is_choice,
    is_comparison,
)
from onnxmerge.graph.constants import constant_tensor, constant_values


@dataclass(frozen=True)
class Axis:
    """One axis of one tensor; ``size`` is its length in positions."""

    tensor: str
    axis: int
    size: int

    def __str__(self) -> str:
        return f"{self.tensor}[{self.axis}]"

    @property
    def all(self) -> Positions:
        """Every position, in order."""
        return Positions(self, np.arange(self.size))

    def take(self, index: Iterable[int] | np.ndarray) -> Positions:
        """The positions at ``index`` (int64), in that order, repetition allowed."""
        return Positions(self, np.asarray(index, dtype=np.int64))

    def span(self, start: int, count: int) -> Positions:
        """``count`` consecutive positions from ``start``."""
        return Positions(self, np.arange(start, start + count))

    def blocks(self, n: int) -> Positions:
        """Every position ``n`` times in a row: 0 0 0 1 1 1 ... (each owns a block of n)."""
        return Positions(self, np.repeat(np.arange(self.size), n))

    def tiles(self, n: int) -> Positions:
        """All positions, ``n`` times over: 0 1 2 ... 0 1 2 ... (each owns one place in every tile)."""
        return Positions(self, np.tile(np.arange(self.size), n))


@dataclass(frozen=True, eq=False)
class Positions:
    """A list of positions of one axis, as int64 indices."""

    axis: Axis
    index: np.ndarray

    def __len__(self) -> int:
        return len(self.index)

    @property
    def whole(self) -> bool:
        """Whether these are all positions of the axis in order."""
        return len(self.index) == self.axis.size and np.array_equal(self.index, np.arange(self.axis.size))

    def __str__(self) -> str:
        return str(self.axis) if self.whole else f"{self.axis}{summarize(self.index)}"


def summarize(index: np.ndarray, most: int = 6) -> str:
    """A short text for an index list, for golden tests and error messages."""
    index = np.asarray(index)
    if len(index) > 1 and np.array_equal(index, np.arange(index[0], index[0] + len(index))):
        return f"{{{index[0]}..{index[-1]}}}"
    text = ",".join(str(i) for i in index[:most])
    return f"{{{text}{',..' if len(index) > most else ''}}}"


@dataclass(frozen=True)
class TensorView:
    """A tensor as a node's input or output: its name, concrete shape and, if constant, its values."""

    name: str
    shape: tuple[int, ...]
    source: gs.Tensor

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def constant(self) -> np.ndarray | None:
        """The values of a constant, else None. Large weights are loaded when this is asked for."""
        return constant_values(self.source)

    @property
    def is_constant(self) -> bool:
        return constant_tensor(self.source) is not None

    def __getitem__(self, axis: int) -> Axis:
        """The axis with this number; negative numbers count from the end."""
        if not -self.rank <= axis < self.rank:
            raise IndexError(f"tensor '{self.name}' of rank {self.rank} has no axis {axis}")
        axis %= self.rank
        return Axis(self.name, axis, self.shape[axis])

    @property
    def axes(self) -> list[Axis]:
        return [self[i] for i in range(self.rank)]


class NodeView:
    """One node as its rule sees it: ``x`` the inputs and ``y`` the outputs, None where left out."""

    def __init__(self, node: gs.Node, index: int, graph: GraphView):
        self._graph = graph
        self.source = node
        self.index = index
        self.op = node.op
        self.domain = node.domain or ""
        self.opset = graph.opset
        self._shapes = graph.shapes

    @property
    def name(self) -> str:
        """The node's name, or operator and first output where it has none."""
        return self.source.name or f"{self.op}:{next((t.name for t in self.source.outputs if t.name), '?')}"

    @cached_property
    def x(self) -> list[TensorView]:
        """The inputs. One that was left out is None all the same: ask ``input`` for optional ones.

        Typed as if all were there, because rules index what an operator cannot do without; a node that
        lacks it makes its rule fail, and is frozen.
        """
        return self._views(self.source.inputs)

    @cached_property
    def y(self) -> list[TensorView]:
        """The outputs, None in place of those that were left out; see ``x``."""
        return self._views(self.source.outputs)

    def _views(self, tensors: Iterable[gs.Tensor]) -> list[TensorView]:
        views = [
            TensorView(t.name, self._shapes[t.name], t) if t.name and t.name in self._shapes else None
            for t in tensors
        ]
        return cast(list[TensorView], views)

    def input(self, i: int) -> TensorView | None:
        """The i-th input, or None where it is absent or left out."""
        return self.x[i] if i < len(self.x) else None

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute's value, or ``default``."""
        return self.source.attrs.get(name, default)

    def elements(self, i: int) -> list[Element] | None:
        """The numbers in the i-th input where it is a shape: known, lengths of axes, or computed (None)."""
        return self._graph.values.elements(self.source.inputs[i])

    def axis_of(self, dim: Dim) -> Axis | None:
        """The axis whose length an element is."""
        shape = self._shapes.get(dim.tensor)
        return None if shape is None else Axis(dim.tensor, dim.axis, shape[dim.axis])

    @property
    def measured(self) -> list[Axis]:
        """For a Shape node: the axes of its input whose length is used for more than shape operands."""
        x = self.x[0]
        return [x[i] for i in self._graph.measured(self.source)] if x is not None else []

    @property
    def tensors(self) -> Iterator[TensorView]:
        """All inputs and outputs that are present."""
        yield from (t for t in [*self.x, *self.y] if t is not None)

    def __str__(self) -> str:
        return f"{self.op} '{self.name}'"


class GraphView:
    """All nodes of the main graph in topological order, and who makes and uses each tensor.

    Args:
        graph: a topologically sorted working graph.
        shapes: the concrete shape of every tensor, constants included.
    """

    def __init__(self, graph: gs.Graph, shapes: Mapping[str, tuple[int, ...]]):
        self.graph = graph
        self.shapes = dict(shapes)
        for name, tensor in graph.tensors().items():
            if isinstance(tensor, gs.Constant):
                self.shapes[name] = tuple(tensor.shape)
        self.opset = graph.opset or 1
        self.values = ShapeValues({name: len(shape) for name, shape in self.shapes.items()})
        self.nodes = [NodeView(node, i, self) for i, node in enumerate(graph.nodes)]
        self.inputs = [tensor.name for tensor in graph.inputs]
        self.outputs = [tensor.name for tensor in graph.outputs]
        self._tensors = graph.tensors()
        self._of_node = {id(node.source): node for node in self.nodes}

    def tensor(self, name: str) -> TensorView:
        return TensorView(name, self.shapes[name], self._tensors[name])

    def __contains__(self, name: str) -> bool:
        return name in self.shapes and name in self._tensors

    def producer(self, name: str) -> NodeView | None:
        """The node that computes a tensor, or None for graph inputs and constants."""
        makers = self._tensors[name].inputs if name in self._tensors else []
        return self._of_node.get(id(makers[0])) if makers else None

    def consumers(self, name: str) -> list[NodeView]:
        """The nodes of the main graph that use a tensor, each once, in order."""
        users = {id(node): node for node in self._tensors[name].outputs}
        return [self._of_node[key] for key in users if key in self._of_node]

    def captured(self, name: str) -> bool:
        """Whether a subgraph (the body of an If, Loop or Scan) uses a tensor of the main graph."""
        return any(id(node) not in self._of_node for node in self._tensors[name].outputs)

    def measured(self, node: gs.Node) -> list[int]:
        """The axes that a Shape node measures for more than shape operands.

        Its numbers are followed through operators on integers. Where they leave these (arithmetic, graph
        outputs, subgraphs), the lengths among them must not change.
        """
        source = node.inputs[0].name
        axes: set[int] = set()
        pending = list(node.outputs)
        while pending:
            tensor = pending.pop()
            elements = self.values.elements(tensor)
            if elements is None:
                return list(range(len(self.shapes[source])))
            following = self._followed(tensor)
            if following is None:
                axes |= {e.axis for e in elements if isinstance(e, Dim) and e.tensor == source}
            else:
                pending += following
        return sorted(axes)

    def _followed(self, tensor: gs.Tensor) -> list[gs.Tensor] | None:
        """The integers computed from integers; None where some use of them cannot be followed."""
        if tensor.name in self.outputs or self.captured(tensor.name):
            return None
        following: list[gs.Tensor] = []
        for node in tensor.outputs:
            if all((node.op, i) in SHAPE_OPERANDS for i, x in enumerate(node.inputs) if x is tensor):
                continue
            if is_comparison(node.outputs[0]):
                answer = node.outputs[0]
                chosen = [y for user in answer.outputs for y in user.outputs]
                if answer.name in self.outputs or any(self.values.elements(y) is None for y in chosen):
                    return None
                following += chosen
            elif node.op in CHAIN_OPERATORS or is_choice(node):
                following += node.outputs
            else:
                return None
        return following

    def __iter__(self) -> Iterator[NodeView]:
        return iter(self.nodes)

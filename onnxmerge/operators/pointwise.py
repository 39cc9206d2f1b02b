"""Operators that treat every position alike: activations, arithmetic, comparisons, selection."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import onnx_graphsurgeon as gs

from onnxmerge.graph.view import NodeView, TensorView
from onnxmerge.operators.relations import Freeze, Mix, Relation, Tie
from onnxmerge.operators.traits import Node, name_of

# Where several computed operands meet in one tensor.
_SUMS = ("Add", "Mean", "Sub", "Sum")
# Doing them twice is doing them once.
_IDEMPOTENT = ("Clip", "Relu")


def broadcast(
    inputs: Iterable[TensorView | None], y: TensorView, *, joins: bool = False
) -> Iterator[Relation]:
    """Multidirectional broadcasting: axes are aligned from the right; a length of 1 ties nothing."""
    for x in inputs:
        if x is None:
            continue
        for axis in range(x.rank, 0, -1):
            if x[-axis].size == y[-axis].size:
                yield Tie(x[-axis], y[-axis], joins=joins)


def pointwise(node: NodeView) -> Iterator[Relation]:
    """Every output element depends on the input elements at its own place."""
    data = [x for x in node.x if x is not None]
    joins = is_sum(node) and sum(not x.is_constant for x in data) > 1
    for y in node.y:
        if y is not None:
            yield from broadcast(data, y, joins=joins)


def same_axes(node: NodeView) -> Iterator[Relation]:
    """The first input and every output share their axes one by one; other inputs are parameters."""
    x = node.x[0]
    for y in node.y:
        if y is not None and y.rank == x.rank:
            for i in range(x.rank):
                if x[i].size == y[i].size:
                    yield Tie(x[i], y[i])


def softmax(node: NodeView) -> Iterator[Relation]:
    """Softmax, LogSoftmax, Hardmax: over one axis (before opset 13: over all from that axis on)."""
    x, y = node.x[0], node.y[0]
    mixed = _softmax_axes(node, x.rank)
    yield from same_axes(node)
    for axis in mixed:
        yield Mix(y[axis], f"{node.op} normalises over it")


def _softmax_axes(node: NodeView, rank: int) -> list[int]:
    if node.opset >= 13:
        return [node.attr("axis", -1) % rank]
    return list(range(node.attr("axis", 1) % rank, rank))


def cumulative(node: NodeView) -> Iterator[Relation]:
    """CumSum and CumProd run along one axis."""
    axis = node.input(1)
    yield from same_axes(node)
    if axis is None or axis.constant is None:
        for a in node.x[0].axes:
            yield Freeze(a, f"the axis of {node.op} is computed")
    else:
        yield Mix(node.y[0][int(axis.constant.reshape(-1)[0])], f"{node.op} runs along it")


def bias_activation(node: NodeView) -> Iterator[Relation]:
    """BiasGelu, FastGelu: an activation with an optional bias on the last axis."""
    yield from broadcast(node.x, node.y[0])


def dynamic_quantize(node: NodeView) -> Iterator[Relation]:
    """DynamicQuantizeLinear: the scale depends on all elements."""
    yield from same_axes(node)
    for axis in node.x[0].axes:
        yield Mix(axis, "its quantisation range is taken over all elements")


def is_sum(node: Node) -> bool:
    """Whether a node adds, subtracts or averages its operands."""
    return name_of(node) in _SUMS


def adds(node: Node) -> bool:
    """Whether a node adds all of its operands as they are."""
    return name_of(node) in ("Add", "Sum")


def is_add(node: Node) -> bool:
    """Whether a node is an Add."""
    return name_of(node) == "Add"


def is_identity(node: Node) -> bool:
    """Whether a node hands on its first input as it is, at inference."""
    return name_of(node) in ("Dropout", "Identity")


def handed_on(node: gs.Node, values: Callable[[gs.Tensor], np.ndarray | None]) -> gs.Tensor | None:
    """The input that a node hands on as it is, or None.

    Args:
        values: of a stored tensor; None for a computed one.
    """

    def is_zero(tensor: gs.Tensor) -> bool:
        stored = values(tensor)
        return stored is not None and not np.any(stored)

    match node.op, list(node.inputs):
        case "Concat" | "Identity", [x]:
            return x
        case "Add", [a, b]:
            return a if is_zero(b) else b if is_zero(a) else None
        case "Sub", [a, b]:
            return a if is_zero(b) else None
        case op, [x, *bounds] if op in _IDEMPOTENT and len(x.inputs) == 1:
            before = x.inputs[0]
            same = len(before.inputs) == len(bounds) + 1 and all(
                a is b for a, b in zip(before.inputs[1:], bounds, strict=True)
            )
            return x if before.op == op and before.attrs == node.attrs and same else None
    return None

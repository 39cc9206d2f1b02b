"""Reductions and pooling."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxmerge.graph.view import NodeView
from onnxmerge.operators.relations import Contract, Freeze, Mix, Relation, Tie

# A position that is zero adds nothing to these: removing equals masking.
_SUMS = {"ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum"}


def reduced_axes(node: NodeView) -> list[int] | None:
    """The axes that a Reduce* works on, non-negative; None where they are computed."""
    rank = node.x[0].rank
    axes = node.attr("axes")
    operand = node.input(1)
    if operand is not None:
        if operand.constant is None:
            return None
        axes = operand.constant.reshape(-1).tolist()
    if not axes:
        return [] if node.attr("noop_with_empty_axes", 0) else list(range(rank))
    return [int(a) % rank for a in axes]


def reduce(node: NodeView) -> Iterator[Relation]:
    """ReduceSum and its kin contract, so does a mean; maximum, product and the like mix."""
    x, y = node.x[0], node.y[0]
    axes = reduced_axes(node)
    if axes is None:
        yield from (Freeze(axis, f"the axes of {node.op} are computed") for axis in [*x.axes, *y.axes])
        return
    yield from _remaining(node, axes)
    for axis in axes:
        if node.op in _SUMS:
            yield Contract(x[axis], None)
        elif node.op == "ReduceMean" and np.dtype(x.source.dtype or np.float32).kind == "f":
            yield Contract(x[axis], None, average=True)
        else:
            yield Mix(x[axis], f"{node.op} reduces over it")


def arg_reduce(node: NodeView) -> Iterator[Relation]:
    """ArgMax, ArgMin: positions of the axis become values."""
    axis = node.attr("axis", 0) % node.x[0].rank
    yield from _remaining(node, [axis])
    yield Mix(node.x[0][axis], f"{node.op} turns its positions into numbers")


def _remaining(node: NodeView, axes: list[int]) -> Iterator[Relation]:
    x, y = node.x[0], node.y[0]
    kept = 0
    for i in range(x.rank):
        if i in axes:
            kept += 1 if node.attr("keepdims", 1) else 0
        else:
            yield Tie(x[i], y[kept])
            kept += 1


def top_k(node: NodeView) -> Iterator[Relation]:
    """TopK orders one axis; the others pass."""
    x = node.x[0]
    axis = node.attr("axis", -1) % x.rank
    for y in (y for y in node.y if y is not None):
        yield from (Tie(x[i], y[i]) for i in range(x.rank) if i != axis)
    yield Mix(x[axis], "TopK orders it")


def pool(node: NodeView) -> Iterator[Relation]:
    """Pooling works on the axes from 2 on; MaxPool's second output holds indices into all of them."""
    x, y = node.x[0], node.y[0]
    yield Tie(x[0], y[0])
    yield Tie(x[1], y[1])
    if len(node.y) > 1 and node.y[1] is not None:
        yield Tie(y[1], node.y[1][1])
        yield Freeze(node.y[1][1], f"{node.op} outputs indices over all channels")


def region_pool(node: NodeView) -> Iterator[Relation]:
    """RoiAlign, MaxRoiPool, GridSample: samples of X [N, C, H, W]; channels pass."""
    yield Tie(node.x[0][1], node.y[0][1])

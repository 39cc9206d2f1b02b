"""Operators that pick, join and extend positions of an axis."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxmerge.graph.view import NodeView, TensorView
from onnxmerge.operators.relations import Freeze, Index, Relation, Size, Slot, Tie
from onnxmerge.operators.traits import Node, name_of


def concat(node: NodeView) -> Iterator[Relation]:
    """Inputs lie one after the other along one axis."""
    y = node.y[0]
    axis = node.attr("axis", 1) % y.rank
    start = 0
    several = sum(x is not None and x.shape[axis] > 0 for x in node.x) > 1
    for x in node.x:
        if x is None:
            continue
        yield Tie(x[axis], y[axis].span(start, x[axis].size), joins=several)
        start += x[axis].size
        yield from (Tie(x[i], y[i]) for i in range(y.rank) if i != axis and x[i].size == y[i].size)


def is_concat(node: Node) -> bool:
    """Whether a node lays its inputs one after the other."""
    return name_of(node) == "Concat"


def split(node: NodeView) -> Iterator[Relation]:
    """Outputs are consecutive parts of the input; their sizes are stated, or will be."""
    x = node.x[0]
    axis = node.attr("axis", 0) % x.rank
    place: str | int = "split" if node.opset < 13 else 1
    operand = node.input(1)
    if node.opset >= 13 and operand is not None and operand.constant is None:
        yield from (Freeze(t[axis], "the sizes of Split are computed") for t in node.tensors if t.rank > axis)
        return
    start = 0
    for number, y in enumerate(node.y):
        if y is None:
            yield Freeze(x[axis], "an output of Split is left out")
            return
        yield Tie(x[axis].span(start, y[axis].size), y[axis])
        yield Size(Slot(place, number), y[axis])
        start += y[axis].size
        yield from (Tie(x[i], y[i]) for i in range(x.rank) if i != axis)


def slice_(node: NodeView) -> Iterator[Relation]:
    """Slice with constant bounds: the bounds count the positions that remain before them."""
    x, y = node.x[0], node.y[0]
    bounds = _slice_bounds(node)
    if bounds is None:
        unknown = list(range(x.rank))
        axes = node.input(3)
        if axes is not None and axes.constant is not None:
            unknown = [int(a) % x.rank for a in axes.constant.reshape(-1)]
        for i in range(x.rank):
            if i in unknown:
                yield Freeze(x[i], "the bounds of Slice are computed")
                yield Freeze(y[i], "the bounds of Slice are computed")
            else:
                yield Tie(x[i], y[i])
        return
    sliced = set()
    for number, (axis, start, end, step) in enumerate(bounds):
        kept = np.arange(x[axis].size)[start:end:step]
        sliced.add(axis)
        if len(kept) != y[axis].size:
            yield Freeze(x[axis], "Slice does not give the length that was observed")
        elif step != 1:
            yield Freeze(x[axis], f"Slice takes every {step}. position")
        else:
            first = int(kept[0]) if len(kept) else 0
            yield Tie(x[axis].take(kept), y[axis])
            if len(kept) < x[axis].size:
                places: tuple[str | int, str | int] = ("starts", "ends") if node.opset < 10 else (1, 2)
                yield Size(Slot(places[0], number), x[axis].span(0, first))
                yield Size(Slot(places[1], number), x[axis].span(0, first + len(kept)))
    yield from (Tie(x[i], y[i]) for i in range(x.rank) if i not in sliced)


def _slice_bounds(node: NodeView) -> list[tuple[int, int, int, int]] | None:
    """(axis, start, end, step) of every sliced axis, or None where some of it is computed."""
    rank = node.x[0].rank
    if node.opset < 10:
        starts, ends = node.attr("starts"), node.attr("ends")
        axes, steps = node.attr("axes", range(len(starts))), [1] * len(starts)
    else:
        operands = [node.input(i) for i in range(1, 5)]
        if any(o is not None and o.constant is None for o in operands):
            return None
        starts, ends, stated, strides = (_numbers(o) for o in operands)
        if starts is None or ends is None:
            return None
        axes = list(range(len(starts))) if stated is None else stated
        steps = [1] * len(starts) if strides is None else strides
    return [
        (int(a) % rank, int(s), int(e), int(t)) for a, s, e, t in zip(axes, starts, ends, steps, strict=True)
    ]


def _numbers(operand: TensorView | None) -> list[int] | None:
    """The stored values of an operand, flat; None where it is absent or computed."""
    stored = None if operand is None else operand.constant
    return None if stored is None else stored.reshape(-1).tolist()


def gather(node: NodeView) -> Iterator[Relation]:
    """Gather: constant indices renumber themselves; computed ones freeze the axis they index."""
    x, index, y = node.x[0], node.x[1], node.y[0]
    axis = node.attr("axis", 0) % x.rank
    yield from (Tie(x[i], y[i]) for i in range(axis))
    yield from (Tie(x[i], y[i + index.rank - 1]) for i in range(axis + 1, x.rank))
    values = index.constant
    if values is None or index.rank != 1:
        yield Freeze(x[axis], "Gather indexes it")
        yield from (Tie(index[i], y[axis + i]) for i in range(index.rank) if values is None)
        return
    yield Tie(index[0], y[axis])
    yield Tie(x[axis].take(np.where(values < 0, values + x[axis].size, values)), y[axis])
    yield Index(Slot(1), x[axis])


def gather_nd(node: NodeView) -> Iterator[Relation]:
    """GatherND: behind ``batch_dims`` common axes some are indexed together, the others pass."""
    x, index, y = node.x[0], node.x[1], node.y[0]
    common = node.attr("batch_dims", 0)
    indexed = range(common, common + index[-1].size)
    yield from (Tie(index[i], y[i]) for i in range(index.rank - 1))
    yield from (Tie(x[i], y[i]) for i in range(common))
    yield from (Tie(x[-i], y[-i]) for i in range(1, x.rank - indexed.stop + 1))
    yield from (Freeze(x[i], "GatherND indexes it") for i in indexed)


def pad(node: NodeView) -> Iterator[Relation]:
    """Pad: the added positions are channels of their own; their counts follow them."""
    x, y = node.x[0], node.y[0]
    pads, axes, place = _pads(node)
    if pads is None:
        yield from (Freeze(a, "the pads are computed") for a in x.axes)
        return
    for i in range(x.rank):
        if i not in axes:
            yield Tie(x[i], y[i])
            continue
        number = axes.index(i)
        before, after = pads[number], pads[number + len(axes)]
        if before == after == 0:
            yield Tie(x[i], y[i])
        elif min(before, after) < 0 or node.attr("mode", "constant") != "constant":
            yield Freeze(x[i], "Pad crops or mirrors it")
        else:
            yield Tie(x[i], y[i].span(before, x[i].size))
            yield Size(Slot(place, number), y[i].span(0, before))
            yield Size(Slot(place, number + len(axes)), y[i].span(before + x[i].size, after))


def _pads(node: NodeView) -> tuple[list[int] | None, list[int], str | int]:
    """The pad counts (all begins, then all ends), the axes they are for, and where they are stated."""
    rank = node.x[0].rank
    if node.opset < 11:
        return node.attr("pads", node.attr("paddings")), list(range(rank)), "pads"
    counts, axes = _numbers(node.input(1)), _numbers(node.input(3))
    if counts is None or (axes is None and node.input(3) is not None):
        return None, [], 1
    return counts, [int(a) % rank for a in (range(rank) if axes is None else axes)], 1


def shape_of(node: NodeView) -> Iterator[Relation]:
    """Shape: harmless where its numbers end in shape operands only, which are followed one by one."""
    measured = node.x[0].axes if node.op == "Size" else node.measured
    for axis in node.x[0].axes:
        if axis in measured:
            yield Freeze(axis, "its length is used in a computation")
        else:
            yield Tie(axis, axis)  # free to shrink

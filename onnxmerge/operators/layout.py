"""Operators that rearrange: the same elements under other axes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import prod

import numpy as np

from onnxmerge.graph.canonicalize.shape_values import Dim
from onnxmerge.graph.view import Axis, NodeView
from onnxmerge.operators.relations import Choice, Freeze, Option, Relation, Size, Slot, Tie


def transpose(node: NodeView) -> Iterator[Relation]:
    """Y[i] is X[perm[i]]."""
    x, y = node.x[0], node.y[0]
    perm = node.attr("perm", list(range(x.rank))[::-1])
    yield from (Tie(x[p], y[i]) for i, p in enumerate(perm))


def squeeze_unsqueeze(node: NodeView) -> Iterator[Relation]:
    """Axes of length 1 come and go; the others keep their order."""
    x = [axis for axis in node.x[0].axes if axis.size != 1]
    y = [axis for axis in node.y[0].axes if axis.size != 1]
    yield from (Tie(a, b) for a, b in zip(x, y, strict=True))


def reshape(node: NodeView) -> Iterator[Relation]:
    """Reshape, Flatten: row-major elements under new axes.

    Where one axis becomes several or several become one, one factor on either side can own the
    positions: the leading one a block (Flatten, attention heads), an inner one a place in every
    block (channel shuffle, group norm). The others cannot shrink.
    """
    x, y = node.x[0], node.y[0]
    if node.op == "Reshape":
        yield from stated_sizes(node, 1)
    for ins, outs in segments(x.axes, y.axes):
        if len(ins) == len(outs) == 1:
            yield Tie(ins[0], outs[0])
        elif ins and outs:
            yield Choice(tuple(_owned(a, b, ins, outs) for a, b in product(ins, outs)))


def segments(ins: list[Axis], outs: list[Axis]) -> Iterator[tuple[list[Axis], list[Axis]]]:
    """The shortest runs of axes (lengths of 1 left out) with equal element counts on both sides."""
    ins = [a for a in ins if a.size != 1]
    outs = [a for a in outs if a.size != 1]
    i = j = 0
    while i < len(ins) and j < len(outs):
        a, b = [ins[i]], [outs[j]]
        i, j = i + 1, j + 1
        while (left := prod(x.size for x in a)) != (right := prod(x.size for x in b)):
            if left < right and i < len(ins):
                a.append(ins[i])
                i += 1
            elif j < len(outs):
                b.append(outs[j])
                j += 1
            else:
                return
        yield a, b


def _owned(owner_in: Axis, owner_out: Axis, ins: list[Axis], outs: list[Axis]) -> Option:
    """The reading in which ``owner_in`` and ``owner_out`` hold the channels and the rest is fixed."""
    places = [_place(owner, side) for owner, side in ((owner_in, ins), (owner_out, outs))]
    flat = np.arange(prod(a.size for a in ins))
    pairs = np.unique(
        (flat // places[0] % owner_in.size) * owner_out.size + flat // places[1] % owner_out.size
    )
    tie = Tie(owner_in.take(pairs // owner_out.size), owner_out.take(pairs % owner_out.size))
    return Option(owner_in if owner_in.size <= owner_out.size else owner_out, (tie,))


def _place(owner: Axis, side: list[Axis]) -> int:
    """How many elements lie between two neighbouring positions of ``owner`` in row-major order."""
    return prod(a.size for a in side[side.index(owner) + 1 :])


def stated_sizes(node: NodeView, operand: int, y_axes: list[Axis] | None = None) -> Iterator[Relation]:
    """Sizes for the lengths that a shape operand states; computed ones freeze their axis."""
    y = y_axes if y_axes is not None else node.y[0].axes
    elements = node.elements(operand)
    # A computed shape is overridden by a Where on integers, which opset 9 brought.
    fixed = node.opset < 9 and node.x[operand].constant is None
    if elements is None or len(elements) != len(y):
        yield from (
            Freeze(axis, f"the shape that {node.op} takes is computed") for axis in y if axis.size > 1
        )
        return
    for i, (element, axis) in enumerate(zip(elements, y, strict=True)):
        if isinstance(element, Dim):
            source = node.axis_of(element)
            if source is not None and source.size == axis.size:
                yield Tie(source, axis)
            else:
                yield Freeze(axis, f"its length in {node.op} is computed")
        elif element is None:
            yield Freeze(axis, f"its length in {node.op} is computed")
        elif element == axis.size or (element == 0 and not node.attr("allowzero", 0)):
            yield (
                Freeze(axis, f"opset {node.opset} cannot override its length")
                if fixed
                else Size(Slot(operand, i), axis)
            )


def expand(node: NodeView) -> Iterator[Relation]:
    """Expand: lengths of 1 grow to the stated ones, axes aligned from the right."""
    x, y = node.x[0], node.y[0]
    elements = node.elements(1)
    for axis in range(1, x.rank + 1):
        if x[-axis].size == y[-axis].size:
            yield Tie(x[-axis], y[-axis])
        else:
            yield Tie(y[-axis], y[-axis])  # copies of one position: any may go
    yield from (Tie(axis, axis) for axis in y.axes[: y.rank - x.rank])
    yield from stated_sizes(node, 1, y.axes[y.rank - len(elements) :] if elements else None)


def tile(node: NodeView) -> Iterator[Relation]:
    """Tile by constant counts."""
    x, y = node.x[0], node.y[0]
    for a, b in zip(x.axes, y.axes, strict=True):
        if a.size:
            yield Tie(a.tiles(b.size // a.size), b)


def constant_of_shape(node: NodeView) -> Iterator[Relation]:
    """ConstantOfShape: every element alike, so any position may go."""
    yield from (Tie(axis, axis) for axis in node.y[0].axes)
    yield from stated_sizes(node, 0)


def reverse_sequence(node: NodeView) -> Iterator[Relation]:
    """ReverseSequence works on the first two axes."""
    yield from (Tie(node.x[0][i], node.y[0][i]) for i in range(2, node.x[0].rank))


def depth_to_space(node: NodeView) -> Iterator[Relation]:
    """DepthToSpace: one output channel owns blocksize^2 input channels, spread (DCR) or adjacent (CRD)."""
    x, y = node.x[0], node.y[0]
    area = node.attr("blocksize", 1) ** 2
    yield Tie(x[0], y[0])
    yield Tie(x[1], y[1].blocks(area) if node.attr("mode", "DCR") == "CRD" else y[1].tiles(area))


def space_to_depth(node: NodeView) -> Iterator[Relation]:
    """SpaceToDepth: one input channel owns blocksize^2 output channels."""
    x, y = node.x[0], node.y[0]
    yield Tie(x[0], y[0])
    yield Tie(x[1].tiles(node.attr("blocksize", 1) ** 2), y[1])


def resize(node: NodeView) -> Iterator[Relation]:
    """Resize, Upsample: axes whose length and scale stay pass through."""
    x, y = node.x[0], node.y[0]
    if node.attr("coordinate_transformation_mode") == "tf_crop_and_resize":
        return
    axes = [a % x.rank for a in node.attr("axes", range(x.rank))]
    same = {i for i in range(x.rank) if x[i].size == y[i].size}
    scales = node.input(2 if node.op == "Resize" and node.opset >= 11 else 1)
    if scales is not None and scales.constant is not None and scales.constant.size == len(axes):
        same -= {a for a, s in zip(axes, scales.constant, strict=True) if s != 1}
    yield from (Tie(x[i], y[i]) for i in sorted(same))
    if node.op == "Resize" and node.input(3) is not None:
        if node.attr("keep_aspect_ratio_policy", "stretch") != "stretch":
            yield from (Freeze(axis, "Resize keeps the aspect ratio") for axis in y.axes)
        yield from stated_sizes(node, 3, [y[a] for a in axes])

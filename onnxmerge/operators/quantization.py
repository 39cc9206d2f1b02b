"""QuantizeLinear and DequantizeLinear: pointwise, with parameters per tensor or per channel."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxmerge.graph.view import GraphView, NodeView, TensorView
from onnxmerge.operators.pointwise import same_axes
from onnxmerge.operators.relations import Freeze, Relation, Tie
from onnxmerge.operators.traits import Node, name_of

# Of the range of the integers, so much has to lie on either side of zero.
_ROOM = 1 / 16


def quantize(node: NodeView) -> Iterator[Relation]:
    """Scale and zero point are scalars, or vectors along ``axis``; blocked quantisation is frozen."""
    x = node.x[0]
    yield from same_axes(node)
    if node.attr("block_size", 0) or any(p is not None and p.rank > 1 for p in node.x[1:]):
        yield from (Freeze(axis, f"{node.op} works in blocks") for axis in x.axes)
        return
    for parameter in node.x[1:]:
        if parameter is not None and parameter.rank == 1 and parameter.shape[0] > 1:
            yield Tie(parameter[0], x[node.attr("axis", 1)])


def rounded(view: GraphView, node: NodeView) -> TensorView | None:
    """What a node's first input becomes where all that happens to it is rounding; None where more does.

    A QuantizeLinear and the DequantizeLinear behind it only round, unless zero lies near an end of the range:
    then they do what a Relu does, too.
    """
    tensor, zero = node.y[0], node.input(2)
    if node.op != "QuantizeLinear" or zero is None or zero.constant is None or tensor is None:
        return None
    integers = np.asarray(zero.constant)
    users = view.consumers(tensor.name)
    if tensor.name in view.outputs or view.captured(tensor.name) or integers.dtype.kind not in "iu":
        return None
    if len(users) != 1 or users[0].op != "DequantizeLinear":
        return None
    ends = np.iinfo(integers.dtype)
    room = _ROOM * (ends.max - ends.min)
    inside = (integers - float(ends.min) >= room) & (ends.max - integers.astype(float) >= room)
    same = [x.name for x in users[0].x[1:] if x is not None] == [x.name for x in node.x[1:] if x is not None]
    return users[0].y[0] if same and bool(inside.all()) else None


def rounds(node: Node) -> bool:
    """Whether a node hands on its first input but for rounding, or as the integers that stand for it."""
    return name_of(node) in ("QuantizeLinear", "DequantizeLinear")

"""QuantizeLinear and DequantizeLinear: pointwise, with parameters per tensor or per channel."""

from __future__ import annotations

from collections.abc import Iterator

from onnxmerge.graph.view import NodeView
from onnxmerge.operators.pointwise import same_axes
from onnxmerge.operators.relations import Freeze, Relation, Tie
from onnxmerge.operators.traits import Node, name_of


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


def rounds(node: Node) -> bool:
    """Whether a node hands on its first input but for rounding, or as the integers that stand for it."""
    return name_of(node) in ("QuantizeLinear", "DequantizeLinear")

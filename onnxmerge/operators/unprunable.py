"""Operators that multiply, and whose channels cannot be removed: quantised to integers, or packed.

Their numbers are not what least squares works with, so the model is to be pruned before it is made of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from onnxmerge.graph.view import Axis, NodeView
from onnxmerge.operators.relations import Freeze, Relation, Telling

QUANTISED = "prune before you quantise"
PACKED = "prune before onnxruntime packs the model for one machine"


def quantised(node: NodeView) -> Iterator[Relation]:
    """ConvInteger, QLinearConv, MatMulInteger, MatMulNBits and their like: nothing is cut."""
    yield from _frozen(node, QUANTISED)


def packed(node: NodeView) -> Iterator[Relation]:
    """Convolutions in blocks of channels, as onnxruntime writes them for one processor: nothing is cut."""
    yield from _frozen(node, PACKED)


def _frozen(node: NodeView, advice: str) -> Iterator[Relation]:
    place = node.domain.rpartition(".")[2]
    name = f"{place}.{node.op}" if advice == PACKED else node.op
    for tensor in node.tensors:
        yield from (Freeze(axis, f"{name}: {advice}", Telling.UNPRUNABLE) for axis in tensor.axes)


def made_axis(node: NodeView) -> Axis:
    """The axis of the outputs' channels."""
    y = node.y[0]
    return y[1] if "Conv" in node.op else y[-1]


def convolution(weight: int, node: NodeView) -> int:
    """Multiplications of a convolution whose weight [M, C/group, ...] is the input with this number."""
    return prod(node.y[0].shape) * prod(node.x[weight].shape[1:])


def product(node: NodeView) -> int:
    """Multiplications of a matrix product; MatMulNBits states its length K, for its weight is packed."""
    inner: int = node.attr("K", node.x[0].shape[-2 if node.attr("transA", 0) else -1])
    return prod(node.y[0].shape) * inner

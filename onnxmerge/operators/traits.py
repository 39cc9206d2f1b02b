"""What an operator is beside its rule: where its parameters lie, and which factors its sum has.

A node comes in three forms: as a view (analysis), as a node of the working graph (rewriting), as a message
of the file (execution and data). Traits are looked up alike for all of them; see ``operators.table``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, TypeAlias

import onnx
import onnx_graphsurgeon as gs

from onnxmerge.graph.view import Axis, NodeView
from onnxmerge.operators.relations import Contract

Node: TypeAlias = NodeView | gs.Node | onnx.NodeProto


def name_of(node: Node) -> str:
    """The name of a node's operator."""
    return str(node.op_type if isinstance(node, onnx.NodeProto) else node.op)


def domain_of(node: Node) -> str:
    """The domain of a node's operator; empty for the standard one, however a file spells it."""
    return "" if node.domain in (None, "ai.onnx") else str(node.domain)


def attribute(node: Node, name: str, default: Any = None) -> Any:
    """The value of a node's attribute, or ``default``."""
    if isinstance(node, NodeView):
        return node.attr(name, default)
    if isinstance(node, gs.Node):
        return node.attrs.get(name, default)
    return next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


class Form(Enum):
    """How a linear operator sums: over kernels that move, over kernels that are put down, or over rows."""

    CONVOLUTION = auto()
    TRANSPOSED_CONVOLUTION = auto()
    PRODUCT = auto()


@dataclass(frozen=True)
class Linear:
    """An operator with output = alpha * (data . weight) + beta * bias; data are input 0, weights input 1.

    Attributes:
        form: how it sums.
        macs: its multiplications for the concrete shapes of a node (batch 1).
        macs_axes: the axes whose product these are, and which of them is summed over, from a node and its
            contraction (None where there is none).
        bias: the number of the bias input; None where there is none.
        bias_axis: the axis of the output that the bias lies along.
        alpha, beta: the attributes that hold the factors; None where they are 1.
        fused: whether onnxruntime made it of several operators: an activation may follow the sum.
    """

    form: Form
    macs: Callable[[NodeView], int]
    macs_axes: Callable[[NodeView, Contract | None], tuple[tuple[Axis, ...], Axis | None]]
    bias: int | None = None
    bias_axis: int = 1
    alpha: str | None = None
    beta: str | None = None
    fused: bool = False


@dataclass(frozen=True)
class Normalization:
    """Inputs of an operator that normalises every channel (axis 1) with stored statistics.

    Attributes:
        scale, shift: numbers of the inputs gamma and beta.
        mean, variance: of the running statistics.
    """

    scale: int = 1
    shift: int = 2
    mean: int = 3
    variance: int = 4

"""Questions about the stored parameters of one node: its bias, what it scales by, how it normalises."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from onnxmerge.graph.view import GraphView, NodeView, TensorView
from onnxmerge.operators import pointwise
from onnxmerge.operators.grid import stored_values
from onnxmerge.operators.table import linear_of, lookup, normalization_of
from onnxmerge.operators.traits import Form, Node, attribute, name_of


def is_convolution(node: Node) -> bool:
    """Whether a node is a plain convolution, in whatever layout; not one fused with others."""
    return name_of(node) == "Conv"


def is_elementwise(node: Node) -> bool:
    """Whether every output element depends on the input elements at its own place alone."""
    operator = lookup(node)
    return operator is not None and operator.rule is pointwise.pointwise


def is_normalization(node: Node) -> bool:
    """Whether a node normalises channels with stored statistics."""
    return normalization_of(node) is not None


def is_plain_sum(node: Node) -> bool:
    """Whether the output of a linear node is its sum: neither an activation nor another operand follows."""
    linear = linear_of(node)
    if linear is None or not linear.fused:
        return linear is not None
    return linear.form is Form.PRODUCT and not attribute(node, "activation")


def channel_bias(node: Node) -> int | None:
    """The number of the input that a node adds to its output per channel (axis 1); None where there is none.

    Of convolutions and of what normalises channels: their bias needs no shape, and is multiplied by nothing.
    """
    normalization = normalization_of(node)
    return convolution_bias(node) if normalization is None else normalization.shift


def convolution_bias(node: Node) -> int | None:
    """The number of the bias input of a convolution, transposed or not; None for other nodes."""
    return 2 if name_of(node) in ("Conv", "ConvTranspose") else None


def pads_nothing(node: Node) -> bool:
    """Whether all outputs of a linear node are sums over whole kernels: a shift is the same everywhere."""
    if is_convolution(node):
        by_itself = attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID")
        return not by_itself and not any(attribute(node, "pads", ()))
    linear = linear_of(node)
    return linear is not None and linear.form is Form.PRODUCT


def alpha_of(node: Node) -> float:
    """The factor of a linear node's sum."""
    return _factor(node, bias=False)


def beta_of(node: Node) -> float:
    """The factor of a linear node's bias."""
    return _factor(node, bias=True)


def _factor(node: Node, *, bias: bool) -> float:
    linear = linear_of(node)
    name = None if linear is None else linear.beta if bias else linear.alpha
    return 1.0 if name is None else float(attribute(node, name, 1.0))


def stored_bias(view: GraphView, node: NodeView, rows: int) -> np.ndarray | None:
    """What a linear node adds to its sum per row of its weight, float64 [rows].

    None where that is computed, or differs from position to position.
    """
    linear = linear_of(node)
    bias = None if linear is None or linear.bias is None else node.input(linear.bias)
    if bias is None:
        return np.zeros(rows)
    stored = stored_values(view, bias)
    if stored is None or stored.size not in (1, rows) or (stored.size == rows and stored.shape[-1] != rows):
        return None
    return beta_of(node) * np.broadcast_to(np.asarray(stored, dtype=np.float64).reshape(-1), (rows,))


def depthwise_kernels(node: NodeView) -> np.ndarray | None:
    """The stored kernels of a depthwise convolution, float64 [C, multiplier, ...]; None for other nodes."""
    weight = node.x[1] if is_convolution(node) else None
    if weight is None or weight.constant is None or not node.attr("group", 1) == weight.shape[0] > 1:
        return None
    return np.asarray(weight.constant, dtype=np.float64)


@dataclass(frozen=True, eq=False)
class ChannelNorm:
    """How channels are normalised: float64 [C] each; ``variance`` is the running one."""

    gamma: np.ndarray
    beta: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    epsilon: float


def channel_norm(node: NodeView) -> ChannelNorm | None:
    """The stored parameters of a node that normalises channels.

    None for other nodes, and where some of them are computed.
    """
    slots = normalization_of(node)
    if slots is None:
        return None
    inputs = [node.input(i) for i in (slots.scale, slots.shift, slots.mean, slots.variance)]
    stored = [None if x is None else x.constant for x in inputs]
    values = [np.asarray(x, dtype=np.float64) for x in stored if x is not None]
    if len(values) < len(stored):
        return None
    gamma, beta, mean, variance = values
    return ChannelNorm(gamma, beta, mean, variance, node.attr("epsilon", 1e-5))


def scale_and_shift(node: NodeView) -> tuple[np.ndarray, np.ndarray] | None:
    """What a node that normalises channels makes of unit variance: (gamma, beta), float64 [C] each.

    None for other nodes, and where one of them is computed.
    """
    slots = normalization_of(node)
    inputs = [] if slots is None else [node.input(slots.scale), node.input(slots.shift)]
    stored = [None if x is None else x.constant for x in inputs]
    values = [np.asarray(x, dtype=np.float64) for x in stored if x is not None]
    return (values[0], values[1]) if len(values) == 2 else None


def affine(node: NodeView, tensor: TensorView, axis: int) -> tuple[np.ndarray, np.ndarray] | None:
    """(scale, shift) of a node that computes ``scale * tensor + shift`` per position of an axis.

    Args:
        tensor: the operand of the node that is mapped.

    Returns:
        float64 [length of the axis] each; None for a node that does something else.
    """
    count = tensor.shape[axis]
    if pointwise.is_identity(node):
        return np.ones(count), np.zeros(count)
    if is_normalization(node) and node.x[0].name == tensor.name and axis == 1:
        norm = channel_norm(node)
        if norm is None or len([y for y in node.y if y is not None]) > 1:
            return None
        factor = norm.gamma / np.sqrt(norm.variance + norm.epsilon)
        return factor, norm.beta - factor * norm.mean
    if node.op not in ("Add", "Sub", "Mul", "Div") or len(node.x) != 2 or node.y[0].shape != tensor.shape:
        return None
    place = next((i for i, x in enumerate(node.x) if x is not None and x.name == tensor.name), None)
    operand = node.x[1 - place] if place is not None else None
    if operand is None or not operand.is_constant:
        return None
    values = _per_channel(np.asarray(operand.constant, dtype=np.float64), tensor.rank, axis, count)
    if values is None:
        return None
    one, zero = np.ones(count), np.zeros(count)
    match node.op:
        case "Add":
            return one, values
        case "Sub":
            return (one, -values) if place == 0 else (-one, values)
        case "Mul":
            return values, zero
    return (1 / values, zero) if place == 0 and np.all(values != 0) else None


def _per_channel(values: np.ndarray, rank: int, axis: int, count: int) -> np.ndarray | None:
    shape = (1,) * (rank - values.ndim) + values.shape
    if len(shape) != rank or any(n != 1 for i, n in enumerate(shape) if i != axis):
        return None
    return np.broadcast_to(values.reshape(-1), (count,)).copy() if shape[axis] in (1, count) else None


def as_channel_shift(shift: np.ndarray) -> tuple[str, dict[str, float], list[np.ndarray]]:
    """The operator that adds ``shift`` [C] per channel, normalising nothing: name, attributes, parameters."""
    one, zero = np.ones_like(shift), np.zeros_like(shift)
    return "BatchNormalization", {"epsilon": 0.0}, [one, shift, zero, one]


def output_columns(node: Node, weight: tuple[int, ...]) -> int:
    """The outputs of a matrix product, from the shape of its weight."""
    return weight[-2] if attribute(node, "transB", 0) else weight[-1]


def invalid_count(node: onnx.NodeProto) -> tuple[str, int] | None:
    """An attribute that counts something and is below 1, which the specification forbids, and its value."""
    counts = {a.name: a.i for a in node.attribute if a.name in _COUNTS.get(node.op_type, ())}
    bad = next((name for name, count in counts.items() if count < 1), None)
    # Heads may be left to the shapes, but not those of the queries alone or of the keys alone.
    if bad is None or (node.op_type == "Attention" and max(counts.values()) <= 0):
        return None
    return bad, counts[bad]


_COUNTS = {
    "Conv": ("group",),
    "ConvTranspose": ("group",),
    "Attention": ("q_num_heads", "kv_num_heads"),
}

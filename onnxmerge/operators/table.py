"""The table of operators: which rule speaks for which operator, and its traits.

An operator that is not listed is frozen with all of its inputs and outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import onnx_graphsurgeon as gs

from onnxmerge.graph.view import Axis, NodeView
from onnxmerge.operators import (
    attention,
    indexing,
    layout,
    linear,
    normalization,
    pointwise,
    quantization,
    recurrent,
    reduction,
    unprunable,
)
from onnxmerge.operators.relations import Choice, Freeze, Option, Relation, Telling, axes_of, check
from onnxmerge.operators.traits import Form, Linear, Node, Normalization, domain_of, name_of

Rule = Callable[[NodeView], Iterator[Relation]]
_CONTRIB = "com.microsoft"


@dataclass(frozen=True)
class Operator:
    """What is known of an operator.

    Attributes:
        linear: of those with data, weight and bias, where weights are folded.
        normalization: of those that normalise channels with stored statistics.
        products: other multiplications: their numbers for the concrete shapes of a node, and the axes that
            these are proportional to.
        instead_of: of those that cannot be pruned, the operator that they stand for.
    """

    rule: Rule
    linear: Linear | None = None
    normalization: Normalization | None = None
    products: Callable[[NodeView], Iterable[tuple[int, tuple[Axis, ...]]]] | None = None
    instead_of: str | None = None


def _unprunable(rule: Rule, macs: Callable[[NodeView], int], instead_of: str) -> Operator:
    """An operator that multiplies, and of which nothing is cut."""
    return Operator(rule, products=lambda node: [(macs(node), ())], instead_of=instead_of)


_CONV = Linear(Form.CONVOLUTION, linear.conv_macs, linear.conv_macs_axes, bias=2)
_CONV_TRANSPOSE = Linear(
    Form.TRANSPOSED_CONVOLUTION, linear.conv_transpose_macs, linear.conv_transpose_macs_axes, bias=2
)
_GEMM = Linear(
    Form.PRODUCT, linear.product_macs, linear.product_macs_axes, bias=2, alpha="alpha", beta="beta"
)
_MATMUL = Linear(Form.PRODUCT, linear.product_macs, linear.product_macs_axes)

_GROUPED_ATTENTION = Operator(attention.grouped_attention, products=attention.products)
_QUANTISED_PRODUCT = _unprunable(unprunable.quantised, unprunable.product, "MatMul")

_POINTWISE = [
    "Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "BitShift", "BitwiseAnd",
    "BitwiseNot", "BitwiseOr", "BitwiseXor", "Cast", "CastLike", "Ceil", "Celu", "Clip", "Cos", "Cosh",
    "Div", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid",
    "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Mean",
    "Min", "Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pow", "Reciprocal", "Relu", "Round",
    "ScaledTanh", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt",
    "Sub", "Sum", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Where", "Xor",
]  # fmt: skip
_REDUCE = [
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin",
    "ReduceProd", "ReduceSum", "ReduceSumSquare",
]  # fmt: skip
_POOL = [
    "AveragePool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "LpPool", "MaxPool",
]  # fmt: skip

_ONNX: dict[str, Operator] = {
    **dict.fromkeys(_POINTWISE, Operator(pointwise.pointwise)),
    **dict.fromkeys(_REDUCE, Operator(reduction.reduce)),
    **dict.fromkeys(_POOL, Operator(reduction.pool)),
    **dict.fromkeys(["Softmax", "LogSoftmax", "Hardmax"], Operator(pointwise.softmax)),
    **dict.fromkeys(["CumSum", "CumProd"], Operator(pointwise.cumulative)),
    **dict.fromkeys(["ArgMax", "ArgMin"], Operator(reduction.arg_reduce)),
    **dict.fromkeys(["RoiAlign", "MaxRoiPool", "GridSample"], Operator(reduction.region_pool)),
    "BatchNormalization": Operator(normalization.per_channel, normalization=Normalization()),
    "InstanceNormalization": Operator(normalization.per_channel),
    **dict.fromkeys(["LayerNormalization", "RMSNormalization"], Operator(normalization.layer_norm)),
    **dict.fromkeys(
        ["LpNormalization", "LRN", "MeanVarianceNormalization"], Operator(normalization.normalize_axis)
    ),
    **dict.fromkeys(["QuantizeLinear", "DequantizeLinear"], Operator(quantization.quantize)),
    **dict.fromkeys(["LSTM", "GRU", "RNN"], Operator(recurrent.recurrent, products=recurrent.products)),
    **dict.fromkeys(["Squeeze", "Unsqueeze"], Operator(layout.squeeze_unsqueeze)),
    **dict.fromkeys(["Reshape", "Flatten"], Operator(layout.reshape)),
    **dict.fromkeys(["Resize", "Upsample"], Operator(layout.resize)),
    **dict.fromkeys(["Shape", "Size"], Operator(indexing.shape_of)),
    **dict.fromkeys(["MatMulInteger", "QLinearMatMul"], _QUANTISED_PRODUCT),
    "Attention": _GROUPED_ATTENTION,
    "Concat": Operator(indexing.concat),
    "ConstantOfShape": Operator(layout.constant_of_shape),
    "Conv": Operator(linear.conv, _CONV),
    "ConvInteger": _unprunable(unprunable.quantised, partial(unprunable.convolution, 1), "Conv"),
    "ConvTranspose": Operator(linear.conv_transpose, _CONV_TRANSPOSE),
    "DepthToSpace": Operator(layout.depth_to_space),
    "Dropout": Operator(pointwise.same_axes),
    "DynamicQuantizeLinear": Operator(pointwise.dynamic_quantize),
    "Einsum": Operator(linear.einsum, products=linear.einsum_products),
    "Expand": Operator(layout.expand),
    "Gather": Operator(indexing.gather),
    "GatherND": Operator(indexing.gather_nd),
    "Gemm": Operator(linear.gemm, _GEMM),
    "GroupNormalization": Operator(normalization.group_norm),
    "MatMul": Operator(linear.matmul, _MATMUL),
    "Pad": Operator(indexing.pad),
    "QLinearConv": _unprunable(unprunable.quantised, partial(unprunable.convolution, 3), "Conv"),
    "ReverseSequence": Operator(layout.reverse_sequence),
    "RotaryEmbedding": Operator(attention.rotary_embedding),
    "Slice": Operator(indexing.slice_),
    "SpaceToDepth": Operator(layout.space_to_depth),
    "Split": Operator(indexing.split),
    "Tile": Operator(layout.tile),
    "TopK": Operator(reduction.top_k),
    "Transpose": Operator(layout.transpose),
}
_MICROSOFT: dict[str, Operator] = {
    **dict.fromkeys(["Gelu", "QuickGelu"], Operator(pointwise.pointwise)),
    **dict.fromkeys(["BiasGelu", "FastGelu"], Operator(pointwise.bias_activation)),
    **dict.fromkeys(
        ["SkipLayerNormalization", "SkipSimplifiedLayerNormalization", "SimplifiedLayerNormalization"],
        Operator(normalization.layer_norm),
    ),
    **dict.fromkeys(["QuantizeLinear", "DequantizeLinear"], Operator(quantization.quantize)),
    **dict.fromkeys(
        ["DynamicQuantizeMatMul", "MatMulFpQ4", "MatMulBnb4", "MatMulIntegerToFloat", "MatMulNBits", "QGemm"],
        _QUANTISED_PRODUCT,
    ),
    "Attention": Operator(attention.packed_attention, products=attention.packed_products),
    "FusedConv": Operator(linear.conv, replace(_CONV, fused=True)),
    "FusedGemm": Operator(linear.gemm, replace(_GEMM, fused=True)),
    "FusedMatMul": Operator(linear.matmul, replace(_MATMUL, alpha="alpha", fused=True)),
    "GroupQueryAttention": _GROUPED_ATTENTION,
    "MultiHeadAttention": Operator(attention.multi_head_attention, products=attention.products),
    "RotaryEmbedding": Operator(attention.rotary_embedding),
}
# onnxruntime registers this one under the standard domain.
_ONNX["SimplifiedLayerNormalization"] = _MICROSOFT["SimplifiedLayerNormalization"]
OPERATORS: dict[tuple[str, str], Operator] = {
    **{("", name): operator for name, operator in _ONNX.items()},
    **{(_CONTRIB, name): operator for name, operator in _MICROSOFT.items()},
    ("com.microsoft.nchwc", "Conv"): _unprunable(
        unprunable.packed, partial(unprunable.convolution, 1), "Conv"
    ),
}


def lookup(node: Node) -> Operator | None:
    """The table's line for a node, or None where the operator is not listed."""
    return OPERATORS.get((domain_of(node), name_of(node)))


def linear_of(node: Node) -> Linear | None:
    """What is known of a node as a linear operator; None for others."""
    operator = lookup(node)
    return None if operator is None else operator.linear


def is_contraction(op: str) -> bool:
    """Whether an operator of ONNX's own domain, by its name, is linear."""
    return ("", op) in OPERATORS and OPERATORS["", op].linear is not None


def normalization_of(node: Node) -> Normalization | None:
    """The parameters of a node that normalises channels with stored statistics; None for others."""
    operator = lookup(node)
    return None if operator is None else operator.normalization


def relations(node: NodeView) -> list[Relation]:
    """All that is known of one node; every axis that its rule does not mention is frozen.

    A node that its rule cannot make sense of (an attribute out of range, a shape that does not fit)
    is frozen as a whole: a strange model is optimised less, never wrongly.
    """
    operator = lookup(node)
    if operator is None:
        name = f"{node.domain}:{node.op}" if node.domain else node.op
        return _freeze_all(node, f"operator {name} is not in the table")
    if any(t is None and s.name for t, s in zip([*node.x, *node.y], _sources(node), strict=True)):
        return _freeze_all(node, f"{node.op} has an input or output of unknown shape")
    try:
        stated = [_complete(r) if isinstance(r, Choice) else r for r in operator.rule(node)]
        for relation in stated:
            check(relation)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        return _freeze_all(node, f"{node.op} is not as its rule expects: {error}")
    mentioned = {axis for relation in stated for axis in axes_of(relation)}
    missing = {axis: None for t in node.tensors for axis in t.axes if axis not in mentioned}
    why = f"not a channel axis of {node.op}"
    return stated + [Freeze(axis, why, Telling.UNMENTIONED) for axis in missing if axis.size > 1]


def _freeze_all(node: NodeView, why: str) -> list[Relation]:
    return [Freeze(axis, why) for tensor in node.tensors for axis in tensor.axes]


def _complete(choice: Choice) -> Choice:
    """Every option says something about every axis of the choice: what it leaves out is frozen in it."""
    everything = sorted(axes_of(choice), key=str)
    return Choice(tuple(
        Option(option.owner, (
            *option.relations,
            *(
                Freeze(axis, "another axis of the node carries the channels", Telling.OTHER_AXIS)
                for axis in everything
                if not any(axis in axes_of(r) for r in option.relations)
            ),
        ))
        for option in choice.options
    ))  # fmt: skip


def _sources(node: NodeView) -> list[gs.Tensor]:
    return [*node.source.inputs, *node.source.outputs]

"""Standard operators with the output shape of fused ones, for inference by the onnx package only.

onnx does not know the operators of onnxruntime's optimizer, and whatever follows one would be of
unknown shape. A stand-in has the same shape and type, not the same values.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx
from onnx import helper

# Operators whose first output is like their first input.
_ALIKE = {
    "BiasGelu", "FastGelu", "Gelu", "QuickGelu", "RotaryEmbedding",
    "SimplifiedLayerNormalization", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization",
}  # fmt: skip
_FUSED = {"FusedConv": ("Conv", 3), "FusedGemm": ("Gemm", 3)}


def with_stand_ins(nodes: Iterable[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The nodes with stand-ins in place of those fused operators that have one."""
    return [_stand_in(node) or node for node in nodes]


def _stand_in(node: onnx.NodeProto) -> onnx.NodeProto | None:
    if node.domain != "com.microsoft" and node.op_type != "SimplifiedLayerNormalization":
        return None
    if node.op_type in _ALIKE:
        return helper.make_node("Identity", node.input[:1], node.output[:1])
    if node.op_type in _FUSED:
        op, inputs = _FUSED[node.op_type]
        plain = helper.make_node(op, node.input[:inputs], node.output[:1])
        plain.attribute.extend(a for a in node.attribute if not a.name.startswith("activation"))
        return plain
    if node.op_type == "FusedMatMul":
        return _product(node)
    return None


def _product(node: onnx.NodeProto) -> onnx.NodeProto | None:
    flags = {a.name: a.i for a in node.attribute}
    if flags.get("transBatchA") or flags.get("transBatchB"):
        return None
    a = "...ki" if flags.get("transA") else "...ik"
    b = "...jk" if flags.get("transB") else "...kj"
    if (a, b) == ("...ik", "...kj"):
        return helper.make_node("MatMul", node.input, node.output)
    return helper.make_node("Einsum", node.input, node.output, equation=f"{a},{b}->...ij")

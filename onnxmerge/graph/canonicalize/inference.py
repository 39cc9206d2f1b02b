"""Shapes and types that follow from a file alone, by the inference of the onnx package."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper

from onnxmerge.graph import external_weights

# Operators whose first output is like their first input.
_ALIKE = {
    "BiasGelu", "FastGelu", "Gelu", "QuickGelu", "RotaryEmbedding",
    "SimplifiedLayerNormalization", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization",
}  # fmt: skip
_FUSED = {"FusedConv": ("Conv", 3), "FusedGemm": ("Gemm", 3)}
# Inference reads small integer tensors (shapes, axes); larger ones are weights.
MOST_READ_ELEMENTS = 1024
# What a -1 stands for may decide what another one does.
_MOST_ROUNDS = 4


@dataclass(frozen=True)
class Inferred:
    """What is known without running the model.

    Attributes:
        shapes: by tensor, the lengths that are fixed whatever the input, None for the others.
        types: by tensor, the element type of computed tensors and of inputs.
    """

    shapes: Mapping[str, list[int | None]]
    types: Mapping[str, np.dtype]


def infer(proto: onnx.ModelProto, known: Mapping[str, np.ndarray] | None = None) -> Inferred:
    """Shapes and types of a model's tensors.

    Only inputs and initializers are believed: intermediate shapes in files are often stale.

    Args:
        known: computed tensors whose values were found out otherwise.
    """
    skeleton = strip_weights(proto)
    nodes = standard_equivalents(skeleton.graph.node)
    del skeleton.graph.node[:]
    skeleton.graph.node.extend(node for node in nodes if not known or not set(node.output) & known.keys())
    if known:
        skeleton.graph.initializer.extend(_stripped(name, value) for name, value in known.items())
    stated = list(skeleton.graph.value_info)
    del skeleton.graph.value_info[:]
    inferred = _with_quotients(skeleton)
    shapes: dict[str, list[int | None]] = {t.name: list(t.dims) for t in skeleton.graph.initializer}
    types: dict[str, np.dtype] = {}
    for value in stated:
        _add_type(types, value)
    for value in [*inferred.input, *inferred.value_info, *inferred.output]:
        _add_type(types, value)
    for value in [*inferred.input, *inferred.value_info]:
        if value.type.tensor_type.HasField("shape"):
            shapes[value.name] = [
                d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim
            ]
    return Inferred(shapes, types)


def _with_quotients(skeleton: onnx.ModelProto) -> onnx.GraphProto:
    """The graph with what onnx infers, and with what a -1 of Reshape stands for where lengths cancel."""
    for _ in range(_MOST_ROUNDS):
        try:
            inferred = onnx.shape_inference.infer_shapes(skeleton, data_prop=True).graph
        except Exception:  # inference is a help, not a requirement: unknown lengths stay computed
            return skeleton.graph
        values = {v.name: v for v in (*inferred.input, *inferred.value_info, *inferred.output)}
        stated = {value.name for value in skeleton.graph.value_info}
        found = [
            _with_length(values[node.output[0]], *length)
            for node in skeleton.graph.node
            if node.op_type == "Reshape" and node.output[0] not in stated
            if (length := _quotient(values.get(node.input[0]), values.get(node.output[0]))) is not None
        ]
        if not found:
            break
        skeleton.graph.value_info.extend(found)
    return inferred


def _quotient(x: onnx.ValueInfoProto | None, y: onnx.ValueInfoProto | None) -> tuple[int, int] | None:
    """The axis of a Reshape's output whose length alone is unknown, and that length.

    Lengths that onnx gave the same name are the same: those on both sides cancel.
    """
    if x is None or y is None:
        return None
    before, after = ([d.dim_value or d.dim_param for d in v.type.tensor_type.shape.dim] for v in (x, y))
    if "" in before or "" in after:
        return None
    names, others = (Counter(d for d in dims if isinstance(d, str)) for dims in (before, after))
    whole, part = (prod(d for d in dims if isinstance(d, int)) for dims in (before, after))
    missing = list((others - names).elements())
    if names - others or len(missing) != 1 or whole % part:
        return None
    return after.index(missing[0]), whole // part


def _with_length(value: onnx.ValueInfoProto, axis: int, length: int) -> onnx.ValueInfoProto:
    known = onnx.ValueInfoProto()
    known.CopyFrom(value)
    known.type.tensor_type.shape.dim[axis].dim_value = length
    return known


def _stripped(name: str, values: np.ndarray) -> onnx.TensorProto:
    if values.size <= MOST_READ_ELEMENTS:
        return onnx.numpy_helper.from_array(values, name)
    data_type = helper.np_dtype_to_tensor_dtype(values.dtype)
    return onnx.TensorProto(name=name, dims=values.shape, data_type=data_type)


def _add_type(types: dict[str, np.dtype], value: onnx.ValueInfoProto) -> None:
    element = value.type.tensor_type.elem_type
    if value.type.HasField("tensor_type") and element:
        try:
            types[value.name] = np.dtype(helper.tensor_dtype_to_np_dtype(element))
        except (KeyError, TypeError):  # an element type that numpy has no name for
            return


def strip_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without the data of large initializers: small, for passes that need only types and shapes."""
    skeleton = onnx.ModelProto(ir_version=proto.ir_version)
    skeleton.opset_import.extend(proto.opset_import)
    skeleton.functions.extend(proto.functions)
    graph, source = skeleton.graph, proto.graph
    graph.name = source.name or "graph"
    for field in ("node", "input", "output", "value_info", "sparse_initializer"):
        getattr(graph, field).extend(getattr(source, field))
    for tensor in source.initializer:
        if int(np.prod(tensor.dims)) <= MOST_READ_ELEMENTS and not external_weights.is_reference(tensor):
            graph.initializer.append(tensor)
        else:
            graph.initializer.append(
                onnx.TensorProto(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type)
            )
    return skeleton


def fill_types(graph: gs.Graph, types: Mapping[str, np.dtype]) -> None:
    """Give every variable of a sorted graph its element type.

    Where inference has none (operators that the onnx package does not know), the type of the first
    floating-point input is taken: such operators are fused forms of floating-point ones.
    """
    for node in graph.nodes:
        floating = next((x.dtype for x in node.inputs if _is_float(x.dtype)), None)
        for tensor in node.outputs:
            if isinstance(tensor, gs.Variable) and tensor.name:
                if tensor.name in types:
                    tensor.dtype = types[tensor.name]
                elif tensor.dtype is None and node.domain not in ("", None):
                    tensor.dtype = floating


def _is_float(dtype: np.dtype | int | None) -> bool:
    if dtype is None:
        return False
    if isinstance(dtype, int):  # onnx-graphsurgeon keeps the number where numpy lacks the type
        return dtype == onnx.TensorProto.BFLOAT16
    return np.dtype(dtype).kind in "fV"


def standard_equivalents(nodes: Iterable[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The nodes, with standard ones of the same output shape and type in place of fused ones.

    onnx does not know the operators of onnxruntime's optimizer, and whatever follows one would be of
    unknown shape. The values are not the same.
    """
    return [_equivalent(node) or node for node in nodes]


def _equivalent(node: onnx.NodeProto) -> onnx.NodeProto | None:
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

"""Shapes and types that follow from a file alone, by the inference of the onnx package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxmerge.graph import external_weights
from onnxmerge.graph.canonicalize.fused import with_stand_ins

# Inference reads small integer tensors (shapes, axes); larger ones are weights.
MOST_READ_ELEMENTS = 1024


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
    nodes = with_stand_ins(skeleton.graph.node)
    del skeleton.graph.node[:]
    skeleton.graph.node.extend(node for node in nodes if not known or not set(node.output) & known.keys())
    if known:
        skeleton.graph.initializer.extend(_stripped(name, value) for name, value in known.items())
    stated = list(skeleton.graph.value_info)
    del skeleton.graph.value_info[:]
    try:
        inferred = onnx.shape_inference.infer_shapes(skeleton, data_prop=True).graph
    except Exception:  # inference is a help, not a requirement: unknown lengths stay computed
        inferred = skeleton.graph
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


def _stripped(name: str, values: np.ndarray) -> onnx.TensorProto:
    if values.size <= MOST_READ_ELEMENTS:
        return onnx.numpy_helper.from_array(values, name)
    data_type = onnx.helper.np_dtype_to_tensor_dtype(values.dtype)
    return onnx.TensorProto(name=name, dims=values.shape, data_type=data_type)


def _add_type(types: dict[str, np.dtype], value: onnx.ValueInfoProto) -> None:
    element = value.type.tensor_type.elem_type
    if value.type.HasField("tensor_type") and element:
        try:
            types[value.name] = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(element))
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

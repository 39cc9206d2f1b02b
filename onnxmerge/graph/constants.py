"""Constants of the working graph, wherever a file keeps them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import SparseValues


def constant_tensor(tensor: gs.Tensor) -> gs.Constant | None:
    """The stored constant behind a tensor: a dense initializer, or the value of a Constant node."""
    if isinstance(tensor, gs.Constant):
        return None if is_sparse(tensor) else tensor
    if len(tensor.inputs) == 1 and is_constant(tensor.inputs[0]):
        value = tensor.inputs[0].attrs.get("value")
        return value if isinstance(value, gs.Constant) else None
    return None


def is_constant(node: gs.Node | onnx.NodeProto) -> bool:
    """Whether a node does nothing but hold a value."""
    return (node.op_type if isinstance(node, onnx.NodeProto) else node.op) == "Constant"


def operators(proto: onnx.ModelProto) -> int:
    """How many nodes of a model's main graph do more than hold a value."""
    return sum(not is_constant(node) for node in proto.graph.node)


def stored_tensors(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """The dense stored tensors of a file's main graph by name: initializers, and values of Constant nodes."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if is_constant(node):
            stored.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
    return stored


def is_sparse(tensor: gs.Tensor) -> bool:
    """Whether a tensor is a sparse initializer; these are passed on as they are, and never read."""
    return isinstance(tensor, gs.Constant) and isinstance(tensor._values, SparseValues)


def times_read(tensor: gs.Tensor) -> int:
    """How many operands of nodes a tensor is."""
    users = {id(user): user for user in tensor.outputs}.values()
    return sum(x is tensor for user in users for x in user.inputs)


def set_values(tensor: gs.Tensor, values: np.ndarray) -> None:
    """Replace the values of a constant tensor for all of its users."""
    if isinstance(tensor, gs.Constant):
        tensor.values = values
    else:
        value = tensor.inputs[0].attrs["value"]  # of a Constant node
        tensor.inputs[0].attrs["value"] = gs.Constant(value.name, values)


def constant_values(tensor: gs.Tensor) -> np.ndarray | None:
    """The values of a constant tensor, or None."""
    stored = constant_tensor(tensor)
    return None if stored is None else stored.values

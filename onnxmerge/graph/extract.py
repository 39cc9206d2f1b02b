"""A part of a graph as a model of its own, and what nodes make of constants.

Whoever runs a part (the walk, evidence, what becomes constant) cuts it out here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx
from onnx import helper


def extract(
    nodes: Iterable[onnx.NodeProto],
    inputs: Iterable[onnx.ValueInfoProto],
    outputs: Iterable[str],
    constants: Iterable[onnx.TensorProto] = (),
    *,
    opsets: Iterable[onnx.OperatorSetIdProto],
    ir_version: int = 10,
) -> onnx.ModelProto:
    """The model of some nodes between named tensors.

    Args:
        nodes: in topological order.
        inputs: the tensors that it is fed, with their types; see ``typed``.
        outputs: the tensors that it gives, in this order; their types are inferred when it is loaded.
        constants: the tensors that are stored in it.
    """
    graph = onnx.GraphProto(name="part", node=nodes, input=inputs, initializer=constants)
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    return onnx.ModelProto(ir_version=ir_version, opset_import=opsets, graph=graph)


def typed(name: str, dtype: np.dtype, shape: Sequence[int] | None = None) -> onnx.ValueInfoProto:
    """An input of this type, of any shape where none is given."""
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), shape)


def ancestors(model: onnx.ModelProto, outputs: Sequence[str]) -> onnx.ModelProto:
    """The part of a model that computes these tensors and nothing else."""
    needed, nodes = set(outputs), []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(reads(node))
    part = extract(
        reversed(nodes),
        (value for value in model.graph.input if value.name in needed),
        outputs,
        (tensor for tensor in model.graph.initializer if tensor.name in needed),
        opsets=model.opset_import,
        ir_version=model.ir_version,
    )
    part.functions.extend(model.functions)
    part.graph.sparse_initializer.extend(
        tensor for tensor in model.graph.sparse_initializer if tensor.values.name in needed
    )
    return part


def reads(node: onnx.NodeProto) -> list[str]:
    """The tensors that a node reads, those inside of its subgraphs included."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        graphs = [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else list(attribute.graphs)
        for graph in graphs:
            own = {t.name for t in graph.initializer} | {v.name for v in graph.input}
            own |= {name for inner in graph.node for name in inner.output}
            names += [name for inner in graph.node for name in reads(inner) if name not in own]
    return names


def evaluate(
    nodes: Iterable[onnx.NodeProto], values: Mapping[str, np.ndarray], outputs: Sequence[str], opset: int
) -> list[np.ndarray] | None:
    """What standard operators make of constants, by the reference implementation of the onnx package.

    It needs no runtime, runs every type that ONNX has, and copies no weights into a session. What it lacks
    (operators of other domains) only onnxruntime computes.

    Args:
        values: of all tensors that the nodes read and none of them makes.
        outputs: the tensors that are wanted.

    Returns:
        Their values in this order; None where the reference cannot evaluate the nodes.
    """
    from onnx.reference import ReferenceEvaluator  # 12 MB that most models do not need

    part = extract(
        nodes,
        [typed(name, array.dtype, array.shape) for name, array in values.items()],
        outputs,
        opsets=[helper.make_opsetid("", opset)],
    )
    try:
        return [np.asarray(value) for value in ReferenceEvaluator(part).run(None, dict(values))]
    except Exception:  # it raises whatever its implementations do
        return None

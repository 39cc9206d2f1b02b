"""Bring a graph into the form that the operator rules are written for, without changing what it computes.

One pass per function, in the order of ``canonicalize``:

* local functions are inlined: the rules know operators, not functions;
* integers that follow from fixed lengths become constants, so that a Reshape target can be edited;
* operators on constants alone are evaluated, so that weights behind a Transpose can be sliced.
"""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heappop, heappush
from math import inf, prod

import numpy as np
import onnx
import onnx.inliner
import onnx_graphsurgeon as gs
from onnx.reference import ReferenceEvaluator

from onnxmerge.errors import ModelError
from onnxmerge.graph.constants import constant_tensor, constant_values
from onnxmerge.graph.inference import fill_types, infer
from onnxmerge.graph.shape_values import ShapeValues, value_of
from onnxmerge.graph.weights import Scratch
from onnxmerge.graph.working import import_model

# A length that becomes known makes further shapes known: chains of chunks and views need a round per link.
MOST_ROUNDS = 32
# A folded result larger than this, and than its inputs, would only bloat the file.
MOST_FOLDED_ELEMENTS = 1 << 16
_FOLDABLE = {
    "Abs", "Add", "Cast", "CastLike", "Ceil", "Concat", "ConstantOfShape", "Div", "Equal", "Exp",
    "Expand", "Flatten", "Floor", "Gather", "Identity", "Max", "Min", "Mul", "Neg", "Pow", "Range",
    "Reciprocal", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "Reshape", "Shape",
    "Size", "Slice", "Sqrt", "Squeeze", "Sub", "Tile", "Transpose", "Unsqueeze", "Where",
}  # fmt: skip
# Of these, the ones whose result has no more elements than their operands together.
_REARRANGING = {
    "Concat", "Flatten", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "Reshape",
    "Shape", "Size", "Slice", "Squeeze", "Transpose", "Unsqueeze",
}  # fmt: skip


def canonicalize(proto: onnx.ModelProto, scratch: Scratch | None = None) -> gs.Graph:
    """The canonical working graph of a model; ``proto`` itself is not changed.

    Args:
        scratch: where big constants that were evaluated go; None: they stay in memory.

    Raises:
        ModelError: local functions that cannot be inlined, or a graph with a cycle.
    """
    if proto.functions:
        try:
            proto = onnx.inliner.inline_local_functions(proto)
        except Exception as error:
            raise ModelError(f"local functions cannot be inlined: {error}") from error
    inferred = infer(proto)
    graph = import_model(proto)
    _sort(graph)
    fill_types(graph, inferred.types)
    known: dict[str, np.ndarray] = {}
    for _ in range(MOST_ROUNDS):
        found = fold_known_integers(graph, inferred.shapes)
        if not found:
            break
        known |= found
        inferred = infer(proto, known)
    fold_constants(graph, scratch)
    # Dead nodes go, and the order of the others stays.
    graph.cleanup(recurse_subgraphs=False, recurse_functions=False)
    return graph


def fold_known_integers(graph: gs.Graph, static: Mapping[str, list[int | None]]) -> dict[str, np.ndarray]:
    """Replace integer tensors whose every element follows from fixed lengths by constants; returns them."""
    values = ShapeValues({name: len(shape) for name, shape in static.items()}, static)
    outputs = {tensor.name for tensor in graph.outputs}
    folded: dict[str, np.ndarray] = {}
    for node in graph.nodes:
        if node.op == "Constant" or len(node.outputs) != 1 or node.outputs[0].name in outputs:
            continue
        tensor = node.outputs[0]
        elements = values.elements(tensor) if _is_integer_chain(node) else None
        shape = static.get(tensor.name)
        if not elements or any(value_of(e) is None for e in elements):
            continue
        if shape is None or None in shape or prod(n or 0 for n in shape) != len(elements):
            continue  # elements alone do not tell a number from a list of one
        dtype = np.int32 if node.op == "Cast" and node.attrs.get("to") == onnx.TensorProto.INT32 else np.int64
        folded[tensor.name] = np.array([value_of(e) for e in elements], dtype=dtype).reshape(
            [n or 0 for n in shape]
        )
        _make_constant(node, folded[tensor.name])
    return folded


def _is_integer_chain(node: gs.Node) -> bool:
    if node.op == "Cast":
        return node.attrs.get("to") in (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
    return node.op in (
        "Shape",
        "Gather",
        "Slice",
        "Concat",
        "Unsqueeze",
        "Squeeze",
        "Add",
        "Sub",
        "Mul",
        "Div",
    )


def _make_constant(node: gs.Node, values: np.ndarray) -> None:
    """Turn a node's only output into an initializer of the same name."""
    tensor = node.outputs[0]
    node.outputs.clear()
    node.inputs.clear()
    tensor.to_constant(values)


def fold_constants(graph: gs.Graph, scratch: Scratch | None = None) -> None:
    """Evaluate nodes whose inputs are all constants; quantised weights keep their DequantizeLinear."""
    outputs = {tensor.name for tensor in graph.outputs}
    for node in graph.nodes:
        if node.op not in _FOLDABLE or node.domain or len(node.outputs) != 1 or not node.inputs:
            continue
        used = [x for x in node.inputs if x.name]
        if node.outputs[0].name in outputs or any(constant_tensor(x) is None for x in used):
            continue
        sizes = [prod(_stored(x).shape) for x in used]
        shared = any(
            size > MOST_FOLDED_ELEMENTS and len(x.outputs) > 1 for size, x in zip(sizes, used, strict=True)
        )
        if shared:
            continue  # the original stays for its other users, so a result would be a second copy
        if _result_count(node) <= max([*sizes, MOST_FOLDED_ELEMENTS]):
            result = _evaluate(node, graph.opset or 1)
            if result is not None and result.size <= max([*sizes, MOST_FOLDED_ELEMENTS]):
                _make_constant(node, result if scratch is None else scratch.store(result))


def _stored(tensor: gs.Tensor) -> np.ndarray:
    values = constant_values(tensor)
    assert values is not None, "only nodes on constants come here"
    return values


def _result_count(node: gs.Node) -> float:
    """About how many elements a node on constants gives, infinite where nothing sensible is stated."""
    operands = [_stored(x) for x in node.inputs if x.name]
    shapes = [operand.shape for operand in operands]
    try:
        if node.op in ("ConstantOfShape", "Expand"):
            wanted = [int(v) for v in operands[-1].reshape(-1)]
            return prod(np.broadcast_shapes(wanted, shapes[0] if node.op == "Expand" else ()))
        if node.op == "Tile":
            return prod(shapes[0]) * prod([int(v) for v in operands[1].reshape(-1)])
        if node.op == "Range":
            start, limit, delta = (float(x) for x in operands)
            return abs(limit - start) / abs(delta)
        if node.op == "Gather":
            return prod(shapes[0]) // max(shapes[0][node.attrs.get("axis", 0)], 1) * prod(shapes[1])
        if node.op in _REARRANGING:
            return sum(prod(shape) for shape in shapes)
        return prod(np.broadcast_shapes(*shapes))
    except (TypeError, ValueError, ZeroDivisionError, IndexError):
        return inf


def _evaluate(node: gs.Node, opset: int) -> np.ndarray | None:
    feed = {x.name: _stored(x) for x in node.inputs if x.name}
    if node.op == "Identity":
        return next(iter(feed.values()))
    if node.op == "Transpose":
        return np.ascontiguousarray(np.transpose(feed[node.inputs[0].name], node.attrs.get("perm")))
    exported = gs.exporters.onnx_exporter.OnnxExporter.export_node(node)
    inputs = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for name, a in feed.items()
    ]
    output = onnx.helper.make_empty_tensor_value_info(node.outputs[0].name)
    single = onnx.helper.make_model(
        onnx.helper.make_graph([exported], "constant", inputs, [output]),
        opset_imports=[onnx.helper.make_opsetid("", opset)],
    )
    try:
        result = next(iter(ReferenceEvaluator(single).run(None, feed)))
    except Exception:  # what the reference cannot evaluate stays a node
        return None
    return result if isinstance(result, np.ndarray) else np.asarray(result)


def _sort(graph: gs.Graph) -> None:
    """Put nodes in topological order where they are not; the order in a file is otherwise kept.

    Kahn's algorithm, of the nodes that are ready always the first: graphs may be deeper than a recursion.
    """
    makers = {id(tensor): place for place, node in enumerate(graph.nodes) for tensor in node.outputs}
    users: list[list[int]] = [[] for _ in graph.nodes]
    waiting = [0] * len(graph.nodes)
    for place, node in enumerate(graph.nodes):
        for maker in {makers[id(tensor)] for tensor in _read(node) if id(tensor) in makers}:
            users[maker].append(place)
            waiting[place] += 1
    ready = [place for place, count in enumerate(waiting) if count == 0]
    order = []
    while ready:
        place = heappop(ready)
        order.append(place)
        for user in users[place]:
            waiting[user] -= 1
            if waiting[user] == 0:
                heappush(ready, user)
    if len(order) < len(graph.nodes):
        stuck = next(node for node, count in zip(graph.nodes, waiting, strict=True) if count)
        raise ModelError(
            f"the nodes cannot be put in topological order: {stuck.op} '{stuck.name}' is fed by itself"
        )
    graph.nodes = [graph.nodes[place] for place in order]


def _read(node: gs.Node) -> list[gs.Tensor]:
    """The tensors that a node reads, those inside of its subgraphs included."""
    read, ahead = list(node.inputs), list(node.subgraphs())
    for subgraph in ahead:  # grows while it is walked
        for inner in subgraph.nodes:
            read += inner.inputs
            ahead += inner.subgraphs()
        read += subgraph.outputs
    return read

"""Bring a graph into the form that the operator rules are written for, without changing what it computes.

The passes, in the order of ``canonicalize``:

* local functions are inlined: the rules know operators, not functions;
* what reads a stored tensor through an Identity, as exporters write weights that layers share, reads the
  tensor itself: evaluated it would be a copy;
* operators on constants alone are evaluated (``folding``), so that weights behind a Transpose can be sliced;
* integers that follow from fixed lengths become constants, so that a Reshape target can be edited; what is
  made of them is evaluated in turn;
* a mean over channels alone becomes a sum and a factor (``means``);
* small constants of one value (biases of zero, scales of one) that exporters share are separated, because
  layers that share a constant live and die together.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from heapq import heappop, heappush
from math import prod

import numpy as np
import onnx
import onnx.inliner
import onnx_graphsurgeon as gs

from onnxmerge.errors import ModelError
from onnxmerge.graph.canonicalize.folding import fold_constants
from onnxmerge.graph.canonicalize.inference import fill_types, infer
from onnxmerge.graph.canonicalize.means import means_as_sums
from onnxmerge.graph.canonicalize.shape_values import ShapeValues, value_of
from onnxmerge.graph.constants import is_sparse
from onnxmerge.graph.external_weights import Scratch
from onnxmerge.graph.working_graph import import_model

# A length that becomes known makes further shapes known: chains of chunks and views need a round per link.
MOST_ROUNDS = 32
# Copies of constants that are larger would be felt in the file.
MOST_UNIFORM = 4096


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
    share_stored(graph)
    known = fold_constants(graph, scratch)
    if known:
        inferred = infer(proto, known)
    for _ in range(MOST_ROUNDS):
        found = fold_known_integers(graph, inferred.shapes)
        if not found:
            break
        known |= found | fold_constants(graph, scratch)
        inferred = infer(proto, known)
    means_as_sums(graph, inferred.shapes)
    separate_uniform(graph, {value.name for value in proto.graph.input})
    # Dead nodes go, and the order of the others stays.
    graph.cleanup(recurse_subgraphs=False, recurse_functions=False)
    return graph


def share_stored(graph: gs.Graph) -> None:
    """Let the users of an Identity of a stored tensor read that tensor."""
    kept = {id(tensor) for tensor in graph.outputs}
    for node in graph.nodes:
        if any(True for _ in node.subgraphs()):
            kept |= {id(tensor) for tensor in _read(node)}
    for node in graph.nodes:
        if node.op != "Identity" or node.domain not in (None, "", "ai.onnx") or len(node.inputs) != 1:
            continue
        stored, copy = node.inputs[0], node.outputs[0]
        if isinstance(stored, gs.Constant) and not is_sparse(stored) and id(copy) not in kept:
            for user in list(copy.outputs):
                user.inputs = [stored if x is copy else x for x in user.inputs]
            node.inputs.clear()
            node.outputs.clear()


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
        cast = node.op == "Cast" and node.attrs.get("to") == onnx.TensorProto.INT32
        dtype = np.int32 if cast or tensor.dtype == np.int32 else np.int64
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
        "Where",
    )


def _make_constant(node: gs.Node, values: np.ndarray) -> None:
    """Turn a node's only output into an initializer of the same name."""
    tensor = node.outputs[0]
    node.outputs.clear()
    node.inputs.clear()
    tensor.to_constant(values)


def separate_uniform(graph: gs.Graph, inputs: Collection[str]) -> None:
    """Give every use its own copy of a small floating-point constant whose elements are all alike.

    One node may use it twice: a bias and a running mean of zeros are one constant in many files.

    Args:
        inputs: names that whoever runs the model may give other values.
    """
    names = graph.tensors().keys()
    own = {id(node) for node in graph.nodes}
    for name, tensor in graph.tensors().items():
        users = list({id(node): node for node in tensor.outputs}.values())
        uses = [(user, place) for user in users for place, x in enumerate(user.inputs) if x is tensor]
        if len(uses) < 2 or name in inputs or not all(id(user) in own for user in users):
            continue
        if not _is_uniform(tensor):
            continue
        for number, (user, place) in enumerate(uses[1:]):
            copy = f"{name}__of_{number}"
            if copy not in names:
                user.inputs[place] = gs.Constant(copy, tensor.values)


def _is_uniform(tensor: gs.Tensor) -> bool:
    if not isinstance(tensor, gs.Constant) or is_sparse(tensor) or not 1 < prod(tensor.shape) <= MOST_UNIFORM:
        return False
    values = tensor.values
    return values.dtype.kind == "f" and bool((values == values.reshape(-1)[0]).all())


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

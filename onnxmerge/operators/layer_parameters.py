"""The stored parameters of layers, and what of their storage makes a model slow for no gain.

Two things do, and no answer changes when they go. Weight decay drives the weights of channels that died below
2^-126 in single precision: processors compute with such *denormal* numbers many times slower, and onnxruntime
leaves them unless ``session.set_denormal_as_zero`` is set. And a stored tensor that is listed as an input of
the graph, too, is one that a caller may replace, so that onnxruntime cannot prepare it for its kernels.
Before version 4 of the file format every one had to be listed, and there onnxruntime takes none for that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxmerge.graph.constants import constant_values, set_values, times_read
from onnxmerge.graph.external_weights import Scratch
from onnxmerge.graph.working_graph import FREE_INITIALIZERS
from onnxmerge.operators.pointwise import adds
from onnxmerge.operators.recurrent import WEIGHTS, is_recurrent
from onnxmerge.operators.table import linear_of, normalization_of

# Numbers that are looked at together: few enough for the processor's cache.
_CHUNK = 1 << 16


def layer_parameters(graph: gs.Graph) -> Iterator[tuple[gs.Node, int, gs.Tensor]]:
    """The stored weights, biases and statistics of a graph's linear and recurrent layers and normalisations.

    Yields:
        The layer, the number of its operand, and the tensor. A bias may be added by a node of its own.
    """
    for node in graph.nodes:
        for number, tensor in enumerate(node.inputs):
            values = constant_values(tensor)
            if values is not None and _is_parameter(node, number, values):
                yield node, number, tensor


def flush_denormals(graph: gs.Graph, scratch: Scratch | None = None, kept: Collection[str] = ()) -> int:
    """Make denormal numbers among the parameters of layers zero, float32 and float64.

    What they add to a sum is less than 1e-37 of what they are multiplied by. Whatever else reads a tensor
    may divide by it, or take its logarithm: then it stays, and variances do.

    Args:
        scratch: where big new values go; None: they stay in memory.
        kept: tensors that stay in any case, because subgraphs read them, too.

    Returns:
        How many there were.
    """
    uses: Counter[int] = Counter()
    tensors: dict[int, gs.Tensor] = {}
    for node, number, tensor in layer_parameters(graph):
        norm = normalization_of(node)
        if norm is None or number != norm.variance:
            uses[id(tensor)] += 1
            tensors[id(tensor)] = tensor
    outputs, found = {id(tensor) for tensor in graph.outputs}, 0
    for key, tensor in tensors.items():
        if uses[key] < times_read(tensor) or key in outputs or tensor.name in kept:
            continue
        values = constant_values(tensor)
        assert values is not None, "parameters are stored"
        places = _denormals(values)
        if len(places):
            found += len(places)
            flushed = np.array(values, order="C")
            flushed.reshape(-1)[places] = 0
            set_values(tensor, flushed if scratch is None else scratch.store(flushed))
    return found


def needlessly_inputs(proto: onnx.ModelProto, graph: gs.Graph) -> frozenset[str]:
    """The parameters of layers that are inputs of a model, too, and not for a caller to replace.

    Where only some are listed, somebody meant it: adapters replace such weights. Before version 4 of the
    format all had to be.

    Args:
        graph: the working graph of the model.
    """
    stored = {tensor.name for tensor in proto.graph.initializer}
    listed = frozenset(value.name for value in proto.graph.input if value.name in stored)
    if not listed or proto.ir_version < FREE_INITIALIZERS:
        return frozenset()
    parameters = frozenset(tensor.name for _, _, tensor in layer_parameters(graph)) & stored
    return parameters if parameters <= listed else frozenset()


def _is_parameter(node: gs.Node, number: int, values: np.ndarray) -> bool:
    if is_recurrent(node):
        return number in WEIGHTS
    if linear_of(node) is not None or normalization_of(node) is not None:
        return True
    vector = sum(length > 1 for length in values.shape) == 1
    return vector and adds(node) and any(_has_weight(maker) for x in node.inputs for maker in x.inputs)


def _has_weight(node: gs.Node) -> bool:
    """Whether a node is a linear layer with a stored weight."""
    return linear_of(node) is not None and any(constant_values(x) is not None for x in node.inputs[:2])


def _denormals(values: np.ndarray) -> np.ndarray:
    """The places of denormal numbers in an array read row by row, int64."""
    found = [np.zeros(0, np.int64)]
    if values.dtype in (np.float32, np.float64):
        flat, smallest = values.reshape(-1), np.finfo(values.dtype).tiny
        for begin in range(0, len(flat), _CHUNK):
            size = np.abs(flat[begin : begin + _CHUNK])
            small = size < smallest
            if small.any():
                found.append(begin + np.flatnonzero(small & (size > 0)))
    return np.concatenate(found)

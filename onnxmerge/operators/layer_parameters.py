"""The stored parameters of layers, and what of their storage makes a model slow for no gain.

Two things do, and no answer changes when they go. Weight decay drives the weights of channels that died below
2^-126 in single precision: processors compute with such *denormal* numbers many times slower, and onnxruntime
leaves them unless ``session.set_denormal_as_zero`` is set. And a stored tensor that is listed as an input of
the graph, too, as every one had to be before version 4 of the file format, is one that a caller may replace:
onnxruntime neither packs nor fuses it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxmerge.graph.constants import constant_values, set_values
from onnxmerge.graph.external_weights import Scratch
from onnxmerge.graph.working_graph import FREE_INITIALIZERS
from onnxmerge.operators.pointwise import adds
from onnxmerge.operators.table import linear_of, normalization_of

# Numbers that are looked at together: few enough for the processor's cache.
_CHUNK = 1 << 16


def layer_parameters(graph: gs.Graph) -> Iterator[tuple[gs.Node, int, gs.Tensor]]:
    """The stored weights, biases and statistics of a graph's linear layers and normalisations.

    Yields:
        The layer, the number of its operand, and the tensor. A bias may be added by a node of its own.
    """
    for node in graph.nodes:
        if _is_layer(node) or (adds(node) and any(_is_linear(n) for x in node.inputs for n in x.inputs)):
            for number, tensor in enumerate(node.inputs):
                if constant_values(tensor) is not None:
                    yield node, number, tensor


def flush_denormals(graph: gs.Graph, scratch: Scratch | None = None) -> int:
    """Make denormal numbers among the parameters of layers zero, float32 and float64.

    What they add to a sum is less than 1e-37 of what they are multiplied by. Variances stay: they are divided
    by.

    Args:
        scratch: where big new values go; None: they stay in memory.

    Returns:
        How many there were.
    """
    found = 0
    for node, number, tensor in layer_parameters(graph):
        norm = normalization_of(node)
        if norm is not None and number == norm.variance:
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
    """The stored tensors that are inputs of a model, too, but not for a caller to replace.

    All of them, where the file format knew no others, or where the parameters of all layers are: an exporter
    listed whatever it stored. Else those among them that are parameters of layers.

    Args:
        graph: the working graph of the model.
    """
    stored = {tensor.name for tensor in proto.graph.initializer}
    listed = frozenset(value.name for value in proto.graph.input if value.name in stored)
    if not listed or proto.ir_version < FREE_INITIALIZERS:
        return listed
    parameters = {tensor.name for _, _, tensor in layer_parameters(graph)} & stored
    return listed if parameters and parameters <= listed else listed & parameters


def _is_layer(node: gs.Node) -> bool:
    return _is_linear(node) or normalization_of(node) is not None


def _is_linear(node: gs.Node) -> bool:
    return linear_of(node) is not None


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

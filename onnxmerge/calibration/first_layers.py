"""What the first convolutions of a model compute from given inputs, beside their trained biases."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from onnxmerge.calibration.dataset import Feed
from onnxmerge.graph import weights
from onnxmerge.runtime import Runtime, Session


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution: its output tensor, what is added to its channels, float64 [C], and the running mean
    and variance of a BatchNormalization that is its only consumer, float64 [C] each; None where absent."""

    output: str
    bias: np.ndarray | None
    running: tuple[np.ndarray, np.ndarray] | None


@dataclass(frozen=True, eq=False)
class Observed:
    """Mean and standard deviation of a layer's channels over samples and positions, float64 [C] each."""

    layer: Layer
    mean: np.ndarray
    deviation: np.ndarray


class FirstLayers:
    """The part of a model up to its first `most` convolutions that have a bias or a BatchNormalization.

    Raises ModelError where onnxruntime does not load that part.
    """

    def __init__(self, model: onnx.ModelProto, runtime: Runtime, most: int) -> None:
        self.layers = _layers(model.graph)[:most]
        wanted = [layer.output for layer in self.layers]
        self._session: Session | None = runtime.session(_part(model, wanted)) if wanted else None

    def observe(self, feeds: Iterable[Feed]) -> list[Observed]:
        """The statistics of every layer over all feeds. Raises ModelError if the model does not run."""
        if self._session is None:
            return []
        names = {info.name for info in self._session.inputs}
        sums: dict[str, list[np.ndarray]] = {layer.output: [] for layer in self.layers}
        for feed in feeds:
            found = self._session.run({name: value for name, value in feed.items() if name in names})
            for name, value in found.items():
                axes = (0, *range(2, value.ndim))
                wide = value.astype(np.float64)
                sums[name].append(np.stack([wide.mean(axes), np.square(wide).mean(axes)]))
        observed = []
        for layer in self.layers:
            mean, square = np.mean(sums[layer.output], axis=0)
            observed.append(Observed(layer, mean, np.sqrt(np.maximum(square - mean**2, 0.0))))
        return observed


def _layers(graph: onnx.GraphProto) -> list[Layer]:
    constants = _constants(graph)
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    layers = []
    for node in graph.node:
        if node.op_type != "Conv":
            continue
        output = node.output[0]
        only = users[output][0] if len(users.get(output, ())) == 1 else None
        bias, running = None, None
        if len(node.input) > 2 and node.input[2] in constants:
            bias = _values(constants[node.input[2]])
        if only is not None and only.op_type == "BatchNormalization":
            if all(name in constants for name in only.input[3:5]):
                running = (_values(constants[only.input[3]]), _values(constants[only.input[4]]))
        elif bias is None and only is not None and only.op_type == "Add":
            # Some exporters leave the bias outside; its sum is what the next layer sees.
            stored = [constants[name] for name in only.input if name in constants]
            bias, output = (_values(stored[0]), only.output[0]) if stored else (None, output)
        if bias is not None or running is not None:
            layers.append(Layer(output, bias, running))
    return layers


def _constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            constants.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
        elif node.op_type == "Identity" and node.input[0] in constants:
            constants[node.output[0]] = constants[node.input[0]]
    return constants


def _values(tensor: onnx.TensorProto) -> np.ndarray:
    return weights.values_of(tensor).astype(np.float64).reshape(-1)


def _part(model: onnx.ModelProto, wanted: list[str]) -> onnx.ModelProto:
    """The model that computes these tensors and nothing else."""
    needed, nodes = set(wanted), []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(node.input)
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    needed.update(name for inner in attribute.g.node for name in inner.input)
    part = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    part.functions.extend(model.functions)
    part.graph.name = "first_layers"
    part.graph.node.extend(reversed(nodes))
    part.graph.input.extend(value for value in model.graph.input if value.name in needed)
    part.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in needed)
    part.graph.sparse_initializer.extend(
        tensor for tensor in model.graph.sparse_initializer if tensor.values.name in needed
    )
    part.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in wanted)
    return part

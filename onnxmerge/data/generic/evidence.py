"""What a model does with photographs under a convention: in its layers, and in its answers.

Under the right convention a trained model is in the state that it was trained in. What tells:

* where BatchNorm survived, its running mean and variance say what a layer should observe;
* where it was folded, or never was, the biases of the first layer are of the order of what it varies by.
  Pixels many times too small are *washed out*: the biases are all that is left, and every picture gets the
  same answer. Pixels many times too large *drown* the biases (of which trained nets without BatchNorm may
  have almost none);
* class scores *inform* about the picture: they differ from picture to picture, and are sure of something in
  each. Under a wrong convention they are all alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx

from onnxmerge.graph import external_weights
from onnxmerge.graph.constants import stored_tensors
from onnxmerge.graph.extract import ancestors
from onnxmerge.operators.parameters import convolution_bias, is_convolution
from onnxmerge.operators.pointwise import is_add, is_identity
from onnxmerge.operators.table import normalization_of
from onnxmerge.runtime import Runtime
from onnxmerge.runtime.session import Feed

# Layers that are watched, spread over the depth of the model, and of these the ones that count as early.
_MOST_LAYERS, _EARLY = 40, 4
# Divergences beyond this say no more, in nats.
_FAR = 50.0


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution: its output tensor, what is added to its channels, float64 [C], and the running mean
    and variance of a BatchNormalization that is its only consumer, float64 [C] each; None where absent."""

    output: str
    bias: np.ndarray | None
    running: tuple[np.ndarray, np.ndarray] | None


@dataclass(frozen=True)
class Evidence:
    """What was seen under one convention; None where the model has nothing to see it by.

    Attributes:
        divergence, divergence_all: of the observed from the running statistics, in nats: mean over the first
            layers with BatchNorm, and over all.
        bias: log of the median ratio of the first layer's biases to its deviations; None beside BatchNorm.
        information: what class scores tell about the picture: entropy of the mean answer less the mean
            entropy of answers, in nats.
        consistency: the share of that information which images and their mirror images agree on; None where
            mirror images were not looked at.
    """

    divergence: float | None = None
    divergence_all: float | None = None
    bias: float | None = None
    information: float | None = None
    consistency: float | None = None


class Witness:
    """The model with its convolutions in view.

    Args:
        model: as it will be run; a normalisation inside the graph counts as part of it.
        runtime: where to run it.
        scores: the outputs that hold class scores along their last axis.

    Raises:
        ModelError: onnxruntime does not load the model with these outputs.
    """

    def __init__(self, model: onnx.ModelProto, runtime: Runtime, scores: Sequence[str]) -> None:
        self._layers = _watched(_layers(model.graph))
        self._scores = list(scores[:1])
        self._names = list(dict.fromkeys([*(layer.output for layer in self._layers), *self._scores]))
        self._runtime = runtime
        self._part = ancestors(model, self._names) if self._names else None
        self._session = None if self._part is None else runtime.session(self._part)
        self._inputs = set() if self._session is None else {info.name for info in self._session.inputs}

    def size(self, feed: Feed) -> int:
        """How many numbers the tensors of the watched part hold together for one feed."""
        if self._part is None:
            return 0
        return sum(prod(shape) for shape in self._runtime.trace(self._part, self._own(feed)).values())

    def _own(self, feed: Feed) -> Feed:
        return {name: value for name, value in feed.items() if name in self._inputs}

    def observe(self, feeds: Iterable[Feed], mirrored: Iterable[Feed] = ()) -> Evidence:
        """What the model does with pictures, and with their mirror images in the same order.

        Raises:
            ModelError: the model does not run.
        """
        sums: dict[str, list[np.ndarray]] = {layer.output: [] for layer in self._layers}
        answers = []
        for several in (feeds, mirrored):
            scores = []
            for feed in several:
                values = {}
                if self._session is not None:
                    values = self._session.run(self._own(feed))
                for layer in self._layers:
                    wide = values[layer.output].astype(np.float64)
                    axes = (0, *range(2, wide.ndim))
                    sums[layer.output].append(np.stack([wide.mean(axes), np.square(wide).mean(axes)]))
                scores += [_probabilities(values[name]) for name in self._scores if _is_flat(values[name])]
            answers.append(np.concatenate(scores) if scores else np.zeros((0, 1)))
        return Evidence(*self._of_layers(sums), *_of_answers(*answers))

    def _of_layers(
        self, sums: Mapping[str, list[np.ndarray]]
    ) -> tuple[float | None, float | None, float | None]:
        divergences = []
        for layer in self._layers:
            mean, square = np.mean(sums[layer.output], axis=0)
            deviation = np.sqrt(np.maximum(square - mean**2, 0.0))
            if layer.running is not None:
                divergences.append(_divergence(mean, deviation, *layer.running))
            elif layer.bias is not None and len(layer.bias) == len(deviation):
                live = deviation > 1e-6 * deviation.max(initial=1e-30)
                ratio = np.median(np.abs(layer.bias[live]) / deviation[live]) if live.any() else 1e6
                return None, None, float(np.log(ratio + 1e-6))
        if not divergences:
            return None, None, None
        early, every = np.array(divergences[:_EARLY]), np.array(divergences)
        return float(early.mean()), float(np.minimum(every, _FAR).mean()), None


def _watched(layers: Sequence[Layer]) -> list[Layer]:
    """The layers that tell: those with BatchNorm, or else the first one with a bias."""
    normed = [layer for layer in layers if layer.running is not None]
    # Where the first layer's BatchNorm was folded and a later one's was not, its bias is the better witness.
    if not normed or layers[0].running is None:
        return list(layers[:1])
    chosen = np.unique(np.linspace(0, len(normed) - 1, min(len(normed), _MOST_LAYERS)).astype(int))
    return [normed[i] for i in chosen]


def _divergence(
    mean: np.ndarray, deviation: np.ndarray, running_mean: np.ndarray, variance: np.ndarray
) -> float:
    """Median over channels of the divergence of N(observed) from N(running), in nats."""
    variance = variance + 1e-5
    ratio = (deviation**2 + 1e-9) / variance
    return float(np.median(0.5 * (ratio + (mean - running_mean) ** 2 / variance - 1 - np.log(ratio))))


def _is_flat(scores: np.ndarray) -> bool:
    """Whether there is one answer per picture, and not one for each of its places."""
    return scores.ndim > 1 and scores.size == len(scores) * max(scores.shape[1:])


def _probabilities(scores: np.ndarray) -> np.ndarray:
    """Class scores, [N, C] but for axes of length 1, as probabilities [N, C], float64."""
    s = scores.astype(np.float64).reshape(len(scores), -1)
    if s.min(initial=0.0) >= -1e-6 and np.allclose(s.sum(axis=1), 1, atol=1e-2):
        return np.maximum(s, 0.0)
    s = np.exp(s - s.max(axis=1, keepdims=True))
    return s / s.sum(axis=1, keepdims=True)


def _of_answers(answers: np.ndarray, mirrored: np.ndarray) -> tuple[float | None, float | None]:
    """Information and consistency of answers, [N, classes] probabilities each; ``mirrored`` may be empty."""
    if not len(answers) or answers.shape[1] < 2:
        return None, None
    both = answers if not len(mirrored) else np.concatenate([answers, mirrored])
    information = float(_entropy(both.mean(axis=0)) - _entropy(both).mean())
    if not len(mirrored):
        return information, None
    apart = float((_entropy((answers + mirrored) / 2) - (_entropy(answers) + _entropy(mirrored)) / 2).mean())
    return information, 1 - apart / max(information, 1e-9)


def _entropy(probabilities: np.ndarray) -> np.ndarray:
    return -(probabilities * np.log(probabilities + 1e-12)).sum(axis=-1)


def _layers(graph: onnx.GraphProto) -> list[Layer]:
    constants = _constants(graph)
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    layers = []
    for node in graph.node:
        slot = convolution_bias(node) if is_convolution(node) else None
        if slot is None:
            continue
        output = node.output[0]
        only = users[output][0] if len(users.get(output, ())) == 1 else None
        bias, running = None, None
        if len(node.input) > slot and node.input[slot] in constants:
            bias = _values(constants[node.input[slot]])
        norm = None if only is None else normalization_of(only)
        if only is not None and norm is not None:
            mean, variance = (constants.get(only.input[i]) for i in (norm.mean, norm.variance))
            if mean is not None and variance is not None:
                running = (_values(mean), _values(variance))
        elif bias is None and only is not None and is_add(only):
            # Some exporters leave the bias outside; its sum is what the next layer sees.
            stored = [constants[name] for name in only.input if name in constants]
            bias, output = (_values(stored[0]), only.output[0]) if stored else (None, output)
        if bias is not None or running is not None:
            layers.append(Layer(output, bias, running))
    return layers


def _constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    constants = stored_tensors(graph)
    for node in graph.node:
        if is_identity(node) and node.input[0] in constants:
            constants[node.output[0]] = constants[node.input[0]]
    return constants


def _values(tensor: onnx.TensorProto) -> np.ndarray:
    return external_weights.values_of(tensor).astype(np.float64).reshape(-1)

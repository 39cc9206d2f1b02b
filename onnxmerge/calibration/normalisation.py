"""Which numbers a model expects its pixels to be, inferred from the model and unlabelled photographs.

The evidence is what the first convolutions compute, under every candidate:

* where BatchNorm survived, its running mean and variance say what should be observed;
* the *range* of the pixels shows in the first layer's bias: it is of the order of the layer's deviation.
  Pixels 255 times too small leave a constant, pixels too large drown the bias;
* the *offset* shows in balance: biases (those that an exporter folded BatchNorm into above all) cancel the
  mean of what a layer sums up, so that its channels are centred about as well as they vary. Biases that
  are too small to cancel anything say that there was nothing to cancel: pixels in 0..1.

Balance alone prefers large contrast, whatever the truth. So plainer candidates win unless another one is
better by a factor that was measured on models whose normalisation is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import onnx

from onnxmerge.calibration.dataset import Feed
from onnxmerge.calibration.first_layers import FirstLayers, Observed
from onnxmerge.calibration.images import ImageOptions
from onnxmerge.errors import ModelError
from onnxmerge.runtime import Runtime


@dataclass(frozen=True)
class Normalisation:
    """Pixels x in 0..255 become (x * scale - mean) / std, channels in RGB order.

    `name` is for reports, and `evidence` says in a few words why it was chosen.
    """

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float
    evidence: str = ""

    @property
    def options(self) -> ImageOptions:
        """The same as options for folders of images."""
        return ImageOptions(self.mean, self.std, self.scale)

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels [..., channels] in 0..255 as the model's numbers, float32 of the same shape."""
        mean, std = (np.asarray(values, np.float32) for values in (self.mean, self.std))
        return (pixels.astype(np.float32) * np.float32(self.scale) - mean) / std


BYTES = Normalisation("0..255", (0.0,), (1.0,), 1.0)
CENTRED = Normalisation("0..255 less the mean colour", (123.68, 116.78, 103.94), (1.0,), 1.0)
UNIT = Normalisation("0..1", (0.0,), (1.0,), 1 / 255)
SYMMETRIC = Normalisation("-1..1", (0.5,), (0.5,), 1 / 255)
IMAGENET = Normalisation("ImageNet mean and std", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 1 / 255)
CIFAR = Normalisation("CIFAR mean and std", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010), 1 / 255)

_LAYERS = 16
_TYPICAL = -0.7  # log of the usual ratio of bias to deviation in a first layer
_NO_BIAS = -1.5  # below this mean log ratio under 0..1, biases cancel nothing
# By how much the plainer candidate's imbalance must exceed the next one's to give way to it.
_TO_CENTRED, _TO_SYMMETRIC, _TO_COLOURS = 1.3, 1.3, 1.5
_SMALL = 64  # pixels: data sets of small images have a contrast of their own

Feeder = Callable[[Normalisation], Iterable[Feed]]


def infer_normalisation(
    model: onnx.ModelProto,
    runtime: Runtime,
    feeder: Feeder,
    *,
    channels: int,
    smallest_side: int,
    whole: bool,
) -> Normalisation:
    """The most plausible normalisation of the image input.

    Args:
        model: the model as it will be run; a normalisation inside the graph counts as part of it.
        runtime: where to run its first layers.
        feeder: feeds of the same photographs under a given normalisation.
        channels: colour channels of the input, 1 or 3.
        smallest_side: shorter side of the input in pixels.
        whole: whether the input is of an integer type: then pixels stay what they are.
    """
    if whole:
        return replace(BYTES, evidence="the input takes integers")
    # The statistics of the two data sets are too close to be told apart by anything but the size of images.
    colours = CIFAR if smallest_side <= _SMALL else IMAGENET
    candidates = (BYTES, UNIT, SYMMETRIC, *((CENTRED, colours) if channels == 3 else ()))
    try:
        first = FirstLayers(model, runtime, _LAYERS)
        seen = {c: first.observe(feeder(c)) for c in candidates}
    except ModelError:
        return replace(UNIT, evidence="assumed: the first layers do not run on their own")
    if not first.layers:
        return replace(UNIT, evidence="assumed: no convolution has a bias that could tell")
    if first.layers[0].running is not None:
        return _by_batch_norm(seen)
    return _by_balance(seen, colours)


def _by_batch_norm(seen: dict[Normalisation, list[Observed]]) -> Normalisation:
    distance = {}
    for candidate, layers in seen.items():
        normed = [layer for layer in layers if layer.layer.running is not None][:4]
        distance[candidate] = float(np.mean([_divergence(layer) for layer in normed]))
    ranked = sorted(distance, key=lambda candidate: distance[candidate])
    best, second = ranked[:2]
    return replace(
        best,
        evidence=f"BatchNorm statistics differ by {distance[best]:.2g} nats, "
        f"by {distance[second]:.2g} under {second.name}",
    )


def _divergence(observed: Observed) -> float:
    """Median over channels of the divergence of N(observed) from N(running), in nats."""
    assert observed.layer.running is not None
    mean, variance = observed.layer.running
    variance = variance + 1e-5
    ratio = (observed.deviation**2 + 1e-9) / variance
    return float(np.median(0.5 * (ratio + (observed.mean - mean) ** 2 / variance - 1 - np.log(ratio))))


def _by_balance(seen: dict[Normalisation, list[Observed]], colours: Normalisation) -> Normalisation:
    off = {candidate: float(np.mean([_imbalance(o) for o in layers])) for candidate, layers in seen.items()}
    weight = {c: [_bias_weight(o) for o in layers if o.layer.bias is not None] for c, layers in seen.items()}
    if abs(weight[BYTES][0] - _TYPICAL) < abs(weight[UNIT][0] - _TYPICAL):
        best = BYTES
        if CENTRED in off and off[BYTES] > _TO_CENTRED * off[CENTRED]:
            best = CENTRED
        return replace(best, evidence=_reason(weight[UNIT][0], weight[best][0], UNIT, off[best]))
    if np.mean(weight[UNIT]) < _NO_BIAS:
        return replace(UNIT, evidence="biases are too small to cancel an offset of the pixels")
    best = UNIT
    if off[UNIT] > _TO_SYMMETRIC * min(off[c] for c in (SYMMETRIC, colours) if c in off):
        best = SYMMETRIC
        if colours in off and off[SYMMETRIC] > _TO_COLOURS * off[colours]:
            best = colours
    return replace(best, evidence=_reason(weight[BYTES][0], weight[best][0], BYTES, off[best]))


def _reason(other: float, chosen: float, rival: Normalisation, off: float) -> str:
    return (
        f"first biases are {np.exp(chosen):.2g} of the deviation ({np.exp(other):.2g} under {rival.name}), "
        f"imbalance {off:.2f}"
    )


def _live(observed: Observed) -> np.ndarray:
    return observed.deviation > 1e-6 * observed.deviation.max(initial=1e-30)


def _imbalance(observed: Observed) -> float:
    """Median over live channels of log(1 + (mean / deviation)^2) / 2."""
    live = _live(observed)
    if not live.any():
        return 6.0  # everything is constant: as far off as it gets
    ratio = observed.mean[live] / observed.deviation[live]
    return float(np.median(0.5 * np.log1p(ratio**2)))


def _bias_weight(observed: Observed) -> float:
    """Log of the median ratio of bias to deviation over live channels."""
    live = _live(observed)
    if not live.any() or observed.layer.bias is None or len(observed.layer.bias) != len(live):
        return 12.0
    return float(np.log(np.median(np.abs(observed.layer.bias[live]) / observed.deviation[live]) + 1e-6))

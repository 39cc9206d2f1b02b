"""Which numbers models expect their pixels to be: the conventions in common use."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Convention:
    """Pixels x in 0..255 become (x * scale - mean) / std, in RGB order or, at the end, in BGR.

    Attributes:
        name: for reports, without the order.
        mean, std: one number, or one per colour in RGB order.
        order: of the colours in the model's input, 'rgb' or 'bgr'; 'grey' where there is one channel.
        per_image: every image is brought to mean 0 and deviation 1 by itself; the numbers above say nothing.
        prior: how common it is, before a model is looked at; relative to the others.
    """

    name: str
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    scale: float = 1.0
    order: str = "rgb"
    per_image: bool = False
    prior: float = 1.0

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """RGB pixels [N, height, width, channels] in 0..255 as the model's numbers, float32, same shape."""
        values = pixels.astype(np.float32)
        if self.per_image:
            # As TensorFlow's per_image_standardization, which bounds the deviation of flat images.
            least = np.float32(1 / np.sqrt(np.prod(pixels.shape[1:])))
            mean, std = (f(values, axis=(1, 2, 3), keepdims=True) for f in (np.mean, np.std))
            values = (values - mean) / np.maximum(std, least)
        else:
            mean, std = (np.asarray(numbers, np.float32) for numbers in (self.mean, self.std))
            values = (values * np.float32(self.scale) - mean) / std
        return values[..., ::-1] if self.order == "bgr" else values

    def values(self, pixels: np.ndarray, planes: bool, dtype: np.dtype) -> np.ndarray:
        """RGB pixels [N, height, width, channels] in 0..255 as an input takes them.

        Integer types are rounded and clipped. With ``planes`` the result is [N, channels, height, width].
        """
        values = self.apply(pixels)
        if dtype.kind in "iu":
            limits = np.iinfo(dtype)
            values = np.clip(np.rint(values), limits.min, limits.max)
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2) if planes else values, dtype)

    def undo(self, values: np.ndarray) -> np.ndarray:
        """A model's numbers [.., channels] as RGB or grey pixels, uint8, same shape.

        What ``per_image`` took away is not in the numbers: such images are stretched to 0..255.
        """
        if self.order == "bgr":
            values = values[..., ::-1]
        if self.per_image:
            return stretched(values)
        mean, std = (np.asarray(numbers, np.float64) for numbers in (self.mean, self.std))
        return _pixels((values * std + mean) / self.scale)

    def __str__(self) -> str:
        return self.name if self.order == "grey" else f"{self.name}, {self.order.upper()}"


def stretched(values: np.ndarray) -> np.ndarray:
    """Numbers of which nothing is known as pixels, uint8: the smallest becomes 0, the largest 255."""
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    return _pixels((values.astype(np.float64) - low) * (255 / ((high - low) or 1)))


def _pixels(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(np.nan_to_num(values)), 0, 255).astype(np.uint8)


_COLOUR = (
    # Name, mean, std, scale, how common it is in RGB and in BGR order.
    ("0..255", (0.0,), (1.0,), 1.0, 0.07, 0.07),
    ("0..255 less the mean colour", (123.68, 116.779, 103.939), (1.0,), 1.0, 0.02, 0.08),
    ("0..1", (0.0,), (1.0,), 1 / 255, 0.16, 0.06),
    ("-0.5..0.5", (0.5,), (1.0,), 1 / 255, 0.02, 0.01),
    ("-1..1", (0.5,), (0.5,), 1 / 255, 0.14, 0.06),
    ("ImageNet mean and std", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 1 / 255, 0.18, 0.05),
    ("CIFAR mean and std", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010), 1 / 255, 0.14, 0.04),
)
_GREY = (
    ("0..255", 0.0, 1.0, 1.0, 0.2),
    ("0..1", 0.0, 1.0, 1 / 255, 0.3),
    ("-0.5..0.5", 0.5, 1.0, 1 / 255, 0.05),
    ("-1..1", 0.5, 0.5, 1 / 255, 0.2),
    ("MNIST mean and std", 0.1307, 0.3081, 1 / 255, 0.15),
    ("Fashion-MNIST mean and std", 0.2860, 0.3530, 1 / 255, 0.05),
)
_PER_IMAGE = "each image less its mean, over its deviation"

COLOUR = (
    *(Convention(n, m, s, k, "rgb", prior=p) for n, m, s, k, p, _ in _COLOUR),
    *(Convention(n, m, s, k, "bgr", prior=p) for n, m, s, k, _, p in _COLOUR),
    Convention(_PER_IMAGE, order="rgb", per_image=True, prior=0.02),
    Convention(_PER_IMAGE, order="bgr", per_image=True, prior=0.01),
)
GREY = (
    *(Convention(n, (m,), (s,), k, "grey", prior=p) for n, m, s, k, p in _GREY),
    Convention(_PER_IMAGE, order="grey", per_image=True, prior=0.05),
)


def candidates(channels: int, whole: bool) -> tuple[Convention, ...]:
    """The conventions that an input may follow.

    Args:
        channels: colour channels, 1 or 3.
        whole: whether the input is of an integer type: then pixels stay what they are.
    """
    known = COLOUR if channels == 3 else GREY
    return tuple(c for c in known if c.name == "0..255") if whole else known

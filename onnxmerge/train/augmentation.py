"""Images that the original can be asked about besides the ones given: mirrored and moved by some pixels."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

# The largest shift, as a part of the shorter side: 4 of CIFAR's 32 pixels, as it is usual there.
_SHIFT = 1 / 8


class Augmentation:
    """Random mirror images and shifts, every sample its own; the border moves in mirrored.

    Args:
        layouts: ``nchw`` or ``nhwc`` by the names of the inputs that are images; all others stay as they are.
    """

    def __init__(self, layouts: Mapping[str, str]):
        self._layouts = dict(layouts)

    def __bool__(self) -> bool:
        """Whether anything is changed."""
        return bool(self._layouts)

    def __call__(self, feed: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """The feed with its images changed; several images of one sample all in the same way."""
        changed = dict(feed)
        state = generator.get_state()
        for name, layout in self._layouts.items():
            generator.set_state(state)
            changed[name] = _moved(feed[name], layout, generator)
        return changed


def _moved(images: Tensor, layout: str, generator: torch.Generator) -> Tensor:
    """[N, C, H, W] or [N, H, W, C], of any type."""
    pixels = images.permute(0, 2, 3, 1) if layout == "nchw" else images
    count, height, width, _ = pixels.shape
    mirrored = torch.rand(count, 1, generator=generator) < 0.5
    most = int(min(height, width) * _SHIFT)
    down, right = torch.randint(-most, most + 1, (2, count, 1), generator=generator)
    rows = _reflected(torch.arange(height) + down, height)
    columns = _reflected(torch.arange(width) + right, width)
    columns = torch.where(mirrored, columns.flip(1), columns)
    samples = torch.arange(count)[:, None, None]
    # Channels last are gathered in whole pixels; the view back to nchw is what convolutions like best.
    found = pixels[samples, rows[:, :, None], columns[:, None, :]]
    return found.permute(0, 3, 1, 2) if layout == "nchw" else found


def _reflected(places: Tensor, length: int) -> Tensor:
    """Places beyond an edge, counted back from it; int64, none is further out than ``length - 1``."""
    places = places.abs()
    return torch.where(places < length, places, 2 * (length - 1) - places)

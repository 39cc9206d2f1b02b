"""Images that the original can be asked about besides the ones given: mirrored and moved by some pixels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

# The versions that there are of every sample. There are not more, so that the original's answers to them
# can be kept.
VERSIONS = 8
# The largest shift, as a part of the shorter side: 4 of CIFAR's 32 pixels, as it is usual there.
_SHIFT = 1 / 8


class Augmentation:
    """Mirror images and shifts, drawn once for every version of every sample; the border moves in mirrored.

    Args:
        layouts: ``nchw`` or ``nhwc`` by the names of the inputs that are images; all others stay as they are.
        samples: how many there are.
    """

    def __init__(self, layouts: Mapping[str, str], samples: int, seed: int = 0):
        self._layouts = dict(layouts)
        rng = np.random.default_rng(seed)
        self._mirrored = torch.from_numpy(rng.random((samples, VERSIONS)) < 0.5)
        self._shifts = torch.from_numpy(rng.uniform(-1, 1, (samples, VERSIONS, 2)))

    def __bool__(self) -> bool:
        """Whether anything is changed."""
        return bool(self._layouts)

    def __call__(
        self, feed: Mapping[str, Tensor], rows: np.ndarray, versions: np.ndarray
    ) -> dict[str, Tensor]:
        """The feed with its images changed; several images of one sample all in the same way.

        Args:
            rows: the numbers of the samples in the feed, int64 [n].
            versions: which version of each, int64 [n], 0..VERSIONS-1.
        """
        changed = dict(feed)
        for name, layout in self._layouts.items():
            images = feed[name]
            # A feed that is one sample by itself may hold several images.
            places = (torch.from_numpy(v).expand(len(images)) for v in (rows, versions))
            row, version = places
            changed[name] = _moved(images, layout, self._mirrored[row, version], self._shifts[row, version])
        return changed


def _moved(images: Tensor, layout: str, mirrored: Tensor, shifts: Tensor) -> Tensor:
    """[N, C, H, W] or [N, H, W, C], of any type; ``shifts`` are float [N, 2], parts of the largest one."""
    pixels = images.permute(0, 2, 3, 1) if layout == "nchw" else images
    count, height, width, _ = pixels.shape
    moves = (shifts * min(height, width) * _SHIFT).round().long()
    rows = _reflected(torch.arange(height) + moves[:, :1], height)
    columns = _reflected(torch.arange(width) + moves[:, 1:], width)
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    samples = torch.arange(count)[:, None, None]
    # Channels last are gathered in whole pixels; the view back to nchw is what convolutions like best.
    found = pixels[samples, rows[:, :, None], columns[:, None, :]]
    return found.permute(0, 3, 1, 2) if layout == "nchw" else found


def _reflected(places: Tensor, length: int) -> Tensor:
    """Places beyond an edge, counted back from it; int64, none is further out than ``length - 1``."""
    places = places.abs()
    return torch.where(places < length, places, 2 * (length - 1) - places)

"""Which rows of a regression are looked at: where an answer is decided, more of them.

A detector finds something at a few of thousands of places. Least squares counts all places alike, so that
what it fits is the background: in one with 2100 rows of scores, at 0.8 of its multiplications, rows without
an object were wrong by 0.001 in probability (root of the mean square), rows sure of one by 0.2. Rows are
drawn in proportion to what their place counts. Of the boxes of two detectors, on pictures that calibrated
nothing, 11.3% and 33.0% changed without that, and 10.6% and 27.9% with it, one run each; the first pair is
within chance, and the share was chosen on it (0.85 with the inner halves of boxes: 13.3%). Channels are
chosen with all places alike. See ``tools/results/applications.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from onnxmerge.runtime.session import Feed

# The share of the rows that are drawn by what their place counts; the others are drawn alike from everywhere.
SHARE = 0.5

# From feeds, and the samples that the model takes at a time (None: any number), to what the places of every
# feed count, as for ``Emphasis.of``.
CountPlaces = Callable[[Iterable[Feed], int | None], Sequence[np.ndarray | None]]


@dataclass(frozen=True, eq=False)
class Emphasis:
    """How much the places of the samples count, by batch.

    Attributes:
        places: of every batch, float [samples, height, width], parts of a picture of any resolution; their
            mean over all batches is 1.
    """

    places: tuple[np.ndarray, ...]

    @staticmethod
    def of(counts: Sequence[np.ndarray | None]) -> Emphasis | None:
        """From how much places count in any unit; None where some batch tells nothing, or all places alike.

        Args:
            counts: of every batch, at least 0, shapes as in ``places``.
        """
        known = [one for one in counts if one is not None]
        mean = sum(float(one.sum()) for one in known) / max(sum(one.size for one in known), 1)
        if len(known) < len(counts) or not mean > 0:
            return None
        return Emphasis(tuple(1 - SHARE + SHARE * one / mean for one in known))

    def rows(self, batch: int, samples: int, grid: tuple[int, ...]) -> np.ndarray | None:
        """What each row of a batch counts, float64 [samples * positions].

        Args:
            grid: the positions of a sample, in the order of the rows.

        Returns:
            None where the positions are no places of a picture.
        """
        places = self.places[batch]
        if len(places) != samples or len(grid) != 2 or prod(grid) < 2:
            return None
        down, across = (_cover(size, of) for size, of in zip(grid, places.shape[1:], strict=True))
        return np.asarray(np.einsum("ah,nhw,bw->nab", down, places, across, optimize=True)).reshape(-1)


def _cover(size: int, of: int) -> np.ndarray:
    """What share of each of ``size`` equal parts lies in each of ``of`` equal parts, float64 [size, of]."""
    here, there = np.linspace(0, 1, size + 1), np.linspace(0, 1, of + 1)
    common = np.minimum(here[1:, None], there[1:]) - np.maximum(here[:-1, None], there[:-1])
    return np.asarray(np.maximum(common, 0) * size)


def drawn(counts: np.ndarray | None, count: int, most: int, rng: np.random.Generator) -> np.ndarray:
    """Some of the rows of a batch, in their order, int64 [at most ``most``].

    Args:
        counts: what each row counts, float64 [count]: rows are drawn in proportion to it, evenly spread, and
            those that count much more than once; None: all count alike, and each is drawn at most once.
    """
    if counts is None:
        return np.arange(count) if count <= most else np.sort(rng.choice(count, most, replace=False))
    total = np.cumsum(counts)
    number = min(count, most)
    ticks = (np.arange(number) + rng.random(number)) * (total[-1] / number)
    return np.minimum(np.searchsorted(total, ticks, side="right"), count - 1)

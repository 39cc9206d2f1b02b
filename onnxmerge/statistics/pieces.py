"""Which rows of a batch are looked at, and how they are put together from the pieces that it is run in."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from onnxmerge.statistics.emphasis import Emphasis, drawn
from onnxmerge.statistics.moments import equalising_weight

Values = dict[str, np.ndarray]

# With more features than this, rows are kept instead of a covariance.
MOST_FEATURES = 5120
# With more features than this, rows are kept, too, where there are less than half as many of them: a
# covariance would take hundreds of MB and minutes, and hold nothing more.
_CHEAP_FEATURES = 1536


@dataclass(frozen=True, eq=False)
class RowSample:
    """Which rows of every batch are looked at.

    Attributes:
        per_batch: at most so many of each batch, chosen at random.
        batches: how many there are.
        samples: how often the shapes of the analysis fit into the data.
        seed: of the choice, which does not depend on the order in which batches are worked on.
        equal: whether every batch counts alike, whatever the size of its values.
        emphasis: what the places of the samples count; None: all alike.
    """

    per_batch: int
    batches: int
    samples: int
    seed: tuple[int, ...]
    equal: bool = False
    emphasis: Emphasis | None = None

    def weight(self, targets: np.ndarray) -> float:
        """What each row of a batch with these targets, [..., n, O], weighs."""
        return equalising_weight(targets) if self.equal else 1.0

    def supports_covariance(self, features: int, each: int) -> bool:
        """Whether a covariance of so many features is worth its size, with ``each`` rows per sample."""
        rows = min(self.samples * each, self.batches * self.per_batch)
        return features <= _CHEAP_FEATURES or features <= min(MOST_FEATURES, 2 * rows)

    def of(self, samples: int, grid: tuple[int, ...], batch: int) -> tuple[np.ndarray, int]:
        """The rows of a batch that are looked at.

        Args:
            samples: of the batch; where it is one, every fourth batch is held out.
            grid: the rows of a sample, as they lie.
            batch: its number.

        Returns:
            The chosen rows, int64, in their order but for those of every fourth sample, which are held out
            and come last; and how many are not held out.
        """
        each = prod(grid)
        counts = None if self.emphasis is None else self.emphasis.rows(batch, samples, grid)
        chosen = drawn(counts, samples * each, self.per_batch, np.random.default_rng((*self.seed, batch)))
        held = (chosen // max(each, 1) + batch) % 4 == 3
        return np.concatenate([chosen[~held], chosen[held]]), int(np.count_nonzero(~held))


@dataclass(frozen=True, eq=False)
class Piece:
    """What both models compute of some samples of a batch: a whole one would have hundreds of MB.

    Attributes:
        old, new: values of the untouched model and of the new one, by name.
        begin, end: which samples of the batch.
        of: how many the batch has.
    """

    old: Values
    new: Values
    begin: int
    end: int
    of: int


class Picked:
    """Rows of a batch, and where they lie in its pieces."""

    def __init__(self, chosen: np.ndarray, each: int | None):
        """Row numbers within the batch, int64; the rows of a sample, or None: every piece has the same."""
        self.chosen, self._each = chosen, each

    @staticmethod
    def of(
        sample: RowSample, shape: tuple[int, ...], axis: int, one: int, batch: int, piece: Piece
    ) -> tuple[Picked, int]:
        """What is looked at of a tensor, and how many rows are not held out.

        Args:
            shape: of the tensor in a piece.
            axis: the one that rows lie along.
            one: the rows of one sample.
        """
        samples, grid = _grid(shape, axis)
        here = piece.end - piece.begin
        # Else this piece is the batch, or the tensor does not depend on the samples.
        apart = here < piece.of and samples * prod(grid) == here * one
        if apart:
            samples, grid = piece.of, grid if samples == here else (one,)
        chosen, cut = sample.of(samples, grid, batch)
        return Picked(chosen, one if apart else None), cut

    def every(self, step: int) -> Picked:
        """Some of them, evenly spread."""
        return Picked(self.chosen[::step], self._each)

    def inside(self, piece: Piece) -> tuple[np.ndarray, np.ndarray]:
        """Which of them lie in a piece, bool; and their numbers there, int64."""
        if self._each is None:
            here = np.full(len(self.chosen), piece.begin == 0)
            return here, self.chosen[here]
        begin, end = piece.begin * self._each, piece.end * self._each
        here = (begin <= self.chosen) & (self.chosen < end)
        return here, self.chosen[here] - begin


class Assembled:
    """Rows of a batch, float32 [blocks, rows, n] by what they are of, put together from its pieces."""

    def __init__(self) -> None:
        self._parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}

    def put(self, name: str, here: np.ndarray, found: np.ndarray) -> None:
        """Take in those of a piece, which are at these places (bool)."""
        self._parts.setdefault(name, []).append((here, found))

    def __contains__(self, name: str) -> bool:
        return name in self._parts

    def take(self, name: str) -> np.ndarray:
        """All of them; what was put in is let go."""
        parts = self._parts.pop(name)
        here, most = max(parts, key=lambda part: part[1].shape[1])
        if len(parts) == 1:
            return most
        # Laid out as they come: how BLAS rounds depends on it, and must not on the pieces.
        whole = np.empty_like(most, shape=(most.shape[0], len(here), most.shape[2]))
        for here, found in parts:
            whole[:, here] = found
        return whole


def _grid(shape: tuple[int, ...], axis: int) -> tuple[int, tuple[int, ...]]:
    """The samples of a tensor, and the positions of one of them beside those of an axis."""
    if len(shape) == 1:
        return 1, ()
    rest = [size for i, size in enumerate(shape) if i != axis % len(shape)]
    return rest[0], tuple(rest[1:])

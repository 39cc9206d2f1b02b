"""Second moments of features and targets, accumulated batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

# Covariances of more features than this stay in single precision: hundreds of MB each.
WIDE = 4096
# Rows of a covariance that are worked on at a time: a copy of the whole would take as much memory again.
_ROWS = 256
# Covariances of at most so many features are held whole: they are small, and used several times.
_NARROW = 1024


class Symmetric:
    """A symmetric matrix of which little more than one triangle is held.

    Args:
        blocks: of ``_ROWS`` rows each, from the first column to the diagonal.
    """

    def __init__(self, blocks: Sequence[np.ndarray]) -> None:
        self._blocks = tuple(blocks)
        self.dtype: np.dtype = blocks[0].dtype if blocks else np.dtype(np.float64)

    def __len__(self) -> int:
        return sum(len(block) for block in self._blocks)

    @property
    def square(self) -> np.ndarray:
        """The whole matrix; not to be written to."""
        if len(self._blocks) == 1:
            return self._blocks[0]
        found = np.empty((len(self), len(self)), self.dtype)
        for i, block in enumerate(self._blocks):
            begin, end = i * _ROWS, block.shape[1]
            found[begin:end, :end] = block
            found[:begin, begin:end] = block[:, :begin].T
        return found

    def part(self, places: np.ndarray) -> np.ndarray:
        """These rows and columns, int64 and ascending, made anew."""
        found = np.empty((len(places), len(places)), self.dtype)
        for rows, columns, values in self.pieces(places):
            found[rows, columns] = values
        return found

    def pieces(self, places: np.ndarray) -> Iterator[tuple[slice, slice, np.ndarray]]:
        """The same piece by piece: rows, columns, and what is there."""
        ends = np.searchsorted(places, _ROWS * np.arange(len(self._blocks) + 1))
        for i, block in enumerate(self._blocks):
            begin, end = int(ends[i]), int(ends[i + 1])
            mine = block
            if len(places) < len(self):
                mine = block[np.ix_(places[begin:end] - i * _ROWS, places[:end])]
            yield slice(begin, end), slice(end), mine
            yield slice(begin), slice(begin, end), mine[:, :begin].T


@dataclass(frozen=True, eq=False)
class Merged:
    """The covariance of several sets of rows together, which is worked out when it is asked for.

    Attributes:
        shares: of the sets.
        grams: their covariances.
        away: how far the mean of each is from that of all, [F].
    """

    shares: Sequence[float]
    grams: Sequence[Symmetric]
    away: Sequence[np.ndarray]

    def part(self, places: np.ndarray) -> np.ndarray:
        """These rows and columns, int64 and ascending, made anew."""
        found = np.zeros((len(places), len(places)), self.grams[0].dtype)
        for share, gram in zip(self.shares, self.grams, strict=True):
            for rows, columns, values in gram.pieces(places):
                found[rows, columns] += share * values
        for share, away in zip(self.shares, self.away, strict=True):
            _add_outer(found, share * away[places], away[places])
        return found


Covariance = np.ndarray | Symmetric | Merged


@dataclass(frozen=True, eq=False)
class Moments:
    """Centred second moments of n rows; float64, covariances of more than ``WIDE`` features float32.

    Attributes:
        gram: covariance of the features, [F, F]; see ``submatrix``.
        cross: covariance of targets and features, [O, F].
        feature_mean, target_mean: [F], [O].
        target_variance: [O].
        rows: how many rows were seen.
        mass: their summed weights; as many as there are rows unless batches weigh differently.
    """

    gram: Covariance
    cross: np.ndarray
    feature_mean: np.ndarray
    target_mean: np.ndarray
    target_variance: np.ndarray
    rows: int
    mass: float

    def of_targets(self, part: slice) -> Moments:
        """The same with some of the targets only, as views."""
        return replace(
            self,
            cross=self.cross[part],
            target_mean=self.target_mean[part],
            target_variance=self.target_variance[part],
        )


def merged(several: Sequence[Moments]) -> Moments:
    """The moments of all rows of several sets together."""
    rows, mass = sum(m.rows for m in several), sum(m.mass for m in several)
    share = [m.mass / (mass or 1.0) for m in several]
    p = _weighted(share, [m.feature_mean for m in several])
    t = _weighted(share, [m.target_mean for m in several])
    aways = [m.feature_mean - p for m in several]
    cross = _weighted(share, [m.cross for m in several])
    variance = _weighted(share, [m.target_variance for m in several])
    for part, m, away in zip(share, several, aways, strict=True):
        off = m.target_mean - t
        _add_outer(cross, part * off, away)
        variance += part * off**2
    halves = [m.gram for m in several if isinstance(m.gram, Symmetric)]
    gram: Covariance
    if len(halves) == len(several):
        gram = Merged(share, halves, aways)
    else:
        gram = _weighted(share, [_whole(m.gram) for m in several])
        for part, away in zip(share, aways, strict=True):
            _add_outer(gram, part * away, away)
    return Moments(gram, cross, p, t, variance, rows, mass)


def pooled(several: Sequence[Moments]) -> Moments:
    """Second moments within each of several sets of rows; means are those of the first set."""
    rows, mass = sum(m.rows for m in several), sum(m.mass for m in several)
    share = [m.mass / (mass or 1.0) for m in several]
    return Moments(
        _weighted(share, [_whole(m.gram) for m in several]),
        _weighted(share, [m.cross for m in several]),
        several[0].feature_mean,
        several[0].target_mean,
        _weighted(share, [m.target_variance for m in several]),
        rows,
        mass,
    )


def _weighted(weights: Sequence[float], values: Sequence[np.ndarray]) -> np.ndarray:
    total = np.zeros_like(values[0])
    for start in range(0, len(total), _ROWS):
        part = total[start : start + _ROWS]
        for weight, value in zip(weights, values, strict=True):
            part += weight * value[start : start + _ROWS]
    return total


def submatrix(gram: Covariance, places: np.ndarray) -> np.ndarray:
    """These rows and columns, ascending; the matrix itself where it is there, and they are all of them."""
    if not isinstance(gram, np.ndarray):
        return gram.part(places)
    return gram if len(places) == len(gram) else gram[np.ix_(places, places)]


def _whole(gram: Covariance) -> np.ndarray:
    if isinstance(gram, np.ndarray):
        return gram
    return submatrix(gram, np.arange(len(gram if isinstance(gram, Symmetric) else gram.grams[0])))


def _add_outer(matrix: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    """Add the outer product of two vectors, in place."""
    for start in range(0, len(matrix), _ROWS):
        matrix[start : start + _ROWS] += a[start : start + _ROWS, None] * b


@dataclass(frozen=True, eq=False)
class Products:
    """Sums over some rows, shifted by the same vectors wherever they are to be added; float32.

    Attributes:
        gram: of features with features, [F, F].
        cross: of targets with features, [O, F].
        features, targets: sums, [F] and [O].
        squares: of the targets, summed, [O].
        shift: what was subtracted from features and targets, [F] and [O].
        rows: how many.
        weight: of each of them, where they are added to others.
    """

    gram: np.ndarray
    cross: np.ndarray
    features: np.ndarray
    targets: np.ndarray
    squares: np.ndarray
    shift: tuple[np.ndarray, np.ndarray]
    rows: int
    weight: float = 1.0


def products(
    features: np.ndarray, targets: np.ndarray, shift: tuple[np.ndarray, np.ndarray], weight: float = 1.0
) -> Products:
    """The products of rows, float32 [n, F] and [n, O], which are used up."""
    p, t = np.subtract(features, shift[0], out=features), np.subtract(targets, shift[1], out=targets)
    one = np.ones(len(p), dtype=np.float32)
    # numpy sees that this is a matrix with itself, takes BLAS's syrk, and leaves other threads alone.
    gram = p.T @ p
    squares = np.einsum("no,no->o", t, t, dtype=np.float64)
    return Products(gram, t.T @ p, one @ p, one @ t, squares, shift, len(p), weight)


def first_means(features: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The shift that makes centring at the end cancel little: the means of the first rows."""
    if not len(features):
        return np.zeros(features.shape[1], np.float32), np.zeros(targets.shape[1], np.float32)
    return features.mean(axis=0), targets.mean(axis=0)


def equalising_weight(rows: np.ndarray) -> float:
    """What makes a batch of rows [..., n, O] count as much as any other: one over their total variance.

    Batches of inputs under different conventions differ in size by orders of magnitude.
    """
    spread = float(rows.astype(np.float64).var(axis=-2).sum())
    return 1.0 / spread if spread > 1e-30 else 0.0


class Accumulator:
    """Sums of products: float32 within a batch, float64 between batches.

    Covariances of more than ``WIDE`` features stay in float32, for their size.

    Args:
        single: whether all of them do.
    """

    def __init__(self, *, single: bool = False) -> None:
        self._single = single
        self.rows = 0
        self.mass = 0.0

    def add(self, found: Products) -> None:
        if not self.rows:
            (outputs, features), self._shift = found.cross.shape, found.shift
            kind = np.float32 if self._single or features > WIDE else np.float64
            self._gram = [
                np.zeros((min(_ROWS, features - i), min(i + _ROWS, features)), kind)
                for i in range(0, features, _ROWS)
            ]
            self._cross = np.zeros((outputs, features), kind)
            self._sums = np.zeros(features), np.zeros(outputs)
            self._squares = np.zeros(outputs)
        weight = found.weight
        # Adding is most of the work where a batch has few rows: one triangle is enough.
        blocks = enumerate(self._gram)
        pairs = (
            *((block, found.gram[i * _ROWS : (i + 1) * _ROWS, : (i + 1) * _ROWS]) for i, block in blocks),
            *((self._cross, found.cross), (self._squares, found.squares)),
            *((self._sums[0], found.features), (self._sums[1], found.targets)),
        )
        for total, part in pairs:
            total += part if weight == 1.0 else weight * part
        self.rows += found.rows
        self.mass += weight * found.rows

    def moments(self) -> Moments:
        """What was seen, at least one row; the sums are used up."""
        n = self.mass or 1.0
        p, t = self._sums[0] / n, self._sums[1] / n
        gram, cross = self.covariance(), self._cross
        del self._cross
        cross /= n
        _add_outer(cross, -t, p)
        return Moments(
            gram.square if len(gram) <= _NARROW else gram,
            cross,
            p + self._shift[0],
            t + self._shift[1],
            np.maximum(self._squares / n - t**2, 0),
            self.rows,
            self.mass,
        )

    def covariance(self) -> Symmetric:
        """The covariance of the features alone; the sums are used up."""
        n, blocks = self.mass or 1.0, self._gram
        del self._gram
        p = self._sums[0] / n
        for i, block in enumerate(blocks):
            block /= n
            block += -p[i * _ROWS : (i + 1) * _ROWS, None] * p[: block.shape[1]]
        return Symmetric(blocks)


@dataclass
class AxisSums:
    """Sums over all other axes of a tensor, per position of one.

    Attributes:
        count: how many values were summed at every position.
        sum: float64 [size].
        squares: of the squared values, float64 [size].
        weight: of a batch, where it is added to others.
    """

    count: float = 0
    sum: np.ndarray | float = 0.0
    squares: np.ndarray | float = 0.0
    weight: float = 1.0

    @classmethod
    def of(cls, values: np.ndarray, axis: int, *, equal: bool = False) -> AxisSums:
        """The sums over one batch.

        Args:
            equal: whether all batches weigh alike, however large their values.
        """
        axis %= values.ndim
        size = values.shape[axis]
        x = values if values.dtype == np.float32 else values.astype(np.float32)
        x = x.reshape(prod(values.shape[:axis]), size, prod(values.shape[axis + 1 :]))
        # Single precision along one row at a time, double between rows.
        sums, squares = (x, np.square(x)) if x.shape[2] == 1 else (x.sum(2), np.einsum("oci,oci->oc", x, x))
        sums, squares = (v.reshape(len(x), size).sum(0, dtype=np.float64) for v in (sums, squares))
        found = cls(values.size // max(size, 1), sums, squares)
        if equal:
            spread = float(found.variance.sum())
            found.weight = 1.0 / spread if spread > 1e-30 else 0.0
        return found

    def add(self, other: AxisSums) -> None:
        self.count += other.weight * other.count
        self.sum = self.sum + other.weight * other.sum
        self.squares = self.squares + other.weight * other.squares

    @property
    def mean(self) -> np.ndarray:
        return np.asarray(self.sum) / (self.count or 1)

    @property
    def variance(self) -> np.ndarray:
        found: np.ndarray = np.maximum(np.asarray(self.squares) / (self.count or 1) - self.mean**2, 0)
        return found

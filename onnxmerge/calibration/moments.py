"""Second moments of features and targets, accumulated batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg.blas import ssyrk


@dataclass(frozen=True, eq=False)
class Moments:
    """Centred second moments of n rows; everything float64.

    Attributes:
        gram: covariance of the features, [F, F].
        cross: covariance of targets and features, [O, F].
        feature_mean, target_mean: [F], [O].
        target_variance: [O].
        rows: how many rows were seen.
    """

    gram: np.ndarray
    cross: np.ndarray
    feature_mean: np.ndarray
    target_mean: np.ndarray
    target_variance: np.ndarray
    rows: int


def merged(several: Sequence[Moments]) -> Moments:
    """The moments of all rows of several sets together."""
    rows = sum(m.rows for m in several)
    share = [m.rows / rows for m in several]
    p = _weighted(share, [m.feature_mean for m in several])
    t = _weighted(share, [m.target_mean for m in several])
    gram = _weighted(share, [m.gram for m in several])
    cross = _weighted(share, [m.cross for m in several])
    variance = _weighted(share, [m.target_variance for m in several])
    for part, m in zip(share, several, strict=True):
        away, off = m.feature_mean - p, m.target_mean - t
        _add_outer(gram, part * away, away)
        _add_outer(cross, part * off, away)
        variance += part * off**2
    return Moments(gram, cross, p, t, variance, rows)


def pooled(several: Sequence[Moments]) -> Moments:
    """Second moments within each of several sets of rows; means are those of the first set."""
    rows = sum(m.rows for m in several)
    share = [m.rows / rows for m in several]
    return Moments(
        _weighted(share, [m.gram for m in several]),
        _weighted(share, [m.cross for m in several]),
        several[0].feature_mean,
        several[0].target_mean,
        _weighted(share, [m.target_variance for m in several]),
        rows,
    )


def _weighted(weights: Sequence[float], values: Sequence[np.ndarray]) -> np.ndarray:
    total = np.zeros_like(values[0], dtype=np.float64)
    for weight, value in zip(weights, values, strict=True):
        total += weight * value
    return total


# Rows of a matrix that are worked on at a time: covariances of thousands of features are hundreds of MB.
_ROWS = 256


def _add_outer(matrix: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    """Add the outer product of two vectors, in place."""
    for start in range(0, len(matrix), _ROWS):
        matrix[start : start + _ROWS] += a[start : start + _ROWS, None] * b


def _symmetric(lower: np.ndarray) -> np.ndarray:
    """A full matrix from its lower triangle."""
    full = np.array(lower)
    for start in range(0, len(full), _ROWS):
        stop = start + _ROWS
        block = np.tril(full[start:stop, start:stop])
        full[start:stop, start:stop] = block + np.tril(block, -1).T
        full[start:stop, stop:] = full[stop:, start:stop].T
    return full


class Accumulator:
    """Sums products of rows: float32 within a batch, float64 between batches.

    Rows are shifted by the means of the first batch, so that centring at the end cancels little.
    """

    def __init__(self) -> None:
        self._rows = 0
        self._shift: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def rows(self) -> int:
        return self._rows

    def add(self, features: np.ndarray, targets: np.ndarray) -> None:
        """Add rows: float32 [n, F] and [n, O]."""
        if not len(features):
            return
        if self._shift is None:
            self._shift = features.mean(axis=0), targets.mean(axis=0)
            f, o = features.shape[1], targets.shape[1]
            self._gram, self._cross = np.zeros((f, f)), np.zeros((o, f))
            self._sums = np.zeros(f), np.zeros(o)
            self._squares = np.zeros(o)
        p, t = features - self._shift[0], targets - self._shift[1]
        # The transpose of C-ordered rows is what BLAS takes without a copy; one triangle is enough.
        self._gram += ssyrk(1.0, p.T, lower=1)
        self._cross += t.T @ p
        self._sums[0][:] += p.sum(axis=0, dtype=np.float64)
        self._sums[1][:] += t.sum(axis=0, dtype=np.float64)
        self._squares += np.einsum("no,no->o", t, t, dtype=np.float64)
        self._rows += len(features)

    def moments(self) -> Moments:
        """What was seen so far; at least one row."""
        assert self._shift is not None
        n = self._rows
        p, t = self._sums[0] / n, self._sums[1] / n
        gram, cross = _symmetric(self._gram), self._cross / n
        gram /= n
        _add_outer(gram, -p, p)
        _add_outer(cross, -t, p)
        return Moments(
            gram,
            cross,
            p + self._shift[0],
            t + self._shift[1],
            np.maximum(self._squares / n - t**2, 0),
            n,
        )

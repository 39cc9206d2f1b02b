"""Vectors whose direction is what is compared: of faces, voices, texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from onnxmerge.validation.kinds.protocol import Found, columns, difference, moved, percent, samples_of, share

# Neighbours are looked for among so many samples at least, and kept of so many at most.
FEWEST, MOST = 32, 4096
NEIGHBOURS = 5


@dataclass(frozen=True)
class Embeddings:
    """The angle between vectors, as a share of a right angle.

    Attributes:
        axis: of the vectors.
    """

    axis: int = -1
    name: ClassVar[str] = "embeddings"
    of_classes: ClassVar[bool] = False

    @property
    def judged_by(self) -> str:
        return "the angle by which its vectors turn, as a share of a right angle"

    def tally(self) -> _Tally:
        return _Tally(self.axis)


@dataclass(eq=False)
class _Tally:
    axis: int
    turned: list[np.ndarray] = field(default_factory=list)
    before: list[np.ndarray] = field(default_factory=list)
    after: list[np.ndarray] = field(default_factory=list)

    def add(self, before: Sequence[np.ndarray], after: Sequence[np.ndarray], rows: int) -> None:
        (x,), (y,) = before, after
        if not -x.ndim <= self.axis < x.ndim or not x.size:
            return
        axis = self.axis % x.ndim
        rows = samples_of(x, rows, axis)
        if x.shape != y.shape:
            self.turned.append(columns(np.ones(rows), 1.0))
            return
        broken = ~np.isfinite(difference(x, y)[2]).all(axis)
        x, y = (unit(np.nan_to_num(v.astype(np.float64), posinf=0, neginf=0), axis) for v in (x, y))
        # From the chord, which is exact for small angles where the cosine is rounded to 1.
        angle = 2 * np.arcsin(np.clip(np.linalg.norm(x - y, axis=axis) / 2, 0, 1))
        shares = np.where(broken, 1.0, np.minimum(angle / (math.pi / 2), 1.0)).reshape(rows, -1)
        self.turned.append(columns(shares.sum(axis=1), shares.shape[1]))
        if x.size // x.shape[axis] == rows and sum(map(len, self.before)) < MOST:
            self.before.append(x.reshape(rows, -1))
            self.after.append(y.reshape(rows, -1))

    def found(self) -> Found | None:
        if not self.turned:
            return None
        angle = moved("angle", np.concatenate(self.turned))
        degrees = 90 * angle.value
        said = (
            f"The vectors{{of}} turn by {degrees:.1f} degrees on average, {percent(angle.value)} of a right "
            "angle"
        )
        if sum(map(len, self.before)) < FEWEST:
            return Found((angle,), said, distance=angle.value)
        lost = _lost(np.concatenate(self.before), np.concatenate(self.after))
        neighbours = share("nearest neighbours", columns(lost, NEIGHBOURS))
        said += f", and {percent(1 - neighbours.value)} of the {NEIGHBOURS} nearest neighbours stay"
        return Found((angle,), said, beside=(neighbours,), distance=angle.value)


def unit(vectors: np.ndarray, axis: int) -> np.ndarray:
    """The same at length 1; zeros stay."""
    length = np.linalg.norm(vectors, axis=axis, keepdims=True)
    return vectors / np.where(length > 0, length, 1.0)


def _lost(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Of every sample how many of its nearest neighbours are others, int64 [samples]."""

    def neighbours(vectors: np.ndarray) -> np.ndarray:
        cosines = vectors @ vectors.T
        np.fill_diagonal(cosines, -np.inf)
        return np.argsort(-cosines, axis=1, kind="stable")[:, :NEIGHBOURS]

    pairs = zip(neighbours(before), neighbours(after), strict=True)
    return np.array([NEIGHBOURS - len(np.intersect1d(a, b)) for a, b in pairs])

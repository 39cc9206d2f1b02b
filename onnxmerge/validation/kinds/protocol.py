"""What a kind of output has to offer: a way to count how much of it changes, and words for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import ClassVar, Protocol

import numpy as np
from scipy.special import betaincinv, stdtrit

# By how much the sum of single-precision shares misses one at most.
TO_ONE = 1e-3


class Spread(Enum):
    """How a ratio of sums over samples is uncertain."""

    DRAWS = auto()  # something changes or not; what one sample holds changes together
    MOVED = auto()  # continuous, at most 1
    RELATIVE = auto()  # the root of a ratio of squares, without a bound


@dataclass(frozen=True)
class Measure:
    """One figure of how an output changes.

    Attributes:
        name: what is counted, in the plural.
        value: 0 where nothing changes.
        sums: float64 [samples, 2]: what differs and what is there, per sample.
    """

    name: str
    value: float
    sums: np.ndarray = field(repr=False, compare=False)
    spread: Spread

    def upper(self, confidence: float) -> float:
        """The upper one-sided confidence bound of the value, samples being independent draws.

        What changes or not: Clopper-Pearson, with a sample as the unit (samples that hold more count more,
        and the number of draws is Kish's effective one). Others: the delta method for a ratio of sums over
        samples; one sample that differs says nothing about others.
        """
        differ, total = self.sums.sum(axis=0)
        if self.spread is Spread.DRAWS:
            squares = float((self.sums[:, 1] ** 2).sum())
            count = float(total) ** 2 / squares if squares else 0.0
            changed = self.value * count
            if changed >= count:
                return 1.0
            return float(betaincinv(changed + 1, count - changed, confidence))
        if differ == 0 or not math.isfinite(self.value):
            return self.value
        count = len(self.sums)
        if count < 2:
            return 1.0 if self.spread is Spread.MOVED else math.inf
        ratio = differ / total
        error = math.sqrt(count / (count - 1) * float(((self.sums @ (1.0, -ratio)) ** 2).sum())) / total
        bound = ratio + float(stdtrit(count - 1, confidence)) * error
        return min(bound, 1.0) if self.spread is Spread.MOVED else math.sqrt(bound)


def share(name: str, sums: np.ndarray, value: float | None = None) -> Measure:
    """What changes or not; ``value`` where it is another mean than that of all together."""
    return Measure(name, _ratio(sums) if value is None else value, sums, Spread.DRAWS)


def moved(name: str, sums: np.ndarray) -> Measure:
    """How much of something moves, at most all of it."""
    return Measure(name, _ratio(sums), sums, Spread.MOVED)


def relative(name: str, squares: np.ndarray) -> Measure:
    """|y' - y| / |y| from squared norms."""
    differ, total = squares.sum(axis=0)
    value = 0.0 if differ == 0 else math.sqrt(differ / total) if total > 0 else math.inf
    return Measure(name, value, squares, Spread.RELATIVE)


def _ratio(sums: np.ndarray) -> float:
    differ, total = sums.sum(axis=0)
    return float(differ / (total or 1.0))


@dataclass(frozen=True)
class Found:
    """What the comparison of an output, or of some that belong together, came to.

    Attributes:
        measures: the change is the largest of their values.
        said: the finding as a clause; ``{of}`` stands where the name of the output may.
        stays: whether that says how much stays the same, and not how much changes.
        beside: what is worth knowing and decides nothing.
        agreement: the share of equal answers; None where there are none.
        distance: a continuous measure for comparing candidates on few samples; None: the numbers' own
            relative difference.
        notes: what could not be judged, in sentences.
    """

    measures: tuple[Measure, ...]
    said: str
    stays: bool = False
    beside: tuple[Measure, ...] = ()
    agreement: float | None = None
    distance: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def worst(self) -> Measure:
        """The measure that is the change."""
        return max(self.measures, key=lambda one: one.value)

    def upper(self, confidence: float) -> float:
        """The upper confidence bound of the change."""
        return max(one.upper(confidence) for one in self.measures)


class Tally(Protocol):
    """Running sums for one output, or for several that are read together."""

    def add(self, before: Sequence[np.ndarray], after: Sequence[np.ndarray], rows: int) -> None:
        """Count one feed.

        Args:
            before, after: what the original and the candidate answer, in the order of the outputs.
            rows: the samples of the feed, along axis 0 where the outputs have so many.
        """
        ...

    def found(self) -> Found | None:
        """What all feeds come to; None where there is nothing to judge by but the numbers."""
        ...


class Kind(Protocol):
    """What an output means to those who use it: a frozen dataclass whose fields say how to read it."""

    name: ClassVar[str]

    @property
    def of_classes(self) -> bool:
        """Whether what counts is which of several scores is the highest."""
        ...

    @property
    def judged_by(self) -> str:
        """What is judged, as a phrase."""
        ...

    def tally(self) -> Tally:
        """An empty tally."""
        ...


def percent(value: float) -> str:
    """A share in percent, which is never rounded to nothing or to all."""
    if 0 < value < 0.0005:
        return "less than 0.1%"
    if 0.9995 < value < 1:
        return "more than 99.9%"
    return f"{value:.1%}"


def columns(differing: np.ndarray, present: np.ndarray | float) -> np.ndarray:
    """Sums per sample, float64 [samples, 2]."""
    return np.stack(np.broadcast_arrays(differing, present), axis=1).astype(np.float64)


def difference(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both as float64, and their difference: infinite where one of two unequal numbers is not finite."""
    x, y = before.astype(np.float64), after.astype(np.float64)
    with np.errstate(invalid="ignore"):
        same = (x == y) | (np.isnan(x) & np.isnan(y))
        delta = np.where(same, 0.0, y - x)
    delta[~np.isfinite(delta)] = math.inf
    return x, y, delta


def add_to_one(values: np.ndarray) -> bool:
    """Whether rows, along the last axis, are not negative and add up to one."""
    return bool((values >= 0).all()) and bool((abs(values.sum(-1) - 1) < TO_ONE).all())


def samples_of(values: np.ndarray, rows: int, axis: int | None = None) -> int:
    """How many samples an output holds along axis 0: those of its feed, or it is one whole.

    Args:
        axis: of the classes or the vectors, which no samples lie along.
    """
    if values.ndim == 0 or len(values) != rows or (axis is not None and axis % values.ndim == 0):
        return 1
    return rows

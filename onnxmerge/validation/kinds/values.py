"""Numbers that are used as they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from onnxmerge.validation.kinds.protocol import (
    Found,
    Measure,
    columns,
    difference,
    percent,
    relative,
    samples_of,
)


@dataclass(frozen=True)
class Values:
    """|y' - y| / |y|, the relative change of the numbers."""

    name: ClassVar[str] = "values"
    of_classes: ClassVar[bool] = False

    @property
    def judged_by(self) -> str:
        return "|y' - y| / |y|, the relative change of its numbers"

    def tally(self) -> Unjudged:
        return Unjudged()


class Unjudged:
    """The numbers are all there is; they are compared for every output."""

    def add(self, before: Sequence[np.ndarray], after: Sequence[np.ndarray], rows: int) -> None:
        pass

    def found(self) -> None:
        return None


@dataclass(eq=False)
class Numbers:
    """How the numbers of one output differ, whatever its kind; NaN beside NaN is no difference."""

    squares: list[np.ndarray] = field(default_factory=list)  # [rows, 2]: squared difference and reference
    largest: float = 0.0
    count: int = 0  # of the reference, and how many of them are NaN
    unknown: int = 0

    def add(self, before: np.ndarray, after: np.ndarray, rows: int) -> None:
        """Count one feed."""
        rows = samples_of(before, rows)
        self.count += before.size
        self.unknown += int(np.isnan(before).sum()) if before.dtype.kind == "f" else 0
        if before.shape != after.shape:
            self.squares.append(np.array([[math.inf, 1.0]] * rows))
            self.largest = math.inf
            return
        x, _, delta = difference(before, after)
        known = np.where(np.isfinite(x), x, 0.0)
        self.squares.append(columns(_squared(delta, rows), _squared(known, rows)))
        self.largest = max(self.largest, float(np.abs(delta).max(initial=0.0)))

    @property
    def relative(self) -> Measure:
        return relative("numbers", np.concatenate(self.squares or [np.zeros((1, 2))]))

    def found(self) -> Found:
        """The finding where the numbers are judged."""
        measure = self.relative
        said = f"The numbers{{of}} change by {percent(measure.value)} of their size"
        if not math.isfinite(measure.value):
            why = "NaN, infinity or a shape in one model only, or numbers that were all 0"
            said = f"The numbers{{of}} change beyond all measure ({why})"
        return Found((measure,), said, distance=measure.value)


def _squared(values: np.ndarray, rows: int) -> np.ndarray:
    return (values.reshape(rows, -1) ** 2).sum(axis=1)

"""Scores of classes: what counts is which one is the highest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from onnxmerge.validation.kinds.protocol import Found, columns, difference, percent, samples_of, share


@dataclass(frozen=True)
class Classes:
    """The share of answers whose highest score is another one.

    Attributes:
        axis: along which the scores compete.
    """

    axis: int = -1
    name: ClassVar[str] = "classes"
    of_classes: ClassVar[bool] = True

    @property
    def judged_by(self) -> str:
        return "the class with the highest score"

    def tally(self) -> _Tally:
        return _Tally(self.axis)


@dataclass(eq=False)
class _Tally:
    axis: int
    changed: list[np.ndarray] = field(default_factory=list)

    def add(self, before: Sequence[np.ndarray], after: Sequence[np.ndarray], rows: int) -> None:
        axis = self.axis
        (x,), (y,) = before, after
        if not -x.ndim <= axis < x.ndim or x.shape[axis] < 2 or not x.size:
            return
        rows = samples_of(x, rows, axis)
        each = x.size // x.shape[axis] // rows
        if x.shape != y.shape:
            self.changed.append(columns(np.full(rows, each), each))
            return
        x, y, delta = difference(x, y)
        differs = (x.argmax(axis) != y.argmax(axis)) | ~np.isfinite(delta).all(axis)
        self.changed.append(columns(differs.reshape(rows, -1).sum(axis=1), each))

    def found(self) -> Found | None:
        if not self.changed:
            return None
        measure = share("answers", np.concatenate(self.changed))
        said = f"The highest-scored answer{{of}} stays the same in {percent(1 - measure.value)} of cases"
        return Found((measure,), said, stays=True, agreement=1 - measure.value)

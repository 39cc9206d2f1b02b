"""Whole numbers, booleans and texts: equal or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from onnxmerge.validation.kinds.protocol import Found, columns, percent, samples_of, share


@dataclass(frozen=True)
class Integers:
    """The share of elements that differ."""

    name: ClassVar[str] = "integers"
    of_classes: ClassVar[bool] = False

    @property
    def judged_by(self) -> str:
        return "the share of its elements that differ"

    def tally(self) -> _Tally:
        return _Tally()


@dataclass(eq=False)
class _Tally:
    changed: list[np.ndarray] = field(default_factory=list)

    def add(self, before: Sequence[np.ndarray], after: Sequence[np.ndarray], rows: int) -> None:
        (x,), (y,) = before, after
        rows = samples_of(x, rows)
        each = max(x.size // rows, 1)
        if x.shape != y.shape:  # nothing corresponds any more
            self.changed.append(columns(np.full(rows, each), each))
        else:
            self.changed.append(columns((x != y).reshape(rows, -1).sum(axis=1), each))

    def found(self) -> Found | None:
        if not self.changed:
            return None
        measure = share("elements", np.concatenate(self.changed))
        said = f"{percent(1 - measure.value)} of the elements{{of}} stay the same"
        return Found((measure,), said, stays=True, agreement=1 - measure.value, distance=measure.value)

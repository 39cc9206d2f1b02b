"""Scores of classes at every step of a sequence: text that is read, or the next token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from onnxmerge.validation.kinds.protocol import Found, columns, difference, percent, samples_of, share


@dataclass(frozen=True)
class Sequences:
    """Scores [N, T, C] or [T, N, C], read greedily.

    Attributes:
        ctc: whether repeats are collapsed and blanks dropped: then the change is the share of sequences that
            read differently, else that of the positions.
        blank: the class that stands for nothing; None where no class does.
        chosen: whether the output is the classes themselves, whole numbers [N, T], and not their scores.
    """

    ctc: bool = False
    blank: int | None = None
    chosen: bool = False
    name: ClassVar[str] = "sequences"

    @property
    def of_classes(self) -> bool:
        return not self.chosen

    @property
    def judged_by(self) -> str:
        if not self.ctc:
            return "the class with the highest score at every position"
        dropped = "" if self.blank is None else f", class {self.blank} dropped as the blank"
        return f"what it reads greedily (CTC: repeats collapsed{dropped})"

    def tally(self) -> _Tally:
        return _Tally(self)


@dataclass(eq=False)
class _Tally:
    kind: Sequences
    positions: list[np.ndarray] = field(default_factory=list)
    sequences: list[np.ndarray] = field(default_factory=list)

    def add(self, before: Sequence[np.ndarray], after: Sequence[np.ndarray], rows: int) -> None:
        (x,), (y,) = before, after
        if self.kind.chosen:
            count = samples_of(x, rows)
            self._add(x.reshape(count, -1), y.reshape(count, -1), None)
            return
        if x.ndim not in (2, 3) or x.shape[-1] < 2 or not x.size:
            return
        batch = batch_axis(x, rows)
        x, y = (np.moveaxis(v, batch, 0) if v.ndim == 3 else v[None] for v in (x, y))
        alike = x.shape == y.shape
        wrong = ~np.isfinite(difference(x, y)[2]).all(-1) if alike else None
        self._add(x.argmax(-1), y.argmax(-1), wrong)

    def _add(self, a: np.ndarray, b: np.ndarray, wrong: np.ndarray | None) -> None:
        """Count classes [N, T]; ``wrong`` where scores are no numbers."""
        wrong = np.zeros(a.shape, bool) if wrong is None else wrong
        differs = wrong | (a != b) if a.shape == b.shape else np.ones(a.shape, bool)
        self.positions.append(columns(differs.sum(axis=1), a.shape[1]))
        read = [
            float(i >= len(b) or wrong[i].any() or self._read(a[i]) != self._read(b[i]))
            for i in range(len(a))
        ]
        self.sequences.append(columns(np.array(read), 1.0))

    def _read(self, classes: np.ndarray) -> list[int]:
        if not self.kind.ctc:
            return classes.tolist()
        first = np.append(True, classes[1:] != classes[:-1])
        return [c for c in classes[first].tolist() if c != self.kind.blank]

    def found(self) -> Found | None:
        if not self.positions:
            return None
        positions = share("positions", np.concatenate(self.positions))
        sequences = share("sequences", np.concatenate(self.sequences))
        agreement = 1 - positions.value
        if self.kind.ctc:
            said = (
                f"{percent(sequences.value)} of the sequences{{of}} read differently, and "
                f"{percent(positions.value)} of their positions"
            )
            return Found((sequences,), said, beside=(positions,), agreement=agreement)
        said = (
            f"The highest-scored class{{of}} stays the same at {percent(agreement)} of the positions, and at "
            f"all of them in {percent(1 - sequences.value)} of the sequences"
        )
        return Found((positions,), said, stays=True, beside=(sequences,), agreement=agreement)


def batch_axis(values: np.ndarray, rows: int) -> int:
    """Which axis of [N, T, C] or [T, N, C] the samples lie along."""
    return 1 if values.ndim == 3 and values.shape[0] != rows and values.shape[1] == rows else 0

"""Scores of classes at every step of a sequence: text that is read, or the next token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from onnxmerge.validation.kinds.protocol import (
    Found,
    add_to_one,
    columns,
    difference,
    percent,
    relative,
    samples_of,
    share,
)

# A probability, and a lead, below this are none.
_NOTHING = 1e-12


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
    leads: list[np.ndarray] = field(default_factory=list)  # [N, 2]: squares of what is lost, and positions

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
        if self.kind.ctc:
            lost = np.ones(x.shape[:-1])
            if wrong is not None:
                lost = np.where(wrong, 1.0, [_lead_lost(a, b) for a, b in zip(x, y, strict=True)])
            self.leads.append(columns((lost**2).sum(axis=-1), x.shape[1]))

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
            distance = relative("leads", np.concatenate(self.leads)).value if self.leads else None
            return Found((sequences,), said, beside=(positions,), agreement=agreement, distance=distance)
        said = (
            f"The highest-scored class{{of}} stays the same at {percent(agreement)} of the positions, and at "
            f"all of them in {percent(1 - sequences.value)} of the sequences"
        )
        return Found((positions,), said, stays=True, beside=(sequences,), agreement=agreement)


def _lead_lost(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Of the lead of the highest class, the share that is lost to the class that gains most on it.

    Nothing is lost at 0, and another class may be the highest at 1. Leads are in logits, so that a
    temperature and a softmax change nothing.

    Args:
        before, after: of one sequence [T, C].

    Returns:
        float64 [T], 0 to 1.
    """
    x, y = before.astype(np.float64), after.astype(np.float64)
    if add_to_one(x):
        x, y = (np.log(np.maximum(v, _NOTHING)) for v in (x, y))
    highest = x.argmax(-1)[:, None]
    with np.errstate(invalid="ignore"):
        lead, now = (np.take_along_axis(v, highest, -1) - v for v in (x, y))
        lost = (lead - now) / np.maximum(lead, _NOTHING)
    np.put_along_axis(lost, highest, 0.0, -1)
    # Classes that are masked (minus infinity) before and after lose nothing.
    return np.asarray(np.clip(np.nan_to_num(lost, nan=0.0), 0.0, 1.0).max(-1))


def batch_axis(values: np.ndarray, rows: int) -> int:
    """Which axis of [N, T, C] or [T, N, C] the samples lie along."""
    return 1 if values.ndim == 3 and values.shape[0] != rows and values.shape[1] == rows else 0

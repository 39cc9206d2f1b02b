"""Probabilities that do not compete: each score counts by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from scipy.special import expit

from onnxmerge.validation.kinds.protocol import Found, columns, difference, moved, percent, samples_of


@dataclass(frozen=True)
class Probabilities:
    """The share of the probability that moves: the sum of |p' - p| over that of the larger of both.

    Attributes:
        logits: whether a sigmoid is still to come.
    """

    logits: bool = False
    name: ClassVar[str] = "probabilities"
    of_classes: ClassVar[bool] = False

    @property
    def judged_by(self) -> str:
        return "how much of the probability moves"

    def tally(self) -> _Tally:
        return _Tally(self.logits)


@dataclass(eq=False)
class _Tally:
    logits: bool
    moves: list[np.ndarray] = field(default_factory=list)
    decisions: list[np.ndarray] = field(default_factory=list)

    def add(self, before: Sequence[np.ndarray], after: Sequence[np.ndarray], rows: int) -> None:
        (x,), (y,) = before, after
        rows = samples_of(x, rows)
        if x.shape != y.shape:
            self.moves.append(columns(np.ones(rows), 1.0))
            self.decisions.append(columns(np.ones(rows), 1.0))
            return
        x, y, delta = difference(x, y)
        p, q = (expit(v) if self.logits else v for v in (x, y))
        known, same = np.isfinite(p) & np.isfinite(q), delta == 0
        with np.errstate(invalid="ignore"):
            moves = np.where(same, 0.0, np.where(known, np.abs(q - p), 1.0))
            mass = np.where(known, np.maximum(np.abs(p), np.abs(q)), np.where(same, 0.0, 1.0))
        self.moves.append(np.stack([v.reshape(rows, -1).sum(axis=1) for v in (moves, mass)], axis=1))
        differs = (((p >= 0.5) != (q >= 0.5)) | (~known & ~same)).reshape(rows, -1)
        self.decisions.append(columns(differs.sum(axis=1), differs.shape[1]))

    def found(self) -> Found | None:
        if not self.moves:
            return None
        measure = moved("probability", np.concatenate(self.moves))
        differ, total = np.concatenate(self.decisions).sum(axis=0)
        said = f"{percent(measure.value)} of the probability{{of}} moves"
        return Found((measure,), said, agreement=1 - float(differ / max(total, 1.0)), distance=measure.value)

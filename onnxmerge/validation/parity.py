"""How much the outputs of two models differ, added up feed by feed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats
from scipy.special import expit

from onnxmerge.validation.kinds import Judgement

Outputs = Mapping[str, Any]
Kinds = Mapping[str, Judgement | str]


@dataclass(frozen=True)
class OutputParity:
    """The comparison of one output.

    Attributes:
        change: by the kind of the output: the share of changed top-1 answers (``classes``) or of differing
            elements (``integers``), the sum of |p' - p| over that of the larger of both
            (``probabilities``), or |y' - y| / |y| (``values``).
        relative_error, max_abs_error: None for integers.
        agreement: the share of equal answers or elements, of probabilities that of equal decisions at 0.5;
            None for values.
        judged: how and why it is judged so, in words.
        sums: float64 [samples, 2]: what differs and what is there, per sample.
    """

    name: str
    kind: str
    change: float
    relative_error: float | None
    max_abs_error: float | None
    agreement: float | None
    judged: str
    sums: np.ndarray = field(repr=False, compare=False)

    @property
    def distance(self) -> float:
        """`change` where it is continuous; of classes `relative_error`."""
        return self.change if self.kind != "classes" or self.relative_error is None else self.relative_error

    def change_upper(self, confidence: float = 0.9) -> float:
        """The upper one-sided confidence bound of ``change``, samples being independent draws.

        Shares: Clopper-Pearson, with a sample as the unit. Probabilities and values: the delta method for a
        ratio of sums over samples; one sample that differs says nothing about others.
        """
        count = len(self.sums)
        if self.kind in ("classes", "integers"):
            present = self.sums[:, 1]
            # Elements of one sample are not independent: each sample counts as its share.
            changed = float((self.sums[:, 0] / np.maximum(present, 1)).sum())
            return (
                1.0 if changed >= count else float(stats.beta.ppf(confidence, changed + 1, count - changed))
            )
        differ, total = self.sums.sum(axis=0)
        if differ == 0 or not math.isfinite(self.change):
            return self.change
        if count < 2:
            return 1.0 if self.kind == "probabilities" else math.inf
        ratio = differ / total
        error = math.sqrt(count / (count - 1) * float(((self.sums @ (1.0, -ratio)) ** 2).sum())) / total
        bound = ratio + float(stats.t.ppf(confidence, count - 1)) * error
        return min(bound, 1.0) if self.kind == "probabilities" else math.sqrt(bound)


@dataclass(frozen=True)
class Parity:
    """The comparison of two models over a data set.

    Attributes:
        relative_error: |y' - y| / |y|, Frobenius over the whole set, the largest over the float outputs.
        max_abs_error: the largest over the float outputs.
        top1_agreement: the smallest over the class outputs; None without any.
        change: the largest over all outputs.
        notes: what could not be compared.
        convention: where it is not known which numbers the model expects, the one of these inputs.
        others: the comparisons under the other plausible conventions, none of which is worse.
    """

    relative_error: float
    max_abs_error: float
    top1_agreement: float | None
    change: float
    outputs: tuple[OutputParity, ...]
    samples: int
    source: str
    notes: tuple[str, ...] = ()
    convention: str | None = None
    others: tuple[Parity, ...] = ()

    @property
    def distance(self) -> float:
        """The change, for comparing candidates with one another on few samples.

        Of answers and elements that are the same or not it takes a hundred samples to see one percent, so
        there the numbers behind them count; the change itself is continuous for all other outputs.
        """
        return max((o.distance for o in self.outputs), default=0.0)

    def change_upper(self, confidence: float = 0.9) -> float:
        """The largest of the outputs' upper one-sided confidence bounds of their change."""
        return max((output.change_upper(confidence) for output in self.outputs), default=0.0)


def compare(
    reference: Iterable[Outputs], candidate: Iterable[Outputs], kinds: Kinds, source: str = ""
) -> Parity:
    """Compare outputs feed by feed; every feed counts as many samples as all its outputs have rows.

    ``kinds`` names the outputs to compare, as ``output_kinds`` returns them, or with bare kinds. Raises
    ValueError if one side has more feeds than the other.
    """
    triples = ((a, b, rows_of(a, frozenset())) for a, b in zip(reference, candidate, strict=True))
    return collect(triples, kinds, source)


class _Tally:
    """Running sums for one output."""

    def __init__(self, name: str, how: Judgement | str) -> None:
        self.name, self.how = name, Judgement(how) if isinstance(how, str) else how
        self.kind = self.how.kind
        self.changed: list[np.ndarray] = []  # [rows, 2]: differing and compared elements or answers
        self.moved: list[np.ndarray] = []  # [rows, 2]: probability that moved, and the larger of both
        self.squares: list[np.ndarray] = []  # [rows, 2]: squared difference and squared reference
        self.largest = 0.0

    def add(self, before: np.ndarray, after: np.ndarray, rows: int) -> None:
        if before.ndim == 0 or len(before) != rows:
            rows = 1
        if before.shape != after.shape:
            # Outputs of data-dependent length, such as detections: nothing corresponds any more.
            self.changed.append(np.array([[1.0, 1.0]] * rows))
            self.moved.append(np.array([[1.0, 1.0]] * rows))
            self.squares.append(np.array([[math.inf, 1.0]] * rows))
            self.largest = math.inf
            return
        if self.kind == "integers":
            differs = (before != after).reshape(rows, -1)
            self.changed.append(_columns(differs.sum(axis=1), np.full(rows, differs.shape[1])))
            return
        x, y = before.astype(np.float64), after.astype(np.float64)
        with np.errstate(invalid="ignore"):
            same = (x == y) | (np.isnan(x) & np.isnan(y))
            delta = np.where(same, 0.0, y - x)
        delta[~np.isfinite(delta)] = math.inf
        known = np.where(np.isfinite(x), x, 0.0)
        self.squares.append(_columns(_squared(delta, rows), _squared(known, rows)))
        self.largest = max(self.largest, float(np.abs(delta).max(initial=0.0)))
        if self.kind == "classes":
            self._add_answers(x, y, delta, rows)
        elif self.kind == "probabilities":
            self._add_probabilities(x, y, delta, rows)

    def _add_answers(self, x: np.ndarray, y: np.ndarray, delta: np.ndarray, rows: int) -> None:
        axis = self.how.axis
        if not -x.ndim <= axis < x.ndim or x.shape[axis] < 2 or not x.size:
            return  # nothing to choose from: judged by its numbers
        moved = (x.argmax(axis) != y.argmax(axis)) | ~np.isfinite(delta).all(axis)
        # Where samples lie along the axis of the classes, there is one.
        moved = moved.reshape(1 if axis % x.ndim == 0 else rows, -1)
        self.changed.append(_columns(moved.sum(axis=1), np.full(len(moved), moved.shape[1])))

    def _add_probabilities(self, x: np.ndarray, y: np.ndarray, delta: np.ndarray, rows: int) -> None:
        p, q = (expit(v) if self.how.logits else v for v in (x, y))
        known, same = np.isfinite(p) & np.isfinite(q), delta == 0
        with np.errstate(invalid="ignore"):
            moved = np.where(same, 0.0, np.where(known, np.abs(q - p), 1.0))
            mass = np.where(known, np.maximum(np.abs(p), np.abs(q)), np.where(same, 0.0, 1.0))
        self.moved.append(np.stack([v.reshape(rows, -1).sum(axis=1) for v in (moved, mass)], axis=1))
        differs = (((p >= 0.5) != (q >= 0.5)) | (~known & ~same)).reshape(rows, -1)
        self.changed.append(_columns(differs.sum(axis=1), np.full(rows, differs.shape[1])))

    def result(self) -> OutputParity:
        relative = largest = agreement = None
        sums = np.concatenate(self.squares or self.changed or [np.zeros((1, 2))])
        if self.kind != "integers":
            differ, total = sums.sum(axis=0)
            relative = 0.0 if differ == 0 else math.sqrt(differ / total) if total > 0 else math.inf
            largest = self.largest
        change, kind = relative or 0.0, self.kind
        if kind != "integers" and not self.changed:
            kind = "values"
        elif kind != "values" and self.changed:
            answers = np.concatenate(self.changed)
            changed = float(answers[:, 0].sum() / max(answers[:, 1].sum(), 1.0))
            agreement = 1.0 - changed
            if kind == "probabilities":
                sums = np.concatenate(self.moved)
                changed = float(sums[:, 0].sum() / (sums[:, 1].sum() or 1.0))
            else:
                sums = answers
            change = changed
        return OutputParity(self.name, kind, change, relative, largest, agreement, self.how.words, sums)


def collect(triples: Iterable[tuple[Outputs, Outputs, int]], kinds: Kinds, source: str) -> Parity:
    """The comparison of (reference outputs, candidate outputs, samples) of every feed."""
    tallies = {name: _Tally(name, how) for name, how in kinds.items()}
    notes: dict[str, str] = {}
    samples = 0
    for before, after, rows in triples:
        samples += rows
        for name, tally in tallies.items():
            left, right = _array(before[name]), _array(after[name])
            if left is None or right is None or (left.dtype.kind in "OSU" and tally.kind != "integers"):
                notes[name] = f"the output {name!r} holds no numbers and was not compared"
                continue
            tally.add(left, right, rows)
    outputs = tuple(tally.result() for name, tally in tallies.items() if name not in notes)
    agreements = [o.agreement for o in outputs if o.kind == "classes" and o.agreement is not None]
    return Parity(
        relative_error=max((o.relative_error for o in outputs if o.relative_error is not None), default=0.0),
        max_abs_error=max((o.max_abs_error for o in outputs if o.max_abs_error is not None), default=0.0),
        top1_agreement=min(agreements, default=None),
        change=max((o.change for o in outputs), default=0.0),
        outputs=outputs,
        samples=samples,
        source=source,
        notes=tuple(notes.values()),
    )


def _array(value: Any) -> np.ndarray | None:
    """A value as one array; sequences and maps (the probabilities of a ZipMap) are laid out in order."""
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, dict):
        return np.array([value[key] for key in sorted(value)])
    if isinstance(value, list):
        parts = [part for part in map(_array, value) if part is not None]
        if len(parts) < len(value):
            return None
        if len({part.shape for part in parts}) == 1:
            return np.stack(parts)
        return np.concatenate([part.ravel() for part in parts]) if parts else np.zeros(0)
    return np.asarray(value) if np.isscalar(value) else None


def rows_of(values: Mapping[str, Any], skip: frozenset[str]) -> int:
    """The length of the first axis that all the arrays share, 1 if they share none."""
    lengths = {
        len(v) if isinstance(v, list) or np.ndim(v) else 1 for name, v in values.items() if name not in skip
    }
    return max(lengths.pop(), 1) if len(lengths) == 1 else 1


def _squared(values: np.ndarray, rows: int) -> np.ndarray:
    return (values.reshape(rows, -1) ** 2).sum(axis=1)


def _columns(differing: np.ndarray, present: np.ndarray) -> np.ndarray:
    return np.stack([differing, present], axis=1).astype(np.float64)

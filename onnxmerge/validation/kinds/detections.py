"""What a detector finds: boxes that appear, vanish or move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from onnxmerge.validation.kinds.boxes import Boxes, matches, paired_overlap, suppressed
from onnxmerge.validation.kinds.heads import Form, Head
from onnxmerge.validation.kinds.protocol import Found, moved, percent, relative, share

# A detection has moved where it overlaps less than this with what it was.
SAME = 0.5
# What is compared continuously: so many rows of every sample, those of the highest scores of either model.
STRONGEST = 100
# Below this confidence a detection is none, whatever the model keeps.
FAINT = 0.05


@dataclass(frozen=True)
class Detections:
    """1 - F1 of the boxes above a confidence, against the original's own.

    A box is found again where one of the same class overlaps it by at least 0.5 (IoU).

    Attributes:
        head: how they lie in the outputs.
        confidence: the least score of a detection.
        overlap: of the greedy suppression.
        own: whether these two are the model's own.
    """

    head: Head
    confidence: float = 0.25
    overlap: float = 0.45
    own: bool = False
    name: ClassVar[str] = "detections"
    of_classes: ClassVar[bool] = False

    @property
    def judged_by(self) -> str:
        whose = ", the model's own" if self.own else ""
        if self.head.final:
            return f"the boxes of confidence {self.confidence:g} that appear, vanish or move"
        if self.head.form is Form.UNKNOWN:
            return (
                f"the rows of confidence {self.confidence:g} that appear or vanish, and by the numbers of "
                "their boxes, which cannot be decoded"
            )
        return (
            f"the boxes ({self.head.form.value}) of confidence {self.confidence:g} that appear, vanish or "
            f"move after suppression at IoU {self.overlap:g}{whose}"
        )

    def tally(self) -> _Tally:
        return _Tally(self)


@dataclass(eq=False)
class _Tally:
    kind: Detections
    boxes: list[np.ndarray] = field(default_factory=list)  # [N, 2]: those without a partner, and all
    strongest: list[np.ndarray] = field(default_factory=list)  # [N, 2]: confidence that moved, and all
    numbers: list[np.ndarray] = field(default_factory=list)  # [N, 2]: squares at the original's detections
    counted: int = 0

    def add(self, before: Sequence[np.ndarray], after: Sequence[np.ndarray], rows: int) -> None:
        if not self.kind.head.batched:
            self._add_sample(before, after)
            return
        for i in range(len(before[0])):
            # One by one: of a large head the samples of a feed take gigabytes as float64.
            self._add_sample([v[i : i + 1] for v in before], [v[i : i + 1] for v in after])

    def _add_sample(self, before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> None:
        x, y = self.kind.head.read(before), self.kind.head.read(after)
        a, b = x.boxes, y.boxes
        self._count(a, b)
        if a.corners.shape == b.corners.shape and not self.kind.head.final:
            self._compare(x.scores, y.scores, a.corners, b.corners, x.numbers, y.numbers)
        else:
            self._compare_apart(a, b)

    def _count(self, a: Boxes, b: Boxes) -> None:
        a, b = (self._kept(one.above(self.kind.confidence)) for one in (a, b))
        found = len(matches(b, a, SAME))
        self.counted += len(a)
        self.boxes.append(np.array([[len(a) + len(b) - 2.0 * found, len(a) + len(b)]]))

    def _kept(self, boxes: Boxes) -> Boxes:
        return boxes if self.kind.head.final else suppressed(boxes, self.kind.overlap)

    def _compare(
        self, p: np.ndarray, q: np.ndarray, a: np.ndarray, b: np.ndarray, x: np.ndarray, y: np.ndarray
    ) -> None:
        """Row by row: how much confidence is lost, won, or lies elsewhere."""
        chosen = np.argsort(-np.maximum(p, q).max(axis=-1, initial=0.0), kind="stable")[:STRONGEST]
        p, q = p[chosen], q[chosen]
        if self.kind.head.form is Form.UNKNOWN:
            differ, size = (np.linalg.norm(v[chosen, :4], axis=-1) for v in (y - x, x))
            fit = 1 - np.nan_to_num(np.clip(differ / np.maximum(size, 1e-12), 0, 1), nan=1.0)
        else:
            fit = paired_overlap(a[chosen], b[chosen])
        most = np.maximum(p, q).sum()
        self.strongest.append(np.array([[most - (np.minimum(p, q) * fit[:, None]).sum(), most]]))
        # Without boxes that can be laid over one another, their numbers are judged; else what goes with them.
        start = 0 if self.kind.head.form is Form.UNKNOWN else 4
        found = p.max(axis=-1, initial=0.0) >= self.kind.confidence
        x, y = (np.nan_to_num(v[chosen][found, start:], posinf=1e18, neginf=-1e18) for v in (x, y))
        self.numbers.append(np.array([[((y - x) ** 2).sum(), (x**2).sum()]]))

    def _compare_apart(self, a: Boxes, b: Boxes) -> None:
        """The same where no row of one is a row of the other."""
        a, b = a.above(FAINT), b.above(FAINT)
        kept = sum(min(b.scores[i], a.scores[j]) * fit for i, j, fit in matches(b, a, 1e-9))
        most = float(a.scores.sum() + b.scores.sum())
        self.strongest.append(np.array([[most - 2 * kept, most]]))

    def found(self) -> Found | None:
        if not self.boxes:
            return None
        soft = moved("confidence of the strongest rows", np.concatenate(self.strongest))
        boxes = share("detections", np.concatenate(self.boxes))
        numbers = relative("numbers of the detected", np.concatenate(self.numbers or [np.zeros((1, 2))]))
        at = f"at confidence {self.kind.confidence:g}"
        if not boxes.sums[:, 1].sum():
            note = (
                f"the original detects nothing {at} on these samples, so how its detections change could not "
                "be judged: what is said compares the rows of the highest scores"
            )
            said = f"{percent(soft.value)} of the confidence{{of}} moves, at the rows of the highest scores"
            return Found((soft,), said, distance=soft.value, notes=(note,))
        said = (
            f"{percent(boxes.value)} of the detections{{of}} change (F1 {1 - boxes.value:.3f} against the "
            f"original's own {self.counted} boxes {at})"
        )
        if self.kind.head.form is Form.UNKNOWN:
            said += f", and the numbers of their boxes by {percent(numbers.value)} of their size"
            return Found((boxes, numbers), said, agreement=1 - boxes.value, distance=soft.value)
        beside = (soft, numbers) if numbers.sums[:, 1].any() else (soft,)
        return Found((boxes,), said, beside=beside, agreement=1 - boxes.value, distance=soft.value)

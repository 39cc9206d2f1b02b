"""A class for every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from onnxmerge.validation.kinds.protocol import Found, columns, difference, percent, samples_of, share

# Of the pixels, what a class has at least to have an IoU of its own: a few stray ones are no object.
LEAST = 1e-3


@dataclass(frozen=True)
class Masks:
    """Pixels whose class changes, of all and of the foreground; the worse of both is the change.

    The background is the class that the original gives most often.

    Attributes:
        axis: of the scores of classes, [N, C, H, W] or [N, H, W, C].
        threshold: of a single score, from where on it is foreground; None: there are several.
    """

    axis: int = 1
    threshold: float | None = None
    name: ClassVar[str] = "masks"

    @property
    def of_classes(self) -> bool:
        return self.threshold is None

    @property
    def judged_by(self) -> str:
        at = "" if self.threshold is None else f" (foreground from {self.threshold:g} on)"
        return f"the class of every pixel{at}, and by the IoU of what is not background"

    def tally(self) -> _Tally:
        return _Tally(self)


@dataclass(eq=False)
class _Tally:
    kind: Masks
    # Per sample int64 [classes, classes]: pixels by the original's class and by the candidate's.
    confusions: list[np.ndarray] = field(default_factory=list)
    single: bool = False

    def add(self, before: Sequence[np.ndarray], after: Sequence[np.ndarray], rows: int) -> None:
        (x,), (y,) = before, after
        axis = self.kind.axis
        if x.ndim < 3 or not -x.ndim <= axis < x.ndim or not x.size:
            return
        rows = samples_of(x, rows, axis)
        self.single = x.shape[axis] == 1
        count = max(x.shape[axis], 2)
        a = self._classes(x).reshape(rows, -1)
        if x.shape == y.shape:
            b = self._classes(y).reshape(rows, -1)
            # What is no number any more is of no class of the original's.
            b = np.where(np.isfinite(difference(x, y)[2]).all(axis).reshape(rows, -1), b, (a + 1) % count)
        else:
            b = (a + 1) % count
        for i in range(rows):
            pairs = np.bincount(a[i] * count + b[i], minlength=count * count)
            self.confusions.append(pairs.reshape(count, count))

    def _classes(self, scores: np.ndarray) -> np.ndarray:
        if self.single:
            threshold = 0.5 if self.kind.threshold is None else self.kind.threshold
            return (np.take(scores, 0, self.kind.axis) >= threshold).astype(np.int64)
        return scores.argmax(self.kind.axis)

    def found(self) -> Found | None:
        if not self.confusions:
            return None
        confusions = np.stack(self.confusions)
        total = confusions.sum(axis=0)
        pixels = confusions.sum(axis=(1, 2))
        equal = np.trace(confusions, axis1=1, axis2=2)
        every = share("pixels", columns(pixels - equal, pixels))
        agreement = 1 - every.value
        background = 0 if self.single else int(total.sum(axis=1).argmax())
        shown = total.sum(axis=1) >= max(LEAST * total.sum(), 1)
        shown[background] = False
        if not shown.any():
            note = "on these samples the original shows only background: the foreground was not judged"
            said = f"{percent(every.value)} of the pixels{{of}} change class"
            return Found((every,), said, agreement=agreement, notes=(note,))
        same = np.diagonal(total).astype(np.float64)
        union = total.sum(axis=0) + total.sum(axis=1) - same
        iou = float((same[shown] / union[shown]).mean())
        covered = pixels - confusions[:, background, background]
        foreground = share("foreground (1 - mean IoU)", columns(pixels - equal, covered), 1 - iou)
        said = (
            f"{percent(every.value)} of the pixels{{of}} change class; over what is not background the mean "
            f"IoU with the original's own classes is {iou:.3f}"
        )
        return Found((every, foreground), said, agreement=agreement)

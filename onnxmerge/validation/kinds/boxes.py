"""Boxes: overlap, greedy suppression, and matching against a reference. Boxes are [x1, y1, x2, y2]."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Before suppression and after it, as many of the best as the usual post-processing keeps.
MOST_BEFORE, MOST_AFTER = 1000, 300


@dataclass(frozen=True, eq=False)
class Boxes:
    """Detections of one sample, the best first.

    Attributes:
        corners: float64 [k, 4].
        scores: float64 [k].
        labels: int64 [k].
    """

    corners: np.ndarray
    scores: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, index: np.ndarray) -> Boxes:
        return Boxes(self.corners[index], self.scores[index], self.labels[index])

    def above(self, confidence: float) -> Boxes:
        """Those of at least this score, the best first; of equals the earlier one."""
        chosen = np.flatnonzero(self.scores >= confidence)
        return self.take(chosen[np.argsort(-self.scores[chosen], kind="stable")])


def paired_overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes [..., 4] with others, broadcast; 1 for equal ones, however thin."""
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
    both = np.clip(high - low, 0, None).prod(axis=-1)
    areas = [np.clip(v[..., 2:] - v[..., :2], 0, None).prod(axis=-1) for v in (a, b)]
    union = areas[0] + areas[1] - both
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.where(union > 0, both / union, 0.0)
    return np.where((a == b).all(axis=-1), 1.0, np.nan_to_num(found))


def suppressed(boxes: Boxes, overlap: float) -> Boxes:
    """Greedy non-maximum suppression, each class by itself.

    Args:
        boxes: the best first.
        overlap: a box that overlaps a better one by more goes.
    """
    boxes = boxes.take(np.arange(min(len(boxes), MOST_BEFORE)))
    alive = np.ones(len(boxes), bool)
    for i in range(len(boxes)):
        if alive[i]:
            rest = alive[i + 1 :] & (boxes.labels[i + 1 :] == boxes.labels[i])
            alive[i + 1 :] &= ~(rest & (paired_overlap(boxes.corners[i], boxes.corners[i + 1 :]) > overlap))
    return boxes.take(np.flatnonzero(alive)[:MOST_AFTER])


def matches(found: Boxes, reference: Boxes, least: float) -> list[tuple[int, int, float]]:
    """Pairs (of found, of reference, overlap): the best take first, the reference of their class they fit.

    Args:
        least: the smallest overlap of a pair.
    """
    free = np.ones(len(reference), bool)
    pairs = []
    for i in range(len(found)):
        overlap = paired_overlap(found.corners[i], reference.corners)
        overlap = np.where(free & (reference.labels == found.labels[i]), overlap, -1.0)
        if len(overlap) and overlap.max() >= least:
            j = int(overlap.argmax())
            free[j] = False
            pairs.append((i, j, float(overlap[j])))
    return pairs

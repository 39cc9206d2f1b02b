"""The mean average precision of a detector at an overlap of one half: copy this file and set the lines below.

    onnxmerge in.onnx out.onnx --calib inputs/ --eval mean_ap.py:mean_ap --max-drop 0.01

``truth.npz`` holds ``inputs``, float32 [images, ...] as the model takes them, and ``boxes``, float32
[objects, 6]: the number of the image, the class, and x1, y1, x2, y2. Change ``detections`` to what your
model gives.
"""

from __future__ import annotations

import os

import numpy as np

TRUTH = os.environ.get("TRUTH", "truth.npz")
OVERLAP = 0.5


def mean_ap(session) -> float:
    """The mean over the classes of the area under precision against recall (all points), 0..1."""
    data = np.load(TRUTH)
    truth, name = data["boxes"], session.get_inputs()[0].name
    found = []
    for i, image in enumerate(data["inputs"]):
        rows = detections(session.run(None, {name: image[None]}))
        found += [np.concatenate([np.full((len(rows), 1), i), rows], axis=1)]
    boxes = np.concatenate(found)
    return float(np.mean([average_precision(boxes, truth, c) for c in np.unique(truth[:, 1])]))


def detections(outputs: list[np.ndarray]) -> np.ndarray:
    """The detections of one image, [n, 6]: score, class, x1, y1, x2, y2; here the model's first output."""
    rows = outputs[0].reshape(-1, 6)
    return rows[rows[:, 0] > 0.05]


def average_precision(boxes: np.ndarray, truth: np.ndarray, number: float) -> float:
    """Of one class: every object is found once, by the best-scored box that overlaps it enough."""
    mine, there = boxes[boxes[:, 2] == number], truth[truth[:, 1] == number]
    free, hits = np.ones(len(there), bool), []
    for box in mine[np.argsort(-mine[:, 1], kind="stable")]:
        overlaps = np.where(free & (there[:, 0] == box[0]), overlap(box[3:], there[:, 2:]), 0.0)
        hits.append(overlaps.max(initial=0.0) >= OVERLAP)
        if hits[-1]:
            free[overlaps.argmax()] = False
    right = np.cumsum(hits)
    precision = right / np.arange(1, len(hits) + 1)
    # The best precision at this recall or a higher one.
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float(best[np.asarray(hits, bool)].sum() / len(there))


def overlap(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of one box with others [n, 4]."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    common = np.clip(high - low, 0, None).prod(axis=1)
    return common / ((box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(axis=1) - common)

"""NudeNet: boxes in photographs, judged against the boxes that the original finds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from application import Case, Client, session

PHOTOGRAPHS = Path(__file__).parents[2] / "onnxmerge" / "data" / "generic" / "images"
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


class Detector:
    name = "NudeNet"
    packages = ("nudenet",)
    without_dependencies = ()
    metric = "F1 of boxes, IoU 0.5"
    unit = 1.0
    told_by = "the original's own boxes"
    calibration = 300

    def __init__(self, photographs: Path = PHOTOGRAPHS) -> None:
        self._photographs = photographs

    def model(self) -> Path:
        import nudenet

        return Path(nudenet.__file__).parent / "320n.onnx"

    def client(self, model: Path) -> Client:
        return _Client(model)

    def cases(self, count: int, seed: int) -> list[Case]:
        """Crops of photographs, mirrored at random; a photograph is in one draw or the other."""
        import cv2

        paths = sorted(p for p in self._photographs.rglob("*") if p.suffix.lower() in _SUFFIXES)
        generator = np.random.default_rng(seed)
        own = paths[seed % 2 :: 2]
        found = []
        for number in range(count):
            image = cv2.imread(str(own[number % len(own)]))
            height, width = image.shape[:2]
            share = generator.uniform(0.5, 1.0) if number >= len(own) else 1.0
            high, wide = int(height * share), int(width * share)
            top, left = generator.integers(height - high + 1), generator.integers(width - wide + 1)
            crop = image[top : top + high, left : left + wide]
            found.append(Case(np.ascontiguousarray(crop[:, :: generator.choice((-1, 1))])))
        return found

    def score(self, answers: Sequence[Any], truths: Sequence[Any]) -> float:
        hits = sum(_matched(a, t) for a, t in zip(answers, truths, strict=True))
        total = sum(len(a) + len(t) for a, t in zip(answers, truths, strict=True))
        return 2 * hits / total if total else 1.0


class _Client:
    def __init__(self, model: Path) -> None:
        from nudenet import NudeDetector

        self._detector = NudeDetector(str(model))
        self.session = self._detector.onnx_session = session(model)

    def __call__(self, given: np.ndarray) -> list[tuple[str, tuple[int, ...]]]:
        return [(found["class"], tuple(found["box"])) for found in self._detector.detect(given)]


def _matched(answers: Sequence[Any], truths: Sequence[Any]) -> int:
    """How many boxes of one image find one of the other list, of the same class, each at most once."""
    left, hits = list(truths), 0
    for label, box in answers:
        best = max((t for t in left if t[0] == label), key=lambda t: _overlap(box, t[1]), default=None)
        if best is not None and _overlap(box, best[1]) >= 0.5:
            left.remove(best)
            hits += 1
    return hits


def _overlap(a: Sequence[int], b: Sequence[int]) -> float:
    """Intersection over union of two boxes, left, top, width and height."""
    wide = max(0, min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0]))
    high = max(0, min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1]))
    union = a[2] * a[3] + b[2] * b[3] - wide * high
    return wide * high / union if union else 0.0

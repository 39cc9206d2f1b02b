"""NudeNet: boxes in photographs, judged against the boxes that the original finds."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from application import Case, Client, session

PHOTOGRAPHS = Path(__file__).parents[2] / "onnxmerge" / "data" / "generic" / "images"
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
# Photographs of people that packages bring along.
PEOPLE = {
    "insightface": ("data/images/t1.jpg", "data/images/Tom_Hanks_54745.png"),
    "scikit-image": ("data/astronaut.png",),
    "ultralytics": ("assets/bus.jpg", "assets/zidane.jpg"),
    "matplotlib": ("mpl-data/sample_data/grace_hopper.jpg",),
}
_MODULES = {"scikit-image": "skimage"}
# A photograph in which the original is so sure of something is one of people, and so many cases show one.
_SURE, _OF_PEOPLE = 0.5, 0.7


class Detector:
    name = "NudeNet"
    packages = ("nudenet",)
    # For the photographs of people in them.
    without_dependencies = tuple(PEOPLE)
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
        """Crops of photographs, mirrored at random, most of them of people: half of these lie on another one.

        A photograph is in one draw or the other, what lies beneath included.
        """
        import cv2

        paths = [p for p in sorted(self._photographs.rglob("*")) if p.suffix.lower() in _SUFFIXES]
        own = [*paths[seed % 2 :: 2], *_packaged()[seed % 2 :: 2]]
        images = [image for image in (cv2.imread(str(path)) for path in own) if image is not None]
        client = _Client(self.model())
        people = [image for image in images if client.surest(image) >= _SURE]
        generator = np.random.default_rng(seed)
        found = []
        for _ in range(count):
            shows = generator.random() < _OF_PEOPLE
            image = _view(
                (people if shows else images)[generator.integers(len(people if shows else images))], generator
            )
            if shows and generator.random() < 0.5:
                image = _upon(_view(images[generator.integers(len(images))], generator), image, generator)
            found.append(Case(np.ascontiguousarray(image)))
        return found

    def score(self, answers: Sequence[Any], truths: Sequence[Any]) -> float:
        hits = sum(_matched(a, t) for a, t in zip(answers, truths, strict=True))
        total = sum(len(a) + len(t) for a, t in zip(answers, truths, strict=True))
        return 2 * hits / total if total else 1.0


def _packaged() -> list[Path]:
    """The photographs of packages that are installed; nothing of these is imported, some are heavy."""
    found = []
    for package, names in PEOPLE.items():
        spec = importlib.util.find_spec(_MODULES.get(package, package))
        if spec is not None and spec.origin is not None:
            found += [Path(spec.origin).parent / name for name in names]
    return [path for path in found if path.exists()]


def _view(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A crop of 0.6 of the sides or more, mirrored or not."""
    height, width = image.shape[:2]
    share = generator.uniform(0.6, 1.0)
    high, wide = int(height * share), int(width * share)
    top, left = generator.integers(height - high + 1), generator.integers(width - wide + 1)
    return image[top : top + high, left : left + wide][:, :: generator.choice((-1, 1))]


def _upon(below: np.ndarray, image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """An image upon another, at a random place, of 0.35 to 0.9 of its size."""
    import cv2

    share = generator.uniform(0.35, 0.9) * min(
        b / i for b, i in zip(below.shape[:2], image.shape[:2], strict=True)
    )
    small = cv2.resize(image, None, fx=share, fy=share, interpolation=cv2.INTER_AREA)
    top, left = (generator.integers(b - s + 1) for b, s in zip(below.shape[:2], small.shape[:2], strict=True))
    found = below.copy()
    found[top : top + small.shape[0], left : left + small.shape[1]] = small
    return found


class _Client:
    def __init__(self, model: Path) -> None:
        from nudenet import NudeDetector

        self._detector = NudeDetector(str(model))
        self.session = self._detector.onnx_session = session(model)

    def surest(self, given: np.ndarray) -> float:
        """The highest confidence of a box; 0 where there is none."""
        return max((found["score"] for found in self._detector.detect(given)), default=0.0)

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

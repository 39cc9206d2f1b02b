"""The networks that are compared on, with inputs to calibrate and to judge on."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
import accuracy  # the bench of labelled test images


@dataclass(frozen=True, eq=False)
class Subject:
    """A network and its inputs, float32.

    Attributes:
        labels: of the judged inputs, where there are any.
        about: what was fed, for the reader of the table.
    """

    name: str
    path: Path
    calibration: dict[str, np.ndarray]
    judged: dict[str, np.ndarray]
    labels: np.ndarray | None
    about: str


CLASSIFIERS = ("resnet56_bn", "resnet20_bn", "mobilenetv2")
# Of the corpus: input, sides (height, width), what a pixel 0..255 is shifted by and divided by.
OTHERS = {
    "DefTruth+lite.ai.toolkit__pfld-106-lite": ("input", (112, 112), 0.0, 255.0),
    "Linzaer+Ultra-Light-Fast-Generic-Face-Detector-1MB__version-RFB-320": (
        "input",
        (240, 320),
        127.0,
        128.0,
    ),
    "Kazuhito00+Image-Processing-Node-Editor__yolox_nano": ("images", (416, 416), 0.0, 1.0),
    "dog-qiuqiu+FastestDet__FastestDet": ("input.1", (352, 352), 0.0, 255.0),
}
_CALIBRATED, _JUDGED = 64, 64
# Of labelled test images so many judge at the most: a row takes seconds of an idle core.
_LABELLED = 500


def subject(shared: Path, name: str) -> Subject:
    """Raises FileNotFoundError where the model, or the images, are not there."""
    if name not in OTHERS:
        bench = accuracy.load_bench(shared, name, "test")
        tensor = _input(bench.path)
        drawn = bench.draw(0)
        judged, labels = bench.judged[:_LABELLED], bench.labels[:_LABELLED]
        about = f"{len(drawn)} images without labels to calibrate on, {len(judged)} labelled test images"
        return Subject(name, bench.path, {tensor: drawn}, {tensor: judged}, labels, about)
    path = shared / "corpus" / f"{name}.onnx"
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there")
    data = accuracy._module(shared / "data" / "load.py")
    tensor, sides, shift, divisor = OTHERS[name]
    parts = []
    for split, count in (("calibration", _CALIBRATED), ("test", _JUDGED)):
        images = data.imagenet(split)[0][:count].astype(np.float32)
        rows, columns = (np.arange(side) * 256 // side for side in sides)
        pixels = (images[:, rows][:, :, columns] - shift) / divisor
        parts.append({tensor: np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))})
    about = (
        f"{_CALIBRATED} and {_JUDGED} photographs of ImageNet, which need not show what the network is for"
    )
    return Subject(name, path, parts[0], parts[1], None, about)


def _input(path: Path) -> str:
    import onnx

    graph = onnx.load(path).graph
    stored = {t.name for t in graph.initializer}
    return next(i.name for i in graph.input if i.name not in stored)

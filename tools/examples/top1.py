"""The percentage of right answers over a folder of images: copy this file and set the lines below.

    onnxmerge in.onnx out.onnx --calib images/ --eval top1.py:top1 --max-drop 0.5

The folder has a folder of images per class, which in the order of their names are classes 0, 1, 2, ...
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

FOLDER = Path(os.environ.get("LABELLED", "labelled"))
MEAN, STD, SCALE = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 1 / 255  # of one channel: (0.5,), (0.5,)
HEIGHT, WIDTH = 224, 224
BATCH = 32


def top1(session) -> float:
    """Percent of the images whose highest score is that of their folder."""
    name, shape = session.get_inputs()[0].name, session.get_inputs()[0].shape
    batch = shape[0] if isinstance(shape[0], int) else BATCH
    right = seen = 0
    for images, labels in batches(batch):
        count = len(labels)
        if count < batch and isinstance(shape[0], int):  # the model fixes its batch: fill it up
            images = np.concatenate([images, np.repeat(images[-1:], batch - count, axis=0)])
        scores = session.run(None, {name: images})[0][:count]
        right += int((scores.argmax(axis=1) == labels).sum())
        seen += count
    return 100 * right / seen


def batches(size: int):
    """Images, float32 [n, channels, height, width], and the numbers of their classes, int64 [n]."""
    classes = sorted(folder for folder in FOLDER.iterdir() if folder.is_dir())
    files = [(path, i) for i, folder in enumerate(classes) for path in sorted(folder.iterdir())]
    for start in range(0, len(files), size):
        part = files[start : start + size]
        yield np.stack([pixels(path) for path, _ in part]), np.array([label for _, label in part])


def pixels(path: Path) -> np.ndarray:
    """One image as the model expects it."""
    image = Image.open(path).convert("L" if len(MEAN) == 1 else "RGB").resize((WIDTH, HEIGHT))
    values = np.asarray(image, np.float32).reshape(HEIGHT, WIDTH, len(MEAN)) * SCALE
    return ((values - np.array(MEAN)) / np.array(STD)).astype(np.float32).transpose(2, 0, 1)

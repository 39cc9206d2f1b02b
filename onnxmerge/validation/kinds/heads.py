"""How boxes and scores lie in the outputs of a detector, and how they become boxes in one frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from scipy.special import expit, softmax

from onnxmerge.validation.kinds.boxes import Boxes


class Form(Enum):
    """What the four numbers of a box are."""

    CORNERS = "corners"
    CENTRES = "centres and sizes"
    CELLS = "offsets from cells of a grid, and logarithms of sizes"
    UNKNOWN = "relative to something that is not in the outputs"
    PLACES = "numbers of boxes"


class Activation(Enum):
    """What makes probabilities of scores."""

    NONE = "none"
    LOGISTIC = "logistic"
    SOFTMAX = "softmax"


@dataclass(frozen=True)
class Columns:
    """Some columns of one output.

    Attributes:
        output: its place among the outputs that are read together.
        axis: that the columns lie along; the axes between it and the batch are rows.
        start, stop: as of a slice.
        batch: whether axis 0 is that of samples.
    """

    output: int
    axis: int
    start: int = 0
    stop: int | None = None
    batch: bool = True

    def read(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """Float64 [samples, rows, columns]."""
        values = np.asarray(arrays[self.output], dtype=np.float64)
        values = values if self.batch else values[None]
        if values.ndim == 2:
            values = values[..., None]
        else:
            values = np.moveaxis(values, self.axis if self.axis < 0 else self.axis + (not self.batch), -1)
        width = values.shape[-1]
        flat = values.reshape(len(values), -1, width) if values.size else np.zeros((len(values), 0, width))
        return flat[..., self.start : self.stop]


@dataclass(frozen=True)
class Level:
    """Rows that belong together: one output of boxes, or those of one stride.

    Attributes:
        boxes: four columns.
        scores: factors of the confidence: of one column (objectness) or one for every class; none: all are
            sure.
        labels: the class of every row, where the scores are of one column and the model chose before.
        extras: what else a row says (landmarks), compared where something is detected.
        rows: of the outputs, from the first to before the last; None to the end.
        stride: of cells, in pixels; 0 where there are none.
        across: cells in a line of the grid.
    """

    boxes: Columns
    scores: tuple[Columns, ...]
    labels: tuple[Columns, ...] = ()
    extras: tuple[Columns, ...] = ()
    rows: tuple[int, int | None] = (0, None)
    stride: int = 0
    across: int = 0


@dataclass(frozen=True)
class Head:
    """How to read detections out of outputs.

    Attributes:
        levels: stacked one after the other.
        form: of the boxes.
        activation: of the scores, if it is still to come.
        background: the column of the classes that stands for nothing; None where none does.
        final: whether the model has suppressed what overlaps itself.
        geometric: whether the confidence is the root of the product of its factors.
    """

    levels: tuple[Level, ...]
    form: Form
    activation: Activation = Activation.NONE
    background: int | None = None
    final: bool = False
    geometric: bool = False

    def read(self, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Boxes [N, A, 4], raw boxes [N, A, 4], scores [N, A, C] in 0..1, and extras [N, A, k]; float64."""
        boxes = [_rows(level.boxes, level, arrays) for level in self.levels]
        corners = [self._corners(level, raw) for level, raw in zip(self.levels, boxes, strict=True)]
        scores = [self._scores(level, arrays) for level in self.levels]
        extras = [
            np.concatenate([_rows(part, level, arrays) for part in level.extras] or [raw[..., :0]], axis=-1)
            for level, raw in zip(self.levels, boxes, strict=True)
        ]
        stacked = [np.concatenate(parts, axis=1) for parts in (corners, boxes, scores, extras)]
        return stacked[0], stacked[1], stacked[2], stacked[3]

    def labels(self, arrays: Sequence[np.ndarray]) -> np.ndarray | None:
        """The class of every row, int64 [N, A], where the model says it; None where scores do."""
        if not all(level.labels for level in self.levels):
            return None
        rows = []
        for level in self.levels:
            parts = [np.nan_to_num(_rows(part, level, arrays)[..., 0]) for part in level.labels]
            rows.append(sum(part * 100_000**i for i, part in enumerate(parts)))
        return np.concatenate(rows, axis=1).astype(np.int64)

    def boxes(self, corners: np.ndarray, scores: np.ndarray, labels: np.ndarray | None) -> Boxes:
        """The rows of one sample, each with its best class."""
        if labels is None:
            best = scores.argmax(axis=-1) if scores.size else np.zeros(len(scores), np.int64)
        else:
            best = labels
        top = scores.max(axis=-1) if scores.size else np.zeros(len(scores))
        return Boxes(corners, top, best)

    def _scores(self, level: Level, arrays: Sequence[np.ndarray]) -> np.ndarray:
        factors = [_rows(part, level, arrays) for part in level.scores]
        if not factors:
            return np.ones((*_rows(level.boxes, level, arrays).shape[:2], 1))
        if self.activation is not Activation.NONE:
            logistic = self.activation is Activation.LOGISTIC
            factors = [expit(v) if logistic or v.shape[-1] == 1 else softmax(v, axis=-1) for v in factors]
        if self.background is not None:
            factors = [
                part if part.shape[-1] == 1 else np.delete(part, self.background, axis=-1) for part in factors
            ]
        # What is no number is no detection.
        factors = [np.clip(np.nan_to_num(part, nan=0.0, posinf=1.0, neginf=0.0), 0, 1) for part in factors]
        product = factors[0]
        for part in factors[1:]:
            product = product * part
        return product ** (1 / len(factors)) if self.geometric else product

    def _corners(self, level: Level, boxes: np.ndarray) -> np.ndarray:
        boxes = np.nan_to_num(boxes, nan=0.0, posinf=1e6, neginf=-1e6)
        if self.form is Form.CORNERS:
            return boxes
        if self.form in (Form.UNKNOWN, Form.PLACES):
            # A row stands for its own place: no two overlap, and the same row of another model is here.
            number = np.arange(boxes.shape[1], dtype=np.float64)[None, :, None]
            place = boxes[..., :1] if self.form is Form.PLACES else number
            return place * 2 + np.array([0.0, 0.0, 1.0, 1.0]) * np.ones((len(boxes), 1, 1))
        middle, size = boxes[..., :2], boxes[..., 2:]
        if self.form is Form.CELLS:
            cells = np.arange(boxes.shape[1])
            origin = np.stack([cells % level.across, cells // level.across], axis=-1)
            middle, size = (middle + origin) * level.stride, np.exp(np.clip(size, -20, 20)) * level.stride
        return np.concatenate([middle - size / 2, middle + size / 2], axis=-1)


def _rows(part: Columns, level: Level, arrays: Sequence[np.ndarray]) -> np.ndarray:
    return part.read(arrays)[:, slice(*level.rows)]

"""How boxes and scores lie in the outputs of a detector, and how they become boxes in one frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from scipy.special import expit, softmax

from onnxmerge.validation.kinds.boxes import Boxes

# More classes no detector has.
MOST_CLASSES = 100_000


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


@dataclass(frozen=True, eq=False)
class Rows:
    """What a head says of one sample, row by row.

    Attributes:
        boxes: all rows, each with its best class, in the order of the outputs.
        scores: float64 [rows, classes], 0..1.
        numbers: float64 [rows, 4 + k]: the four of the box as they are, and what else there is.
    """

    boxes: Boxes
    scores: np.ndarray
    numbers: np.ndarray


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

    @property
    def batched(self) -> bool:
        """Whether axis 0 of all the outputs is that of samples."""
        return all(
            part.batch
            for level in self.levels
            for part in (level.boxes, *level.scores, *level.labels, *level.extras)
        )

    def read(self, arrays: Sequence[np.ndarray]) -> Rows:
        """The rows of one sample; where the outputs have an axis of samples, it is 1 long."""
        raw = [_rows(level.boxes, level, arrays) for level in self.levels]
        scores = np.concatenate([self._scores(level, arrays) for level in self.levels])
        corners = [self._corners(level, part) for level, part in zip(self.levels, raw, strict=True)]
        numbers = [
            np.concatenate([part, *(_rows(extra, level, arrays) for extra in level.extras)], axis=-1)
            for level, part in zip(self.levels, raw, strict=True)
        ]
        labels = scores.argmax(axis=-1) if len(scores) else np.zeros(0, np.int64)
        if all(level.labels for level in self.levels):
            labels = np.concatenate([_labels(level, arrays) for level in self.levels])
        boxes = Boxes(np.concatenate(corners), scores.max(axis=-1, initial=0.0), labels)
        return Rows(boxes, scores, np.concatenate(numbers))

    def _scores(self, level: Level, arrays: Sequence[np.ndarray]) -> np.ndarray:
        factors = [_rows(part, level, arrays) for part in level.scores]
        if not factors:
            return np.ones((len(_rows(level.boxes, level, arrays)), 1))
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
            numbers = np.arange(len(boxes), dtype=np.float64)[:, None]
            place = boxes[:, :1] if self.form is Form.PLACES else numbers
            return place * 2 + np.array([0.0, 0.0, 1.0, 1.0])
        middle, size = boxes[:, :2], boxes[:, 2:]
        if self.form is Form.CELLS:
            cells = np.arange(len(boxes))
            origin = np.stack([cells % level.across, cells // level.across], axis=-1)
            middle, size = (middle + origin) * level.stride, np.exp(np.clip(size, -20, 20)) * level.stride
        return np.concatenate([middle - size / 2, middle + size / 2], axis=-1)


def _rows(part: Columns, level: Level, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Float64 [rows, columns] of the one sample."""
    return part.read(arrays)[0, slice(*level.rows)]


def _labels(level: Level, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """The class of every row as the model says it, int64 [rows]; several columns make one class."""
    parts = [np.nan_to_num(_rows(part, level, arrays)[:, 0]).astype(np.int64) for part in level.labels]
    return np.sum([part * MOST_CLASSES**i for i, part in enumerate(parts)], axis=0)

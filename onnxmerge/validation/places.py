"""Where in a sample the answers are decided, as far as the kinds of the outputs tell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from scipy.special import softmax

from onnxmerge.runtime import Session
from onnxmerge.runtime.session import Feed
from onnxmerge.validation.answers import picture
from onnxmerge.validation.judgement import Judgement
from onnxmerge.validation.kinds import Detections, Sequences
from onnxmerge.validation.kinds.boxes import Boxes
from onnxmerge.validation.kinds.detections import FAINT
from onnxmerge.validation.kinds.heads import Form
from onnxmerge.validation.kinds.sequences import batch_axis

# Cells in a line of the grid that boxes are entered into.
CELLS = 40
# The part of a box, along each side, whose features make its answer.
INNER = 0.5
# Coordinates of boxes up to this are shares of the picture, and not pixels.
_SHARES = 4.0
# A sum of probabilities misses one by less.
_TO_ONE = 1e-2


class Places:
    """What places of samples count: those of boxes, and the steps that are read as something.

    Args:
        judgements: how every output is judged.
        session: of the untouched model.
    """

    def __init__(self, judgements: Mapping[str, Judgement], session: Session):
        self._session = session
        self._judged: list[tuple[Judgement, list[str]]] = []
        for name, judged in judgements.items():
            names = list(judged.outputs or (name,))
            if names not in [other for _, other in self._judged] and _tells(judged):
                self._judged.append((judged, names))

    def __call__(self, feeds: Iterable[Feed], batch: int | None) -> list[np.ndarray | None]:
        """What counts in every feed, float64 [samples, height, width], or None where nothing tells.

        Args:
            batch: the samples that the model takes at a time; None: any number.
        """
        return [self._of(feed, batch) for feed in feeds] if len(self._judged) == 1 else [None]

    def _of(self, feed: Feed, batch: int | None) -> np.ndarray | None:
        (judged, names) = self._judged[0]
        samples = {len(v) for v in feed.values() if v.ndim}
        if len(samples) != 1:
            return None
        rows, found = samples.pop(), []
        step = rows if batch is None else batch
        for start in range(0, rows, step):
            part = {name: value[start : start + step] for name, value in feed.items()}
            answers = self._session.run(part, names)
            one = _counted(judged, [answers[name] for name in names], picture(feed), min(step, rows - start))
            if one is None:
                return None
            found.append(one)
        return np.concatenate(found) if len({one.shape[1:] for one in found}) == 1 else None


def _tells(judged: Judgement) -> bool:
    how = judged.how
    if isinstance(how, Detections):
        return how.head.form not in (Form.UNKNOWN, Form.PLACES) and how.head.batched
    return isinstance(how, Sequences) and how.ctc


def _counted(
    judged: Judgement, arrays: list[Any], image: tuple[int, int] | None, rows: int
) -> np.ndarray | None:
    how = judged.how
    if isinstance(how, Detections):
        if image is None or any(len(v) != rows for v in arrays):
            return None
        each = [[v[i : i + 1] for v in arrays] for i in range(rows)]
        return np.stack([_entered(how.head.read(one).boxes.above(FAINT), image) for one in each])
    assert isinstance(how, Sequences)
    return _steps(how, arrays[0], rows)


def _entered(boxes: Boxes, image: tuple[int, int]) -> np.ndarray:
    """The score of the surest box at every place, float64 [CELLS, CELLS]."""
    found = np.zeros((CELLS, CELLS))
    corners = boxes.corners
    if not len(corners):
        return found
    size = np.array([image[1], image[0]] * 2) if np.abs(corners).max() > _SHARES else 1.0
    middle, half = (corners[:, :2] + corners[:, 2:]) / 2, (corners[:, 2:] - corners[:, :2]) * (INNER / 2)
    scaled = np.concatenate([middle - half, middle + half], axis=1) / size * CELLS
    begin = np.clip(np.floor(scaled[:, :2]), 0, CELLS - 1).astype(int)
    end = np.clip(np.ceil(scaled[:, 2:]), begin + 1, CELLS).astype(int)
    for i in np.argsort(boxes.scores, kind="stable"):
        found[begin[i, 1] : end[i, 1], begin[i, 0] : end[i, 0]] = boxes.scores[i]
    return found


def _steps(how: Sequences, values: np.ndarray, rows: int) -> np.ndarray | None:
    """How unsure a step is, and whether it is read as something, float64 [samples, 1, steps]."""
    if how.chosen:
        classes = values.reshape(rows, -1)
        read = (classes != (how.blank or 0)).astype(np.float64)
        beside = np.pad(read, ((0, 0), (1, 1)))
        return np.maximum(read, 0.5 * np.maximum(beside[:, 2:], beside[:, :-2]))[:, None]
    if values.ndim != 3 or values.shape[-1] < 2:
        return None
    scores = np.moveaxis(values, batch_axis(values, rows), 0).astype(np.float64)
    shares = bool((scores >= 0).all()) and bool((abs(scores.sum(-1) - 1) < _TO_ONE).all())
    likely = scores if shares else softmax(scores, axis=-1)
    two = np.partition(likely, -2, axis=-1)[..., -2:]
    doubt = 1 - (two[..., 1] - two[..., 0])
    read = likely.argmax(-1) != (-1 if how.blank is None else how.blank)
    return np.asarray(doubt + read)[:, None]

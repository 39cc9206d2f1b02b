"""Detectors with one output: every row of it is a box and its scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxmerge.validation.answers import Answers
from onnxmerge.validation.detectors.forms import (
    FEWEST_ROWS,
    Detector,
    across_of,
    form_of,
    grid_of,
    is_corners,
    on_grid,
    strongest,
)
from onnxmerge.validation.kinds import Detections
from onnxmerge.validation.kinds.heads import Activation, Columns, Form, Head, Level
from onnxmerge.validation.scores import Scores


def together(name: str, answers: Answers, graph: Scores, *, sure: bool) -> Detector | None:
    """An output that holds boxes and their scores; None where it does not.

    Args:
        sure: whether it is said to.
    """
    arrays = answers.of_output(name)
    first = arrays[0]
    if first.dtype.kind in "iu":
        indices = first.ndim == 2 and first.shape[1] == 3 and graph.suppresses(name)
        return _selected(name) if indices else None
    if first.dtype.kind != "f":
        return None
    suppressed = graph.suppresses(name)
    if first.ndim in (2, 3) and first.shape[-1] in (6, 7):
        final = _final(name, arrays, batch=first.ndim == 3, sure=suppressed)
        if final is not None:
            return final
    if not answers.batched(name) or first.ndim < 3:
        return None
    if first.ndim == 5 and first.shape[-1] >= 6 and first.shape[1] <= 9 and _square(first, answers.image):
        level = Level(Columns(0, -1, 0, 4), (Columns(0, -1, 4, 5), Columns(0, -1, 5)))
        head = Head((level,), Form.UNKNOWN, Activation.LOGISTIC)
        return Detector((name,), Detections(head), "its last axis is a box, a confidence and classes")
    for axis in (2, 1) if first.ndim == 3 else (1, first.ndim - 1):
        width = first.shape[axis]
        rows = first.size // max(len(first) * width, 1)
        if width < 5 or rows < FEWEST_ROWS or answers.lengths(name, axis) != {width}:
            continue
        parts = graph.parts(name, width)
        values = np.concatenate([np.moveaxis(v, axis, -1).reshape(-1, width) for v in arrays])
        layout = _columns(values, parts, sure=sure or (first.ndim == 3 and width <= rows))
        if layout is not None:
            return _laid_out(name, axis, layout, values, rows, answers)
    return None


def _square(values: np.ndarray, image: tuple[int, int] | None) -> bool:
    """Whether two axes are those of a picture, in cells."""
    return image is not None and values.shape[2] * image[1] == values.shape[3] * image[0]


def _selected(name: str) -> Detector:
    """Triples of sample, class and number of the box."""
    sample, label, box = (Columns(0, -1, i, i + 1, batch=False) for i in range(3))
    level = Level(box, (), (sample, label))
    head = Head((level,), Form.PLACES, final=True)
    return Detector((name,), Detections(head), "it holds the boxes that are left after suppression")


def _final(name: str, arrays: Sequence[np.ndarray], *, batch: bool, sure: bool) -> Detector | None:
    """[K, 6] or [K, 7] or [N, K, 6] of what is left after suppression."""
    width = arrays[0].shape[-1]
    values = np.concatenate([v.reshape(-1, width) for v in arrays]).astype(np.float64)
    start = 1 if width == 7 else 0
    if len(values) and not (np.isfinite(values).all() and is_corners(values[:, start : start + 4])):
        return None
    whole = [bool(len(values)) and bool((values[:, i] == np.round(values[:, i])).all()) for i in range(width)]
    unit = [bool(((values[:, i] >= 0) & (values[:, i] <= 1)).all()) for i in range(width)]
    pairs = [(start + 5, start + 4), (start + 4, start + 5)] if width == 7 else [(4, 5), (5, 4)]
    for score, label in pairs:
        told = whole[label] and unit[score] and not whole[score] and (start == 0 or whole[0])
        if told or (sure and not len(values)):
            labels = tuple(Columns(0, -1, i, i + 1, batch) for i in (*range(start), label))
            level = Level(
                Columns(0, -1, start, start + 4, batch), (Columns(0, -1, score, score + 1, batch),), labels
            )
            head = Head((level,), Form.CORNERS, final=True)
            return Detector((name,), Detections(head), "it holds boxes, scores and classes of what was found")
    return None


@dataclass(frozen=True)
class _Layout:
    """Where in the columns of one output boxes and scores lie."""

    boxes: int
    objectness: int | None
    classes: tuple[int, int]
    extras: tuple[tuple[int, int], ...] = ()
    certain: bool = True
    reason: str = "it is put together from boxes and scores"


def _columns(values: np.ndarray, parts: list[tuple[int, bool]] | None, *, sure: bool) -> _Layout | None:
    """From values [rows, columns], and what the columns were put together from."""
    if parts is not None:
        layout = _of_parts(parts, values)
        if layout is not None:
            return layout
    if not sure:
        return None
    # Boxes in pixels, then scores of their own: nothing else looks like that.
    unit = _in_unit(values)
    stop = 4
    while stop < len(unit) and unit[stop]:
        stop += 1
    if stop < 5 or unit[:4].any():
        return None
    rest = ((stop, values.shape[1]),) if stop < values.shape[1] else ()
    first = _objectness(values[:, 4:stop])
    classes = (5, stop) if first and stop > 5 else (4, stop)
    reason = "its first columns are boxes, and scores follow"
    return _Layout(0, 4 if first and stop > 5 else None, classes, rest, False, reason)


def _of_parts(parts: list[tuple[int, bool]], values: np.ndarray) -> _Layout | None:
    """Four columns of boxes beside others that are normalised."""
    starts = np.cumsum([0, *(n for n, _ in parts)])
    boxes, merged = None, False
    for i, (length, _) in enumerate(parts):
        pair = [n for n, _ in parts[i : i + 2]]
        if length == 4 or pair == [2, 2]:
            boxes, merged = int(starts[i]), length != 4
            break
    if boxes is None:
        return None
    others = [
        (int(starts[i]), int(starts[i + 1])) for i in range(len(parts)) if not boxes <= starts[i] < boxes + 4
    ]
    unit = _in_unit(values)
    scores = [span for span in others if unit[span[0] : span[1]].all()]
    if not scores:
        return None
    extras = tuple(span for span in others if span not in scores)
    single = [span for span in scores if span[1] - span[0] == 1]
    if len(scores) > 1 and single:
        objectness = single[0][0]
        classes = next(span for span in scores if span != single[0])
        return _Layout(boxes, objectness, classes, extras)
    start, stop = scores[0]
    if stop - start > 1 and (merged or _objectness(values[:, start:stop])):
        return _Layout(boxes, start, (start + 1, stop), extras)
    return _Layout(boxes, None, (start, stop), extras)


def _in_unit(values: np.ndarray) -> np.ndarray:
    """Which columns lie in 0..1, bool [columns]."""
    return np.asarray(((values >= 0) & (values <= 1)).all(axis=0))


def _objectness(scores: np.ndarray) -> bool:
    """Whether the first column says whether there is anything, and the others, if so, what."""
    nothing = scores[:, 0] < 0.05
    if scores.shape[1] < 2 or not nothing.any():
        return False
    return bool(np.median(scores[nothing, 1:].max(axis=1)) > 0.1)


def _laid_out(
    name: str, axis: int, layout: _Layout, values: np.ndarray, rows: int, answers: Answers
) -> Detector | None:
    factors = [Columns(0, axis, *layout.classes)]
    if layout.objectness is not None:
        factors.insert(0, Columns(0, axis, layout.objectness, layout.objectness + 1))
    level = Level(
        Columns(0, axis, layout.boxes, layout.boxes + 4),
        tuple(factors),
        extras=tuple(Columns(0, axis, *span) for span in layout.extras),
    )
    grid = grid_of(rows, answers.image)
    across = None if grid is None else across_of(grid, len(values))
    widest = max((columns for _, columns, _ in grid or ()), default=0)
    confidence = values[:, slice(*layout.classes)].max(axis=1)
    if layout.objectness is not None:
        confidence = confidence * values[:, layout.objectness]
    form = form_of(values[:, layout.boxes : layout.boxes + 4], across, widest, strongest(confidence))
    if form is None or (not layout.certain and not _in_pixels(form, values)):
        return None
    levels = on_grid(level, grid) if grid is not None and form is Form.CELLS else (level,)
    return Detector((name,), Detections(Head(levels, form)), layout.reason)


def _in_pixels(form: Form, values: np.ndarray) -> bool:
    return form in (Form.CORNERS, Form.CENTRES) and np.abs(values[:, :4]).max() >= 2

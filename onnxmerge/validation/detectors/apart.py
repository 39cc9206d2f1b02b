"""Detectors with outputs of boxes and outputs of scores, row by row the same, for one stride or several."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxmerge.validation.answers import Answers
from onnxmerge.validation.detectors.forms import (
    FEWEST_ROWS,
    Detector,
    across_of,
    form_of,
    grid_of,
    on_grid,
    strongest,
)
from onnxmerge.validation.kinds import Detections
from onnxmerge.validation.kinds.heads import Activation, Columns, Form, Head, Level
from onnxmerge.validation.scores import Scores

_BOXES = re.compile(r"box|loc|reg|dets")
_SCORES = re.compile(r"score|conf|prob|cls|obj|iou")
_LABELS = re.compile(r"class|label|cls|categor")


@dataclass(frozen=True)
class _Group:
    """Outputs with the same rows, by what they hold."""

    boxes: str
    scores: tuple[str, ...]
    labels: tuple[str, ...]
    extras: tuple[str, ...]

    @property
    def outputs(self) -> tuple[str, ...]:
        return (self.boxes, *self.scores, *self.labels, *self.extras)


def apart(names: Sequence[str], answers: Answers, graph: Scores, asked: Sequence[str]) -> Detector | None:
    """Boxes and scores in outputs of their own, row by row the same."""
    told = (_roles(group, answers, graph, sure=not set(asked).isdisjoint(group))
            for group in _by_rows(names, answers))  # fmt: skip
    groups = [group for group in told if group is not None]
    if not groups:
        return None
    final = any(
        len(answers.lengths(group.boxes, -2)) > 1
        or group.labels
        or any(map(graph.suppresses, (group.boxes, *group.scores)))
        for group in groups
    )
    boxes = [_values(group.boxes, answers) for group in groups]
    if sum(map(len, boxes)) < FEWEST_ROWS * answers.samples and not final and not asked:
        return None
    outputs = tuple(name for group in groups for name in group.outputs)
    levels = [_level(group, outputs, answers) for group in groups]
    grids = [grid_of(answers.of_output(group.boxes)[0].shape[-2], answers.image) for group in groups]
    there = [grid for grid in grids if grid is not None]
    on_cells = not final and len(there) == len(groups)
    across = [across_of(grid, len(rows)) for grid, rows in zip(there, boxes, strict=False)]
    form = form_of(
        np.concatenate([rows[:, :4] for rows in boxes]),
        np.concatenate(across) if on_cells else None,
        max((columns for grid in there for _, columns, _ in grid), default=0),
        strongest(np.concatenate([_strength(group.scores, answers) for group in groups])),
    )
    if form is Form.CELLS:
        levels = [part for level, grid in zip(levels, there, strict=True) for part in on_grid(level, grid)]
    geometric = any(len(group.scores) > 1 for group in groups)
    head = Head(tuple(levels), form or Form.UNKNOWN, final=final, geometric=geometric)
    scores = ", ".join(f"'{name}'" for group in groups for name in group.scores)
    reason = f"'{groups[0].boxes}' holds boxes, and as many rows of scores are in {scores}"
    return Detector(outputs, Detections(_with_activation(head, outputs, answers)), reason)


def _level(group: _Group, outputs: Sequence[str], answers: Answers) -> Level:
    def columns(name: str, start: int = 0, stop: int | None = None) -> Columns:
        batch = answers.of_output(name)[0].ndim > _rank(name, answers)
        return Columns(outputs.index(name), -1, start, stop, batch)

    points = answers.of_output(group.boxes)[0].shape[-1] > 4
    return Level(
        columns(group.boxes, 0, 4),
        tuple(columns(name) for name in group.scores),
        tuple(columns(name) for name in group.labels),
        (*([columns(group.boxes, 4)] if points else []), *(columns(name) for name in group.extras)),
    )


def _values(name: str, answers: Answers) -> np.ndarray:
    """All rows of an output, [rows, columns]."""
    width = answers.of_output(name)[0].shape[-1] if _rank(name, answers) == 2 else 1
    return np.concatenate([v.reshape(-1, width) for v in answers.of_output(name)])


def _strength(scores: Sequence[str], answers: Answers) -> np.ndarray:
    """What orders the rows of a level by their scores; the first column of several may be that of nothing."""
    return np.sum([_values(name, answers)[:, -1] for name in scores], axis=0)


def _rank(name: str, answers: Answers) -> int:
    """The rank of an output without its batch axis: that of one row, and of its columns where it has any."""
    values = answers.of_output(name)[0]
    many = values.ndim == 3 or answers.rows[0] > 1 or len(values) == 1
    return values.ndim - (answers.batched(name) and values.ndim > 1 and many)


def _by_rows(names: Sequence[str], answers: Answers) -> Iterator[list[str]]:
    """Outputs that have the same number of rows in every feed; at least two of them."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for name in names:
        arrays = answers.of_output(name)
        rank = _rank(name, answers)
        axis = arrays[0].ndim - rank
        if rank in (1, 2) and axis < arrays[0].ndim:
            groups.setdefault(tuple(v.shape[axis] for v in arrays), []).append(name)
    yield from (group for group in groups.values() if len(group) > 1)


def _roles(group: Sequence[str], answers: Answers, graph: Scores, *, sure: bool) -> _Group | None:
    """What outputs with the same rows hold; None where they are no detector's."""
    boxes, scores, labels, extras = [], [], [], []
    for name in group:
        values = np.concatenate([v.reshape(-1) for v in answers.of_output(name)])
        first = answers.of_output(name)[0]
        width = first.shape[-1] if _rank(name, answers) == 2 else 1
        whole = first.dtype.kind in "iu" or (
            bool(_LABELS.search(name.lower())) and bool((values == np.round(values)).all())
        )
        if first.dtype.kind == "f" and (width == 4 or _landmarked(name, width)):
            boxes.append(name)
        elif width == 1 and whole:
            labels.append(name)
        elif first.dtype.kind == "f" and _are_scores(values, name, graph):
            scores.append(name)
        elif first.dtype.kind == "f":
            extras.append(name)
    if len(boxes) > 1:
        boxes = [name for name in boxes if _BOXES.search(name.lower())] or boxes[:1]
    if len(boxes) != 1:
        return None
    if not scores and extras and (sure or _BOXES.search(boxes[0].lower())):
        # Raw scores of classes: several columns beside boxes.
        scores = [max(extras, key=lambda n: answers.of_output(n)[0].shape[-1])]
        extras = [name for name in extras if name not in scores]
    if not scores or (labels and len(scores) > 1):
        return None
    return _Group(boxes[0], tuple(scores), tuple(labels), tuple(extras))


def _landmarked(name: str, width: int) -> bool:
    """Whether a box is followed by points."""
    return bool(_BOXES.search(name.lower())) and width % 2 == 0 and 4 < width <= 24


def _are_scores(values: np.ndarray, name: str, graph: Scores) -> bool:
    """Whether numbers are probabilities, by their values and by the operators behind them."""
    if values.size and not ((values >= 0) & (values <= 1)).all():
        return False
    use = graph.use_of(name)
    return use is not None or graph.suppresses(name) or bool(_SCORES.search(name.lower()))


def _with_activation(head: Head, outputs: Sequence[str], answers: Answers) -> Head:
    """What is still to be done to the scores, and which column stands for nothing."""
    if head.final:
        return head
    factors = [part for level in head.levels for part in level.scores]
    widest = max(factors, key=lambda part: answers.of_output(outputs[part.output])[0].shape[-1])
    arrays = [[feed[name] for name in outputs] for feed in answers.feeds]
    values = np.concatenate([(v := widest.read(a)).reshape(-1, v.shape[-1]) for a in arrays])
    probabilities = bool(((values >= 0) & (values <= 1)).all())
    if values.shape[1] == 1:
        return head if probabilities else replace(head, activation=Activation.LOGISTIC)
    summed = probabilities and bool(np.abs(values.sum(axis=1) - 1).max(initial=0.0) < 1e-3)
    highest = np.bincount(values.argmax(axis=1), minlength=values.shape[1]) / max(len(values), 1)
    nothing = int(highest.argmax()) if highest.max() > 0.5 else 0
    if summed:
        return replace(head, background=nothing)
    if not probabilities and nothing == values.shape[1] - 1 and highest.max() > 0.5:
        return replace(head, activation=Activation.SOFTMAX, background=nothing)
    return head if probabilities else replace(head, activation=Activation.LOGISTIC)

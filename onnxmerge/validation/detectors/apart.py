"""Detectors with outputs of boxes and outputs of scores, row by row the same, for one stride or several."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from onnxmerge.validation.answers import Answers
from onnxmerge.validation.detectors.forms import FEWEST_ROWS, Detector, across_of, form_of, grid_of, strongest
from onnxmerge.validation.kinds import Detections
from onnxmerge.validation.kinds.heads import Activation, Columns, Form, Head, Level
from onnxmerge.validation.scores import Scores

_BOXES = re.compile(r"box|loc|reg|dets")
_SCORES = re.compile(r"score|conf|prob|cls|obj|iou")
_LABELS = re.compile(r"class|label|cls|categor")


def apart(names: Sequence[str], answers: Answers, graph: Scores, asked: Sequence[str]) -> Detector | None:
    """Boxes and scores in outputs of their own, row by row the same."""
    by_rows = _by_rows(names, answers)
    levels: list[tuple[list[str], Level]] = []
    outputs: list[str] = []
    final, geometric = False, False
    boxes_of: list[np.ndarray] = []
    across: list[np.ndarray | None] = []
    widest = 0
    strength: list[np.ndarray] = []
    for group in by_rows:
        told = _roles(group, answers, graph, sure=any(name in asked for name in group))
        if told is None:
            continue
        boxes, scores, labels, extras = told
        lengths = answers.lengths(boxes, -2)
        after = len(lengths) > 1 or bool(labels) or any(map(graph.suppresses, (boxes, *scores)))
        final |= after
        geometric |= len(scores) > 1
        members = [boxes, *scores, *labels, *extras]
        place = {name: len(outputs) + i for i, name in enumerate(members)}
        outputs += members
        batch = {name: answers.of_output(name)[0].ndim > _rank(name, answers) for name in members}

        def columns(
            name: str, stop: int | None = None, start: int = 0, place: Mapping[str, int] = place,
            batch: Mapping[str, bool] = batch,
        ) -> Columns:  # fmt: skip
            return Columns(place[name], -1, start, stop, batch[name])

        values = np.concatenate([v.reshape(-1, v.shape[-1]) for v in answers.of_output(boxes)])
        boxes_of.append(values[:, :4])
        grid = grid_of(answers.of_output(boxes)[0].shape[-2], answers.image)
        single = grid is not None and len(grid) == 1
        across.append(np.tile(across_of(grid), len(values) // grid[0][2]) if single and grid else None)
        widest = max(widest, grid[0][1] if single and grid else 0)
        strength.append(_strength(scores, answers))
        rest = (columns(boxes, None, 4),) if values.shape[1] > 4 else ()
        level = Level(
            columns(boxes, 4),
            tuple(columns(name) for name in scores),
            tuple(columns(name) for name in labels),
            (*rest, *(columns(name) for name in extras)),
        )
        levels.append((members, level))
    if not levels or (sum(map(len, boxes_of)) < FEWEST_ROWS * answers.samples and not final and not asked):
        return None
    places = None if final else _joined(across)
    strong = strongest(np.concatenate(strength))
    form = form_of(np.concatenate(boxes_of), places, widest, strong) or Form.UNKNOWN
    if form is Form.CELLS:
        placed = [_on_grid(level, answers.of_output(m[0])[0].shape[-2], answers.image) for m, level in levels]
        if all(level is not None for level in placed):
            levels = [(m, level) for (m, _), level in zip(levels, placed, strict=True) if level is not None]
        else:
            form = Form.UNKNOWN
    head = Head(tuple(level for _, level in levels), form, final=final, geometric=geometric)
    head = _with_activation(head, outputs, answers)
    reason = "some outputs are boxes, and others of as many rows are scores"
    return Detector(tuple(outputs), Detections(head), reason)


def _joined(parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    there = [part for part in parts if part is not None]
    return np.concatenate(there) if len(there) == len(parts) else None


def _strength(scores: Sequence[str], answers: Answers) -> np.ndarray:
    """What orders the rows of a level by their scores."""
    parts = []
    for name in scores:
        arrays = answers.of_output(name)
        width = arrays[0].shape[-1] if _rank(name, answers) == 2 else 1
        # The first column of several may be that of nothing.
        parts.append(np.concatenate([v.reshape(-1, width)[:, -1] for v in arrays]))
    return np.sum(parts, axis=0)


def _on_grid(level: Level, rows: int, image: tuple[int, int] | None) -> Level | None:
    grid = grid_of(rows, image)
    if grid is None or len(grid) != 1:
        return None
    return replace(level, stride=grid[0][0], across=grid[0][1])


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


def _roles(
    group: Sequence[str], answers: Answers, graph: Scores, *, sure: bool
) -> tuple[str, list[str], list[str], list[str]] | None:
    """Of outputs with the same rows: the boxes, the scores, the labels and the rest."""
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
    return boxes[0], scores, labels, extras


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

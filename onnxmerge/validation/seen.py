"""What an output means, where the graph does not tell: what the original's own answers show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx

from onnxmerge.data.dataset import Dataset
from onnxmerge.errors import UsageError
from onnxmerge.runtime import Session
from onnxmerge.validation.answers import Answers
from onnxmerge.validation.detectors import detectors
from onnxmerge.validation.judgement import Judgement, words_of
from onnxmerge.validation.kinds import Classes, Integers, Kind, Masks, Sequences, Values
from onnxmerge.validation.kinds.protocol import add_to_one
from onnxmerge.validation.scores import Scores

# With so many samples, an answer that is nearly always the same is none.
FEWEST, CONSTANT = 16, 0.9
# So many columns are points where each is this much like the next but one (correlation): 0.8 to 0.9 in nets
# for landmarks, 0.1 to 0.4 in those for classes.
FEWEST_POINTS, ALIKE = 20, 0.6
# A class that is highest at so many positions of a sequence is the blank of a CTC, where it is the first or
# the last one.
BLANK = 0.3
# Fewer whole numbers in a row are as likely an answer each.
STEPS = 8
# Of neighbouring pixels, how many have the same class where channels are scores of classes.
COHERENT = 0.8
# Fewer or more channels of a map are as likely colours, distances or features.
CHANNELS = range(5, 257)


def seen(
    judgements: Mapping[str, Judgement], model: onnx.ModelProto, session: Session, data: Dataset
) -> dict[str, Judgement]:
    """The judgements that the graph gives, put right by how the original answers to some samples.

    Boxes and scores become ``detections``; sequences are read as a CTC where one class is the blank; an only
    output with many columns that look like points, or of which one is nearly always the highest, becomes
    ``values``; a map of channels that compete, and nothing marks, becomes ``masks``. Rows that are shares of
    one become ``classes``, and whole numbers with many zeros in a row are what a CTC reads.

    Raises:
        UsageError: outputs that are said to be detections cannot be read so.
        ModelError: the model does not run.
    """
    if all(_settled(judged) for judged in judgements.values()):
        return dict(judgements)
    answers = Answers.of(session, data, list(judgements))
    graph = Scores(model)
    found = dict(judgements)
    asked = [name for name, judged in judgements.items() if judged.asked == "detections"]
    free = {name for name, judged in judgements.items() if judged.asked in (None, "detections")}
    for one in detectors(answers, graph, asked):
        if free.issuperset(one.outputs):
            for name in one.outputs:
                reason = "as asked" if name in asked else one.reason
                words = words_of(one.how, reason, None if name in asked else name)
                found[name] = Judgement(one.how, words, one.outputs, found[name].asked)
    for name in asked:
        if not found[name].outputs:
            raise UsageError(
                f"the output {name!r} cannot be read as detections: that takes boxes and scores, in one "
                "output ([N, 4 + classes, boxes], [N, boxes, 5 + classes] or alike) or in several of as many "
                "rows; give output_kinds= another kind"
            )
    for name, judged in found.items():
        if not judged.outputs and name in answers.names and judged.asked in (None, "sequences", "masks"):
            found[name] = _refined(name, judged, answers, graph, alone=len(judgements) == 1)
    return found


def _settled(judged: Judgement) -> bool:
    """Whether values could tell nothing more."""
    if judged.asked is not None:
        return judged.asked not in ("detections", "sequences", "masks")
    return judged.marked and judged.kind in ("classes", "embeddings")


def _refined(name: str, judged: Judgement, answers: Answers, graph: Scores, *, alone: bool) -> Judgement:
    arrays = answers.of_output(name)
    first, kind = arrays[0], judged.how
    if first.dtype.kind in "iu" and isinstance(kind, Integers) and judged.asked is None:
        return _read(name, judged, arrays)
    if first.dtype.kind != "f":
        return judged
    if isinstance(kind, Sequences) and first.ndim == 3:
        return _ctc(name, judged, arrays) if answers.fed_numbers else judged
    if isinstance(kind, Masks) and first.shape[kind.axis] == 1 and kind.threshold is None:
        unit = all(((v >= 0) & (v <= 1)).all() for v in arrays)
        return _changed(
            judged, replace(kind, threshold=0.5 if unit else 0.0), "one score for every pixel", name
        )
    if judged.asked is not None or judged.marked or not alone:
        return judged
    if isinstance(kind, Classes) and first.ndim == 2:
        return _constant(name, judged, answers)
    if first.ndim == 4 and answers.image is not None and graph.ends_in_convolution(name):
        return _map(name, judged, answers)
    if first.ndim == 2 and first.shape[-1] >= 2 and isinstance(kind, Values) and _shares(arrays):
        return _changed(
            judged, Classes(-1), "its rows are shares of one: a softmax that was written out", name
        )
    if first.ndim == 3 and first.shape[-1] >= 10:
        return _ctc(name, judged, arrays)
    return judged


def _changed(judged: Judgement, kind: Kind, reason: str, name: str, instead: str = "values") -> Judgement:
    words = words_of(kind, "as asked") if judged.asked else words_of(kind, reason, name, instead)
    return replace(judged, how=kind, words=words)


def _ctc(name: str, judged: Judgement, arrays: list[np.ndarray]) -> Judgement:
    """Scores along a sequence: those of a CTC where one class is the blank."""
    blank = _blank(arrays)
    if blank is None:
        return judged
    reason = f"class {blank} is the highest at most positions of its sequences"
    return _changed(judged, Sequences(True, blank), reason, name)


def _blank(arrays: list[np.ndarray]) -> int | None:
    """The class of a sequence that stands for nothing, if one does; steps that repeat it are many."""
    highest = np.concatenate([v.argmax(-1).reshape(-1) for v in arrays])
    last = arrays[0].shape[-1] - 1
    for place in (0, last):
        if highest.size and last >= 2 and (highest == place).mean() >= BLANK:
            return place
    return None


def _read(name: str, judged: Judgement, arrays: list[np.ndarray]) -> Judgement:
    """Whole numbers: classes of a CTC where 0, the blank, stands between others."""
    many = all(v.ndim == 2 and v.shape[1] >= STEPS and v.min(initial=0) >= 0 for v in arrays)
    blanks = float(np.mean([(v == 0).mean() for v in arrays])) if many else 0.0
    if not many or not BLANK <= blanks < 1 or max(int(v.max()) for v in arrays) < 2:
        return judged
    reason = f"whole numbers of which {blanks:.0%} are 0: classes with a blank between them"
    return _changed(judged, Sequences(True, 0, chosen=True), reason, name, "integers")


def _shares(arrays: list[np.ndarray]) -> bool:
    """Whether rows are not negative and add up to one, each time."""
    return all(add_to_one(v) for v in arrays)


def _alternates(values: np.ndarray) -> bool:
    """Whether the columns are points x, y, x, y, ...: each like the next but one, from [samples, columns]."""
    if values.shape[1] < FEWEST_POINTS or values.shape[1] % 2 or not len(values):
        return False
    here, there = (v - v.mean(axis=1, keepdims=True) for v in (values[:, :-2], values[:, 2:]))
    size = np.sqrt((here**2).sum(axis=1) * (there**2).sum(axis=1))
    return bool(np.median((here * there).sum(axis=1) / np.maximum(size, 1e-12)) > ALIKE)


def _constant(name: str, judged: Judgement, answers: Answers) -> Judgement:
    """An only output whose columns nothing marks: coordinates, or one is nearly always the highest."""
    values = np.concatenate(answers.of_output(name)).astype(np.float64)
    if _alternates(values):
        reason = "nothing marks it as scores of classes, and its columns are like coordinates of points"
        return _changed(judged, Values(), reason, name, "classes")
    highest = values.argmax(-1)
    share = float(np.bincount(highest).max(initial=0) / max(len(highest), 1))
    if len(highest) < FEWEST or share < CONSTANT or answers.made_up:
        return judged
    reason = (
        f"nothing marks it as scores of classes, and one of its columns is the highest in {share:.0%} of "
        f"{len(highest)} samples"
    )
    return _changed(judged, Values(), reason, name, "classes")


def _map(name: str, judged: Judgement, answers: Answers) -> Judgement:
    """Channels of a map that compete: neighbours agree, and not always the same is the highest."""
    arrays = answers.of_output(name)
    shape = arrays[0].shape
    axis = 3 if shape[3] < shape[1] else 1
    sides = [shape[i] for i in range(1, 4) if i != axis]
    if shape[axis] not in CHANNELS or min(sides) < 8:
        return judged
    highest = np.concatenate([v.argmax(axis).reshape(-1, *sides) for v in arrays if v.shape[1:] == shape[1:]])
    agree = min((highest[:, 1:] == highest[:, :-1]).mean(), (highest[:, :, 1:] == highest[:, :, :-1]).mean())
    signs = min(float(v.min()) for v in arrays) < 0 < max(float(v.max()) for v in arrays)
    if agree < COHERENT or not signs or not highest.std() > 0:
        return judged
    reason = (
        f"it ends in a convolution to a map of {shape[axis]} channels, of which mostly the same is the "
        "highest in neighbours"
    )
    return _changed(judged, Masks(axis), reason, name)

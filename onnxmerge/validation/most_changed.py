"""Which samples' answers changed most, and what they were and became: for a person to look at."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from onnxmerge.data.conventions import Convention, stretched
from onnxmerge.data.dataset import Dataset
from onnxmerge.data.image_inputs import ImageInput
from onnxmerge.runtime import Session
from onnxmerge.runtime.session import Feed
from onnxmerge.validation.judgement import Judgement
from onnxmerge.validation.kinds import Classes, Kind, Masks, Sequences
from onnxmerge.validation.kinds.protocol import Spread
from onnxmerge.validation.parity import OutputParity, Parity

# Pixels of the longer side of a picture: enough to recognise what is on it, about 10 kB.
_SIDE = 96


@dataclass(frozen=True)
class ChangedSample:
    """One of the samples whose answers changed most.

    Attributes:
        number: its place among the samples that the change was measured on, from 0.
        change: of its own answers, in the measure of the output.
        output: the output that changes most over all samples.
        before, after: in words: of classes the first answer that differs, else the element that differs most.
        picture: of inputs that are images, a PNG; None of others. JSON does not hold it.
        stretched: whether the picture's contrast is made up, for nobody said which numbers pixels become.
    """

    number: int
    change: float
    output: str
    before: str
    after: str
    picture: bytes | None
    stretched: bool


@dataclass(frozen=True)
class ImageFacts:
    """The input that takes images, and the conventions that its numbers may follow."""

    target: ImageInput
    conventions: tuple[Convention, ...]


def most_changed(
    parity: Parity,
    sessions: tuple[Session, Session],
    data: Dataset,
    kinds: Mapping[str, Judgement],
    images: ImageFacts | None,
    most: int,
) -> tuple[ChangedSample, ...]:
    """At most so many of the samples that ``parity`` was measured on, those that changed most first.

    There are none where the output that changes most does not tell samples apart, and of models whose weights
    lie in files, which never run at the same time.

    Args:
        sessions: the input's and the output's.
        kinds: how each output is judged.
        images: None where no input takes images.
    """
    worst = parity.worst
    part = next((p for p in data.parts() if p.conventions == (parity.convention,)), data)
    if not most or worst is None or len(worst.sums) != len(part) or any(s.mapped for s in sessions):
        return ()
    changes = _per_sample(worst)
    found = []
    for number in np.argsort(-changes, kind="stable")[:most].tolist():
        if changes[number] > 0:
            feed, row = _feed_of(part, number)
            answers = [_of_sample(s.run(feed, [worst.name])[worst.name], row) for s in sessions]
            before, after = _words(answers[0], answers[1], kinds[worst.name].how)
            picture, made_up = _picture(feed, row or 0, images, part.conventions)
            change = float(changes[number])
            found.append(ChangedSample(number, change, worst.name, before, after, picture, made_up))
    return tuple(found)


def _per_sample(output: OutputParity) -> np.ndarray:
    """The change of every sample by itself, float64 [samples]; infinite where nothing was there before."""
    differ, total = output.sums.T
    with np.errstate(divide="ignore", invalid="ignore"):
        changes = np.where(differ > 0, differ / total, 0.0)
    relative = output.found.worst.spread is Spread.RELATIVE
    return np.sqrt(changes) if relative else changes


def _feed_of(data: Dataset, number: int) -> tuple[Feed, int | None]:
    """A feed that holds a sample, and the sample's row in it; None where the feed is the sample."""
    if data.ready is not None:
        return data.ready[number], None
    unit = data.batch or 1
    start = number // unit * unit
    return next(data.rows(np.arange(start, start + unit)).feeds()), number - start


def _of_sample(values: Any, row: int | None) -> np.ndarray | None:
    """The answers of one sample, its own axis kept, so that axes are where they were."""
    if not isinstance(values, np.ndarray):
        return None
    return values if row is None or not values.ndim else values[row : row + 1]


def _words(before: np.ndarray | None, after: np.ndarray | None, how: Kind) -> tuple[str, str]:
    """Where two answers differ most, or first, and what stands there."""
    if before is None or after is None:
        return "no array", "no array"
    if before.shape != after.shape:
        return f"shape {list(before.shape)}", f"shape {list(after.shape)}"
    axis = _axis_of_scores(how)
    if axis is not None:
        first, second = (np.asarray(scores.argmax(axis)) for scores in (before, after))
        place = _place(first != second)
        where = f" at {list(place)}" if first.size > 1 else ""
        best = (scores.max(axis)[place] for scores in (before, after))
        found = zip((first[place], second[place]), best, strict=True)
        left, right = (f"class {answer}{where}, score {score:.4g}" for answer, score in found)
        return left, right
    if before.dtype.kind != "f":
        place = _place(before != after)
        return f"{before[place]} at {list(place)}", f"{after[place]} at {list(place)}"
    with np.errstate(invalid="ignore"):
        apart = np.abs(after.astype(np.float64) - before)
    place = _place(np.nan_to_num(apart, nan=np.inf))
    return f"{before[place]:.4g} at {list(place)}", f"{after[place]:.4g} at {list(place)}"


def _axis_of_scores(how: Kind) -> int | None:
    """The axis along which scores of classes compete; None where none do."""
    if isinstance(how, Sequences):
        return -1
    return how.axis if isinstance(how, Classes | Masks) and how.of_classes else None


def _place(values: np.ndarray) -> tuple[int, ...]:
    """Where the largest value stands, the first of them."""
    return tuple(int(i) for i in np.unravel_index(int(values.argmax()), values.shape))


def _picture(
    feed: Feed, row: int, images: ImageFacts | None, of_data: tuple[str, ...]
) -> tuple[bytes | None, bool]:
    """A small PNG of a sample's image, and whether its contrast is made up."""
    if images is None:
        return None, False
    target = images.target
    values = np.asarray(feed[target.name])[row]
    if target.layout == "nchw":
        values = values.transpose(1, 2, 0)
    convention = _known(images.conventions, of_data)
    whole = values.dtype == np.uint8
    pixels = values if whole else convention.undo(values) if convention is not None else stretched(values)
    image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if target.channels == 1 else pixels))
    image.thumbnail((_SIDE, _SIDE))
    written = io.BytesIO()
    image.save(written, "png", optimize=True)
    return written.getvalue(), not whole and convention is None


def _known(conventions: tuple[Convention, ...], of_data: tuple[str, ...]) -> Convention | None:
    """What the numbers of these data follow, where that is known."""
    if len(of_data) == 1:
        return next((c for c in conventions if str(c) == of_data[0]), None)
    return conventions[0] if len(conventions) == 1 else None

"""What a run did, as plain frozen values; the JSON is derived from them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from onnxmerge.channels.explain import FrozenEntry, GroupEntry
from onnxmerge.graph.output import atomic_write
from onnxmerge.method import Method
from onnxmerge.report.headline import Headline
from onnxmerge.study import RecoveryFacts, TriedShape
from onnxmerge.validation import ChangedSample, Latency
from onnxmerge.version import __version__

SCHEMA_VERSION = 1


def is_page(path: str | Path) -> bool:
    """Whether a report of this name is written as a page, and not as JSON."""
    return Path(path).suffix.lower() in (".html", ".htm")


class Document:
    """Frozen values that are written as JSON or as a page; ``document["key"]`` reads the JSON's top level."""

    @cached_property
    def content(self) -> dict[str, Any]:
        """Plain data, in the order and with the names of the attributes; pictures are left out."""
        return _plain(asdict(self, dict_factory=_without_pictures))  # type: ignore[call-overload]

    def __getitem__(self, key: str) -> Any:
        return self.content[key]

    def to_json(self) -> str:
        """JSON text; figures that are not finite are null."""
        return json.dumps(_finite(self.content), indent=2)

    def to_html(self) -> str:
        """A page of its own: one file without scripts, which loads nothing."""
        from onnxmerge.report.html import page

        return page(self)

    def save(self, path: str | Path) -> None:
        """Write a page where the name ends in ``.html`` or ``.htm``, else JSON; atomically.

        Raises:
            OutputError: the file cannot be written.
        """
        path = Path(path)
        text = self.to_html() if is_page(path) else self.to_json() + "\n"
        with atomic_write(path) as part:
            part.write_text(text, encoding="utf-8")

    def _repr_html_(self) -> str:
        """What a notebook shows: the headline and a table."""
        from onnxmerge.report.html import summary

        return summary(self)


@dataclass(frozen=True)
class Asked:
    """The budget: its ``kind`` (``tolerance`` or ``max_drop`` where none was given, ``plan``), its value."""

    kind: str
    value: float | None


@dataclass(frozen=True)
class Reached:
    """What is left, as shares of the input: MACs, parameters, time; and the change of the answers."""

    macs: float
    params: float
    latency: float
    change: float


@dataclass(frozen=True)
class ModelFacts:
    """A model in figures.

    Attributes:
        params: elements of all floating-point and quantised constants.
        macs: multiplications of linear and recurrent layers at batch 1.
        bytes: size on disk, external data included.
        nodes: operators of the main graph, those that merely hold a constant left out.
        name: of the file; None where there is none yet.
    """

    params: int
    macs: int
    bytes: int
    sha256: str
    nodes: int
    name: str | None = None


@dataclass(frozen=True)
class ConventionParity:
    """The change under one plausible input convention."""

    convention: str
    change: float
    change_upper_90: float
    top1_agreement: float | None
    relative_error: float


@dataclass(frozen=True)
class MeasureFacts:
    """One figure of how an output changes; ``counts`` where the change is the largest of those."""

    name: str
    value: float
    upper_90: float
    counts: bool


@dataclass(frozen=True)
class OutputChange:
    """The change of one output.

    Attributes:
        judged: how it was measured and why, in words.
        said: what was found, in words.
        measures: the figures behind it; of outputs that are read together those of all.
    """

    name: str
    kind: str
    change: float
    relative_error: float | None
    max_abs_error: float | None
    agreement: float | None
    judged: str
    said: str
    measures: tuple[MeasureFacts, ...]


@dataclass(frozen=True)
class ParityFacts:
    """How the answers change.

    Attributes:
        change: that of the output that changes most.
        change_upper_90: its upper 90% confidence bound.
        basis: what it was measured on, see ``data.holdout.Holdout``.
        stand_in: whether that is anything but data of the model's own kind.
        conventions: the figures under each input convention, where several are plausible.
    """

    relative_error: float
    max_abs_error: float
    top1_agreement: float | None
    change: float
    change_upper_90: float
    samples: int
    source: str
    basis: str
    stand_in: bool
    convention: str | None
    conventions: tuple[ConventionParity, ...]
    outputs: tuple[OutputChange, ...]


@dataclass(frozen=True)
class LatencyFacts(Latency):
    """Measured latency, and under a latency budget the share of the time that the table predicts."""

    predicted_ratio: float | None = None


@dataclass(frozen=True)
class ScoreFacts:
    """The user's own score, on data that onnxmerge does not see.

    Attributes:
        name: of the measure.
        before: of the input, the mean of two evaluations; ``spread`` is how far they are apart.
        drop: how much worse it is after; negative where it is better.
        looked_at: how many candidates it was asked for.
        chose: whether the search chose among them by it: the best of several flatters.
        seconds: what all evaluations took.
    """

    name: str
    lower_is_better: bool
    before: float
    after: float
    drop: float
    spread: float
    looked_at: int
    chose: bool
    seconds: float


@dataclass(frozen=True)
class StepFacts:
    """A step on the way to what is written; ``change`` and ``latency`` (a share) are against the input."""

    bytes: int
    change: float
    change_upper_90: float
    latency: float
    score: float | None


@dataclass(frozen=True)
class PrecisionFacts:
    """The smaller model in fewer bits.

    Attributes:
        precision: ``int8`` or ``fp16``.
        why: the choices in words, where there are any.
        samples: that the ranges of activations were seen on; none of them judges.
        before: the smaller model in the input's own precision.
        after: what is written.
    """

    precision: str
    why: str
    samples: int
    before: StepFacts
    after: StepFacts


@dataclass(frozen=True)
class SearchFacts:
    """What a search without a budget found, on the samples that chose it."""

    macs: float
    change: float
    change_upper_90: float
    source: str
    samples: int


@dataclass(frozen=True)
class GroupWidths:
    """The channels of one group, before and after.

    Attributes:
        nodes: that its channels pass through, in order.
        macs_alone, params_alone: share (0..1) of the input's multiplications and parameters that goes where
            this group alone is made as narrow. Layers between two groups are in the shares of both, so that
            the shares of all groups add up to more than goes in fact.
    """

    name: str
    before: int
    after: int
    nodes: tuple[str, ...]
    macs_alone: float
    params_alone: float


@dataclass(frozen=True)
class ConventionFacts:
    """An input convention that photographs were fed under, and how probable it is."""

    name: str
    probability: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float
    order: str
    per_image: bool


@dataclass(frozen=True)
class CalibrationFacts:
    """What was fitted to; ``kind`` is ``given``, ``generic`` or ``made up``."""

    source: str
    samples: int
    kind: str
    conventions: tuple[ConventionFacts, ...]


@dataclass(frozen=True)
class Report(Document):
    """The report of ``optimize``.

    Attributes:
        unchanged: whether the input model is the output.
        score: by the user's own measure; None where there is none.
        precision: the smaller model before and after it got fewer bits; None where it did not.
        search: None where a budget or a plan was given.
        most_changed: the samples whose answers changed most, of those that ``parity`` was measured on; at
            most ``config.examples``.
        emptied: what left altogether, in a line; None where every group kept a channel.
        shapes: how several ways to meet the budget did on the samples that chose among them, the one that was
            taken first; empty where there was one.
        reach: share (0..1) of the multiplications that goes when every group keeps one channel.
        recovery: what came of teaching by the original; None where that was not asked for.
        config: all options, and the paths of the data: what ``--config`` takes to do the same again.
        seconds: by stage.
        version: of onnxmerge.
        command: the command line; None of a run in Python.
    """

    headline: Headline
    asked: Asked
    reached: Reached
    schema_version: int
    input: ModelFacts
    output: ModelFacts
    unchanged: bool
    parity: ParityFacts
    score: ScoreFacts | None
    most_changed: tuple[ChangedSample, ...]
    latency: LatencyFacts
    precision: PrecisionFacts | None
    search: SearchFacts | None
    groups: tuple[GroupWidths, ...]
    emptied: str | None
    shapes: tuple[TriedShape, ...]
    frozen: tuple[FrozenEntry, ...]
    reach: float
    calibration: CalibrationFacts
    method: Method
    recovery: RecoveryFacts | None
    config: Mapping[str, Any]
    warnings: tuple[str, ...]
    seconds: Mapping[str, float]
    version: str = __version__
    command: str | None = None


@dataclass(frozen=True)
class Inspection(Document):
    """The report of ``inspect``: which channels could be removed, and what stays and why."""

    schema_version: int
    input: ModelFacts
    reach: float
    groups: tuple[GroupEntry, ...]
    frozen: tuple[FrozenEntry, ...]
    inputs: str
    warnings: tuple[str, ...]
    seconds: Mapping[str, float]
    version: str = __version__
    command: str | None = None


@dataclass(frozen=True)
class Point:
    """One budget of a sweep: shares of MACs, parameters and time kept, and the change there.

    Attributes:
        recovered_change: the change after teaching; None where that was not asked for.
        score, recovered_score: by the user's own measure, if there is one.
    """

    macs: float
    params: float
    change: float
    change_upper_90: float
    top1_agreement: float | None
    relative_error: float
    latency: float
    recovered_change: float | None = None
    score: float | None = None
    recovered_score: float | None = None


@dataclass(frozen=True)
class Sweep(Document):
    """The report of ``sweep``: the trade-off curve.

    Attributes:
        measure: the name of the user's own measure, and ``score`` that of the input; None: there is none.
        judged: how the changes were measured.
    """

    schema_version: int
    input: ModelFacts
    points: tuple[Point, ...]
    measure: str | None
    score: float | None
    judged: str
    source: str
    stand_in: bool
    config: Mapping[str, Any]
    warnings: tuple[str, ...]
    seconds: Mapping[str, float]
    version: str = __version__
    command: str | None = None


def _without_pictures(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The fields of one value; of a file of text nobody wants a picture in."""
    return {name: value for name, value in pairs if name != "picture"}


def _plain(value: Any) -> Any:
    """Mappings as dicts, sequences as lists."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value

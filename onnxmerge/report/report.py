"""What a run did, as plain frozen values; the JSON is derived from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onnxmerge.channels.explain import FrozenEntry, GroupEntry
from onnxmerge.method import Method
from onnxmerge.outcomes import RecoveryFacts, TriedShape
from onnxmerge.report.document import Document
from onnxmerge.report.facts import (
    Asked,
    CalibrationFacts,
    GroupWidths,
    LatencyFacts,
    ModelFacts,
    ParityFacts,
    PrecisionFacts,
    Reached,
    ScoreFacts,
    SearchFacts,
)
from onnxmerge.report.headline import Headline
from onnxmerge.validation import ChangedSample
from onnxmerge.version import __version__


@dataclass(frozen=True, repr=False)
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

    @property
    def sentences(self) -> tuple[str, ...]:
        return self.headline.sentences


@dataclass(frozen=True, repr=False)
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

    @property
    def sentences(self) -> tuple[str, ...]:
        return (
            f"{len(self.groups)} groups of channels",
            f"reach: {self.reach:.1%} of the MACs go with one channel in every group",
        )


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


@dataclass(frozen=True, repr=False)
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

    @property
    def sentences(self) -> tuple[str, ...]:
        points = (f"{point.macs:.1%} of the MACs: change {point.change:.2%}" for point in self.points)
        return (f"measured on {self.source}; {self.judged}", *points)

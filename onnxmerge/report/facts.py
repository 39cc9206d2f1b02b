"""What a run found, as plain frozen values: the parts that reports are made of."""

from __future__ import annotations

from dataclasses import dataclass

from onnxmerge.validation import Latency


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
        repeated: how many of these samples have the values of others that were fitted.
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
    repeated: int
    stand_in: bool
    convention: str | None
    conventions: tuple[ConventionParity, ...]
    outputs: tuple[OutputChange, ...]


@dataclass(frozen=True)
class LatencyFacts(Latency):
    """Measured latency.

    Attributes:
        predicted_ratio: under a latency budget, the share of the time that the table predicts.
        all_channels_ratio: what all channels take, where storing them better saves time; else None.
    """

    predicted_ratio: float | None = None
    all_channels_ratio: float | None = None


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

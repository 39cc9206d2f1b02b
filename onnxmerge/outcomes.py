"""What the stages after the analysis make: candidates, choices, decisions, and what was proven of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx

from onnxmerge.data.holdout import Holdout
from onnxmerge.graph.external_weights import Scratch
from onnxmerge.plan import Selection
from onnxmerge.rewrite import Change
from onnxmerge.validation import ChangedSample, Latency, Parity


@dataclass(frozen=True, eq=False)
class Candidate:
    """A smaller model and the decisions that made it.

    Attributes:
        scratch: holds the weights of a large model.
        notes: what a user should know of how it was compensated.
    """

    selection: Selection
    folds: tuple[Change, ...]
    model: onnx.ModelProto
    scratch: Scratch | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Verdict:
    """What a search holds against a candidate.

    Attributes:
        change: what is held within the tolerance: the change of the answers, or the drop of the own score.
        parity: on the samples that choose.
    """

    change: float
    parity: Parity


@dataclass(frozen=True)
class TriedShape:
    """A candidate that was made to choose the shape of the result, measured on the samples that chose.

    Attributes:
        shape: how it divides the budget between groups.
        gone: the number of groups without a channel.
        change: of the answers, as in the report.
        distance: the same in a measure that tells more candidates apart, see ``Parity.distance``.
    """

    shape: str
    gone: int
    change: float
    distance: float

    @staticmethod
    def of(shape: str, selection: Selection, parity: Parity) -> TriedShape:
        return TriedShape(shape, len(selection.emptied), parity.change, parity.distance)


@dataclass(frozen=True, eq=False)
class Sought:
    """The result of a search: the share of MACs kept, and what chose it.

    Attributes:
        shapes: the shapes that were tried, the best first; empty where there was no choice.
    """

    share: float
    candidate: Candidate
    verdict: Verdict
    shapes: tuple[TriedShape, ...] = ()


@dataclass(frozen=True)
class Shortfall:
    """Widths that keep less than was asked for.

    Attributes:
        kind: ``macs`` or ``params``.
        asked, kept: shares of the model.
        group: the one whose next wider step costs the least; None: what did not leave altogether is whole.
        wider: the share that is kept with it.
    """

    kind: str
    asked: float
    kept: float
    group: str | None
    wider: float


@dataclass(frozen=True)
class RecoveryFacts:
    """What came of teaching a candidate by the original.

    Attributes:
        taken: whether the taught weights are in the result: only where held-out inputs say so.
        error_before, error_after: on inputs held out from the steps: the mean squared difference from the
            original's answers in units of their variance.
        steps: updates of the weights, those that found the learning rate included.
        batch: samples in a step.
        learning_rate: relative to the size of each weight tensor.
        stopped: why: ``time``, ``steps``, ``no better``, ``interrupted``, ``too few inputs`` to hold any out.
        taught_on, held_out: numbers of samples.
    """

    taken: bool
    error_before: float
    error_after: float
    steps: int
    batch: int
    seconds: float
    learning_rate: float
    stopped: str
    taught_on: int
    held_out: int


@dataclass(frozen=True, eq=False)
class Choice:
    """What a budget, a search or a plan chose, before it is made.

    Attributes:
        selection: what stays; of widths that a budget chose, which channels stay is chosen again on the way.
        replay: whether that was chosen before, and is to be done again to the last bit.
        fit_on: what the candidate is fitted to: ``all`` of the data; the ``rest`` that is left of it without
            what judges, where the candidate is taught; the ``part`` of the rest that a search keeps to; or
            ``none``, where a plan says that the output is the input.
        sought: the result of the search, where no budget was given.
        shapes: the shapes that were tried, the one that was taken first; empty where there was no choice. The
            figures chose, so they flatter: the result's own change is measured on other samples.
        predicted: under a latency budget the share of the input's time that the table predicts.
        all_channels: under a latency budget the share of the input's time that all channels take.
        planned: whether a plan made it.
        foreign: whether that plan was made for another file of the same structure.
        order: the channels of a group, the best first, int64 [C] by its name, where they were ranked.
    """

    selection: Selection
    holdout: Holdout
    replay: bool = False
    fit_on: str = "all"
    sought: Sought | None = None
    shapes: tuple[TriedShape, ...] = ()
    predicted: float | None = None
    all_channels: float | None = None
    planned: bool = False
    foreign: bool = False
    order: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Decision:
    """What was chosen, made.

    Attributes:
        candidate: what is written.
        tried: what the change is measured with: the same widths, fitted to nothing that judges.
        checked: what has to equal its masked reference: the candidate, before it was taught.
        fit_on: what the candidate is fitted to, see ``Choice``.
        recovery: what came of teaching, where that was asked for.
        shortfall: how far a budget was not used up, and why.
        distrusted: groups that stay whole because their removal did not equal their mask.
        unexplained: whether the candidate differs from its masked reference, and no group is to blame.
        lowered: what it was before its numbers got fewer bits, where they did.
    """

    choice: Choice
    candidate: Candidate
    tried: Candidate
    checked: Candidate
    unchanged: bool
    fit_on: str
    recovery: RecoveryFacts | None = None
    shortfall: Shortfall | None = None
    distrusted: tuple[str, ...] = ()
    unexplained: bool = False
    lowered: Lowered | None = None


@dataclass(frozen=True, eq=False)
class Lowered:
    """What the numbers of a decision were before they got fewer bits, and how that was done.

    Attributes:
        before: the decision in the precision of the input.
        why: the choices in words, where there are any.
        samples: that the ranges of activations were seen on.
    """

    before: Decision
    why: str = ""
    samples: int = 0


@dataclass(frozen=True, eq=False)
class Proof:
    """What the new model was found to be: how it answers, how fast, and where it changed most.

    Attributes:
        score: by the user's own measure; None: there is none.
        most_changed: the samples whose answers changed most.
        before: the same of the model before its numbers got fewer bits, where they did.
        all_channels: the time with all channels, where storing them better saves some: a share of the
            input's. None: it does not, or none went.
    """

    parity: Parity
    latency: Latency
    score: float | None = None
    most_changed: tuple[ChangedSample, ...] = ()
    before: Proof | None = None
    all_channels: float | None = None


@dataclass(frozen=True, eq=False)
class Recovered:
    """How a candidate of a sweep answers after teaching, and its own score."""

    parity: Parity
    score: float | None

"""What passes between the stages of a run: frozen, each made by one stage and only read by later ones."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np
import onnx

from onnxmerge.channels.analysis import Analysis
from onnxmerge.channels.explain import Explanation
from onnxmerge.config import DEFAULT_TOLERANCE, Config
from onnxmerge.data.dataset import Dataset
from onnxmerge.data.generic import Plausible
from onnxmerge.data.holdout import CHOOSING, Holdout, Samples
from onnxmerge.data.image_inputs import ImageInput, image_input
from onnxmerge.errors import InternalError, ModelError
from onnxmerge.graph.external_weights import Scratch
from onnxmerge.graph.files import LoadedModel
from onnxmerge.method import Method
from onnxmerge.plan import Selection
from onnxmerge.progress import Clock
from onnxmerge.rewrite import Fold
from onnxmerge.runtime import Runtime, Session
from onnxmerge.runtime.session import Feed
from onnxmerge.validation import (
    ChangedSample,
    ImageFacts,
    Judgement,
    Latency,
    OwnMeasure,
    Parity,
    compare_latency,
    measure,
    most_changed,
    worst,
)


@dataclass(frozen=True, eq=False)
class Source:
    """The input model, running.

    Attributes:
        session: of the untouched model: the reference for parity and latency.
        kinds: how each output is judged.
        warnings: what a user should know of the model or the device.
    """

    loaded: LoadedModel
    session: Session
    kinds: dict[str, Judgement]
    warnings: tuple[str, ...]

    @property
    def class_scores(self) -> list[str]:
        """The outputs that hold scores of classes."""
        return [name for name, judged in self.kinds.items() if judged.how.of_classes]


@dataclass(frozen=True)
class DataPaths:
    """Where the data of a run are, by the names of the arguments; None where they are not in files."""

    calibration: str | None = None
    evaluation: str | None = None

    @staticmethod
    def of(calibration: object, evaluation: object) -> DataPaths:
        data = (calibration, evaluation)
        return DataPaths(*(str(os.fspath(d)) if isinstance(d, str | os.PathLike) else None for d in data))


@dataclass(frozen=True, eq=False)
class Study:
    """A model, its data and its channels, before anything is decided.

    Attributes:
        plausible: of images whose numbers nobody stated, the conventions that the model may follow.
        paths: of the data that were given as files or folders; None for what was not.
        analysis: the channels; its groups are those that the user wants touched.
        explanation: of all groups, and of what is frozen.
        own: the user's own measure, if there is one.
    """

    source: Source
    samples: Samples
    plausible: Plausible | None
    analysis: Analysis
    explanation: Explanation
    method: Method
    config: Config
    runtime: Runtime
    clock: Clock
    paths: DataPaths = DataPaths()
    own: OwnMeasure | None = None
    _scores: WeakKeyDictionary[Candidate, float] = field(default_factory=WeakKeyDictionary)

    @property
    def options(self) -> dict[str, object]:
        """All options as plain data, and where the data are: enough to do the same again."""
        return self.config.as_dict() | asdict(self.paths)

    @property
    def tolerance(self) -> float:
        """What a run without a budget looks for: the largest change of the answers, or drop of the score."""
        if self.searches_by_score and self.config.max_drop is not None:
            return self.config.max_drop
        return DEFAULT_TOLERANCE if self.config.tolerance is None else self.config.tolerance

    @property
    def searches_by_score(self) -> bool:
        """Whether a run without a budget holds the user's own score."""
        return self.own is not None and self.config.max_drop is not None and self.config.budget is None

    def holdout(self) -> Holdout:
        """What the change is measured on."""
        return Holdout.of(self.samples, self.config.seed, fits=self._learns)

    def holdout_of_sweep(self) -> Holdout:
        """The same with more to measure on: the points of a curve are compared with one another."""
        return Holdout.of(self.samples, self.config.seed, fits=self._learns, share=CHOOSING)

    @property
    def judged_apart(self) -> bool:
        """Whether samples that nothing is fitted to were there from the beginning."""
        return self.samples.evaluation is not None

    @property
    def _learns(self) -> bool:
        """Whether anything is fitted to the values of the data, or learned from them."""
        return self.method.fits_data or self.config.recovery is not None

    def without(self, names: Collection[str]) -> Study:
        """The same with fewer groups to choose from."""
        channels = self.analysis.channels
        rest = tuple(group for group in channels.groups if group.name not in names)
        return replace(self, analysis=self.analysis.with_channels(replace(channels, groups=rest)))

    def colour_images(self) -> dict[str, str]:
        """The layout, ``nchw`` or ``nhwc``, of the input that takes colour images, by its name."""
        found = self._image_input
        return {} if found is None or found.channels != 3 else {found.name: found.layout}

    @cached_property
    def _image_input(self) -> ImageInput | None:
        return image_input(self.source.loaded.proto, self.source.session.inputs)

    @cached_property
    def feed(self) -> Feed:
        """One sample: what models are traced, timed and checked on."""
        return next(iter(self.samples.fit.feeds(batch=1)))

    def session(self, candidate: Candidate) -> Session:
        """A session of a candidate; one that does not load is a defect of this program."""
        try:
            return self.runtime.session(candidate.model)
        except ModelError as error:
            raise InternalError(f"the smaller model does not load, nothing was written: {error}") from error

    def parity(self, session: Session, data: Dataset) -> Parity:
        """How a model answers beside the input; of several plausible conventions under the worst."""
        with self.clock("parity"):
            return worst(
                [
                    measure(self.source.session, session, part, self.source.kinds, self.clock.step)
                    for part in data.parts()
                ]
            )

    def score(self, candidate: Candidate, session: Session) -> float | None:
        """The user's own score of a candidate, evaluated once; None without a measure."""
        if self.own is None:
            return None
        if candidate not in self._scores:
            self._scores[candidate] = self.own.score(session)
        return self._scores[candidate]

    def most_changed(self, session: Session, data: Dataset, parity: Parity) -> tuple[ChangedSample, ...]:
        """The samples whose answers changed most, of those that ``parity`` was measured on."""
        target, images = self._image_input, None
        if target is not None:
            known = () if self.plausible is None else self.plausible.conventions
            if self.config.images is not None and self.config.images.states_numbers:
                known = (self.config.images.convention(target.channels),)
            images = ImageFacts(target, known)
        sessions = (self.source.session, session)
        return most_changed(parity, sessions, data, self.source.kinds, images, self.config.examples)

    def latency_in_new_sessions(self, candidate: Candidate) -> Latency:
        """Times of the input and of a candidate; one session of either may be slow as long as it lives."""
        before, after = self.runtime.session(self.source.loaded.proto), self.session(candidate)
        return compare_latency(before, after, self.feed, seconds=0.3)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A smaller model and the decisions that made it.

    Attributes:
        scratch: holds the weights of a large model.
    """

    selection: Selection
    folds: tuple[Fold, ...]
    model: onnx.ModelProto
    scratch: Scratch | None = None


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
        group: the one whose next wider step costs the least.
        wider: the share that is kept with it.
    """

    kind: str
    asked: float
    kept: float
    group: str
    wider: float


@dataclass(frozen=True)
class RecoveryFacts:
    """What came of teaching a candidate by the original.

    Attributes:
        taken: whether the taught weights are in the result: only where held-out inputs say so.
        error_before, error_after: on inputs held out from the steps: the mean squared difference from the
            original's answers in units of their variance.
        steps: updates of the weights, those that found the learning rate included.
        learning_rate: relative to the size of each weight tensor.
        stopped: why: ``time``, ``steps``, ``no better``, ``interrupted``, ``too few inputs`` to hold any out.
        taught_on, held_out: numbers of samples.
    """

    taken: bool
    error_before: float
    error_after: float
    steps: int
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
            what judges, where the candidate is taught; or the ``part`` of the rest that a search keeps to.
        sought: the result of the search, where no budget was given.
        shapes: the shapes that were tried, the one that was taken first; empty where there was no choice. The
            figures chose, so they flatter: the result's own change is measured on other samples.
        predicted: under a latency budget the share of the input's time that the table predicts.
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
    """

    parity: Parity
    latency: Latency
    score: float | None = None
    most_changed: tuple[ChangedSample, ...] = ()
    before: Proof | None = None


@dataclass(frozen=True, eq=False)
class Recovered:
    """How a candidate of a sweep answers after teaching, and its own score."""

    parity: Parity
    score: float | None

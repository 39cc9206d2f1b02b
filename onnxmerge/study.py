"""What passes between the stages of a run: frozen, each made by one stage and only read by later ones."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import onnx

from onnxmerge.channels.analysis import Analysis
from onnxmerge.channels.explain import Explanation
from onnxmerge.config import DEFAULT_TOLERANCE, Config
from onnxmerge.data.dataset import Dataset
from onnxmerge.data.generic import Plausible
from onnxmerge.data.holdout import CHOOSING, Holdout, Samples
from onnxmerge.errors import InternalError, ModelError
from onnxmerge.graph.io import LoadedModel
from onnxmerge.graph.weights import Scratch
from onnxmerge.method import Method
from onnxmerge.plan import Selection
from onnxmerge.progress import Clock
from onnxmerge.rewrite import Fold
from onnxmerge.runtime import Runtime, Session
from onnxmerge.validation import Judgement, Latency, Parity, compare_latency, measure, worst


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
        return [name for name, judged in self.kinds.items() if judged.kind == "classes"]


@dataclass(frozen=True, eq=False)
class Study:
    """A model, its data and its channels, before anything is decided.

    Attributes:
        plausible: of images whose numbers nobody stated, the conventions that the model may follow.
        analysis: the channels; its groups are those that the user wants touched.
        explanation: of all groups, and of what is frozen.
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

    @property
    def tolerance(self) -> float:
        """The largest change of the answers that a run without a budget looks for."""
        return DEFAULT_TOLERANCE if self.config.tolerance is None else self.config.tolerance

    def holdout(self) -> Holdout:
        """What the change is measured on."""
        return Holdout.of(self.samples, self.config.seed, fits=self.method.fits_data)

    def holdout_of_sweep(self) -> Holdout:
        """The same with more to measure on: the points of a curve are compared with one another."""
        return Holdout.of(self.samples, self.config.seed, fits=self.method.fits_data, share=CHOOSING)

    def without(self, names: Collection[str]) -> Study:
        """The same with fewer groups to choose from."""
        channels = self.analysis.channels
        rest = tuple(group for group in channels.groups if group.name not in names)
        return replace(self, analysis=self.analysis.with_channels(replace(channels, groups=rest)))

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
                [measure(self.source.session, session, part, self.source.kinds) for part in data.parts()]
            )

    def latency_in_new_sessions(self, candidate: Candidate, data: Dataset) -> Latency:
        """Times of the input and of a candidate; one session of either may be slow as long as it lives."""
        before, after = self.runtime.session(self.source.loaded.proto), self.session(candidate)
        return compare_latency(before, after, next(iter(data.feeds(batch=1))), seconds=0.3)


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
        gone = sum(not len(keep) for keep in selection.keep.values())
        return TriedShape(shape, gone, parity.change, parity.distance)


@dataclass(frozen=True, eq=False)
class Sought:
    """The result of a search: the share of MACs kept, and the change on the samples that chose it.

    Attributes:
        shapes: the shapes that were tried, the best first; empty where there was no choice.
    """

    share: float
    candidate: Candidate
    parity: Parity
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


@dataclass(frozen=True, eq=False)
class Decision:
    """What goes, and the model without it.

    Attributes:
        candidate: what is written.
        tried: what the change is measured with: the same widths, fitted to the holdout's part of the data.
        sought: the result of the search, where no budget was given.
        distrusted: groups that stay whole because their removal did not equal their mask.
        planned: whether a plan made it.
        predicted: under a latency budget the share of the input's time that the table predicts.
        shortfall: how far a budget was not used up, and why.
        fit_on: ``all`` of the data, or the ``part`` of it that a search keeps to.
        shapes: the shapes that were tried, the one that was taken first; empty where there was no choice. The
            figures chose, so they flatter: the result's own change is measured on other samples.
    """

    candidate: Candidate
    holdout: Holdout
    tried: Candidate
    unchanged: bool
    sought: Sought | None = None
    distrusted: tuple[str, ...] = ()
    planned: bool = False
    predicted: float | None = None
    shortfall: Shortfall | None = None
    fit_on: str = "all"
    shapes: tuple[TriedShape, ...] = ()


@dataclass(frozen=True, eq=False)
class Proof:
    """What the new model was found to be: how it answers, and how fast."""

    parity: Parity
    latency: Latency

"""What passes between the stages of a run: frozen, each made by one stage and only read by later ones."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from onnxmerge.channels.explain import Explanation
from onnxmerge.config import DEFAULT_TOLERANCE, Config
from onnxmerge.data import Dataset
from onnxmerge.data.generic import Plausible
from onnxmerge.errors import InternalError, ModelError
from onnxmerge.graph.files import LoadedModel
from onnxmerge.method import Method
from onnxmerge.progress import Clock
from onnxmerge.recipe import Candidate, Recipe, Shortfall
from onnxmerge.runtime import Runtime, Session
from onnxmerge.search import Found
from onnxmerge.subject import Subject
from onnxmerge.validation import Judgement, Latency, Parity, measure, worst

# What is held out to measure the change on, and, in a search, of the rest to choose by: the share of the
# samples, the fewest, and the largest share.
HELD_OUT = (0.1, 32, 0.25)
SEARCHED = (0.25, 64, 0.5)


@dataclass(frozen=True, eq=False)
class Prepared:
    """The model, the data and the analysis, before anything is decided.

    Attributes:
        data: for statistics and reconstruction.
        data_kind: ``given``, ``generic`` (images shipped with the package) or ``made up``.
        plausible: of images whose numbers nobody stated, the conventions that the model may follow.
        evaluation: samples that no statistic sees, to measure the change on: what the user gave for it, or
            what was put aside; None: a part of the data will be.
        evaluation_given: whether the user gave them.
    """

    loaded: LoadedModel
    reference: Session
    kinds: dict[str, Judgement]
    data: Dataset
    data_kind: str
    plausible: Plausible | None
    evaluation: Dataset | None
    evaluation_given: bool
    method: Method
    subject: Subject
    explanation: Explanation
    config: Config
    runtime: Runtime
    clock: Clock
    warnings: tuple[str, ...]

    @property
    def tolerance(self) -> float:
        """The largest change of the answers that a run without a budget looks for."""
        return DEFAULT_TOLERANCE if self.config.tolerance is None else self.config.tolerance

    def recipe(self, data: Dataset | None = None) -> Recipe:
        """How candidates are made, from all of the data or from a part of it."""
        return Recipe(self.subject, self.config, self.method, data or self.data, self.runtime, self.clock)

    def without(self, names: Collection[str]) -> Prepared:
        """The same with fewer groups to choose from."""
        channels = self.subject.channels
        rest = tuple(group for group in channels.groups if group.name not in names)
        return replace(self, subject=self.subject.with_channels(replace(channels, groups=rest)))

    def session(self, candidate: Candidate) -> Session:
        """A session of a candidate; one that does not load is a defect of this program."""
        try:
            return self.runtime.session(candidate.model)
        except ModelError as error:
            raise InternalError(f"the smaller model does not load, nothing was written: {error}") from error

    def parity(self, session: Session, data: Dataset) -> Parity:
        """How a model answers beside the input; of several plausible conventions under the worst."""
        with self.clock("parity"):
            return worst([measure(self.reference, session, part, self.kinds) for part in data.parts()])


# By the kind of the data, what is measured on samples that were put aside before anything began.
_BASES = {"given": "held out", "generic": "photographs", "made up": "made up"}


@dataclass(frozen=True, eq=False)
class Trial:
    """What is fitted to when the change is measured, and what it is measured on.

    ``basis`` is ``evaluation`` (data given for it), ``held out`` (of the calibration data), ``calibration``
    (nothing was fitted to it), ``fit`` (what the fit is made of: too few samples to hold any out),
    ``photographs`` (those shipped with the package) or ``made up``. The last two stand in for real data.
    """

    fit: Dataset
    judged: Dataset
    basis: str

    @staticmethod
    def of(prepared: Prepared, fraction: float, least: int, most: float) -> Trial:
        """A trial with a share of the data held out, where no other samples are there to measure on."""
        data, seed = prepared.data, prepared.config.seed
        if prepared.evaluation is not None:
            basis = "evaluation" if prepared.evaluation_given else _BASES[prepared.data_kind]
            return Trial(data, prepared.evaluation, basis)
        if not prepared.method.fits_data:
            return Trial(data, data, "calibration")
        fit, held_out = data.split(fraction, least, most, seed)
        return Trial(fit, held_out, "fit" if held_out is fit else "held out")

    @property
    def stands_in(self) -> bool:
        """Whether the change is measured on anything but data of the model's own kind."""
        return self.basis in ("photographs", "made up")


@dataclass(frozen=True, eq=False)
class Decision:
    """What goes, and the model without it.

    Attributes:
        candidate: what is written, made from all of the data.
        trial: what the change is measured on.
        tried: what it is measured with: the same widths, fitted to the trial's part of the data.
        found: the result of the search, where no budget was given.
        distrusted: groups that stay whole because their removal did not equal their mask.
        planned: whether a plan made it.
        predicted: under a latency budget the share of the input's time that the table predicts.
        shortfall: how far a budget was not used up, and why.
        fit_on: ``all`` of the data, or the ``part`` of it that a search keeps to.
    """

    candidate: Candidate
    trial: Trial
    tried: Candidate
    found: Found | None
    unchanged: bool
    distrusted: tuple[str, ...] = ()
    planned: bool = False
    predicted: float | None = None
    shortfall: Shortfall | None = None
    fit_on: str = "all"


@dataclass(frozen=True, eq=False)
class Proof:
    """What the new model was found to be: how it answers, and how fast."""

    parity: Parity
    latency: Latency

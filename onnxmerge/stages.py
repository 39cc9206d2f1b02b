"""What passes between the stages of a run: frozen, each made by one stage and only read by later ones."""

from __future__ import annotations

from dataclasses import dataclass, replace

from onnxmerge.calibration import Dataset
from onnxmerge.channels.explain import Explanation
from onnxmerge.clock import Clock
from onnxmerge.config import Config
from onnxmerge.errors import InternalError, ModelError
from onnxmerge.graph.io import LoadedModel
from onnxmerge.method import Method
from onnxmerge.plan import Selection
from onnxmerge.recipe import Candidate, Recipe
from onnxmerge.runtime import Runtime, Session
from onnxmerge.search import Found
from onnxmerge.subject import Subject
from onnxmerge.validation import Judgement, Latency, Parity, measure


@dataclass(frozen=True, eq=False)
class Prepared:
    """The model, the data and the analysis, before anything is decided.

    ``data_kind`` is ``given``, ``generic`` (images shipped with the package) or ``made up``.
    """

    loaded: LoadedModel
    reference: Session
    kinds: dict[str, Judgement]
    data: Dataset
    data_kind: str
    evaluation: Dataset | None
    method: Method
    subject: Subject
    explanation: Explanation
    config: Config
    runtime: Runtime
    clock: Clock
    warnings: tuple[str, ...]

    def recipe(self, data: Dataset | None = None) -> Recipe:
        """How candidates are made, from all of the data or from a part of it."""
        return Recipe(self.subject, self.config, self.method, data or self.data, self.runtime, self.clock)

    def session(self, candidate: Candidate) -> Session:
        """A session of a candidate; one that does not load is a defect of this program."""
        try:
            return self.runtime.session(candidate.model)
        except ModelError as error:
            raise InternalError(f"the smaller model does not load, nothing was written: {error}") from error

    def parity(self, session: Session, data: Dataset) -> Parity:
        with self.clock("parity"):
            return measure(self.reference, session, data, self.kinds)


@dataclass(frozen=True, eq=False)
class Decision:
    """What goes, and the model without it.

    Attributes:
        data: where parity is judged.
        found: the result of the search, where no budget was given.
        distrusted: groups that stay whole because their removal did not equal their mask.
        planned: whether a plan made it.
        predicted: under a latency budget the share of the input's time that the table predicts.
        in_vain: the measured share of the input's time of a smaller model that was given up for it.
    """

    candidate: Candidate
    data: Dataset
    found: Found | None
    unchanged: bool
    distrusted: tuple[str, ...] = ()
    planned: bool = False
    predicted: float | None = None
    in_vain: float | None = None

    def given_up(self, ratio: float) -> Decision:
        """The input as it is, for the smaller model took more than its time."""
        whole = Candidate(Selection({}), (), self.candidate.model)
        return replace(self, candidate=whole, unchanged=True, in_vain=ratio)


@dataclass(frozen=True, eq=False)
class Proof:
    """What the new model was found to be: how it answers, and how fast."""

    parity: Parity
    latency: Latency

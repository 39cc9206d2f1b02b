"""What a run works on: the model as it was read and analysed, the data, the method, and the clock."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from weakref import WeakKeyDictionary

from onnxmerge.channels.analysis import Analysis
from onnxmerge.channels.explain import Explanation
from onnxmerge.config import DEFAULT_TOLERANCE, Config
from onnxmerge.data.dataset import Dataset
from onnxmerge.data.generic import Plausible
from onnxmerge.data.holdout import CHOOSING, Holdout, Samples
from onnxmerge.data.image_inputs import ImageInput, image_input
from onnxmerge.errors import InternalError, ModelError
from onnxmerge.graph.files import LoadedModel
from onnxmerge.method import Method
from onnxmerge.outcomes import Candidate
from onnxmerge.progress import Clock
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
from onnxmerge.validation.parity import Outputs


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
        """Whether anything is fitted to the values of the data, or learned from them, ranges included."""
        learns = self.config.recovery is not None or self.config.precision == "int8"
        return self.method.fits_data or learns

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

    def parity(
        self, session: Session, data: Dataset, known: dict[int, list[Outputs]] | None = None
    ) -> Parity:
        """How a model answers beside the input; of several plausible conventions under the worst.

        Args:
            known: what the input answers under each, for ``measure``; None: its answers are not kept.
        """
        source, step = self.source, self.clock.step

        def answers(number: int) -> list[Outputs] | None:
            return None if known is None else known.setdefault(number, [])

        with self.clock("parity"):
            return worst(
                [
                    measure(source.session, session, part, source.kinds, step, answers(number))
                    for number, part in enumerate(data.parts())
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
        before, after = self.runtime.session_of(self.source.loaded), self.session(candidate)
        return compare_latency(before, after, self.feed, seconds=0.3)

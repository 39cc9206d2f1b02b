"""The user's own measure of a model: accuracy, error rate, mean average precision, whatever they trust."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from onnxmerge.arguments import refused
from onnxmerge.errors import EvaluationError, UsageError, in_one_line
from onnxmerge.progress import Clock, duration
from onnxmerge.runtime import Session

# The input is evaluated so many times: what differs between the scores is no difference of models.
REPEATS = 2


class Options(Protocol):
    """What a configuration says of the own measure."""

    @property
    def lower_is_better(self) -> bool: ...
    @property
    def max_drop(self) -> float | None: ...


@dataclass(eq=False)
class OwnMeasure:
    """A function of the user that gives a model its score, and what it gave so far.

    It is called with an ``onnxruntime.InferenceSession`` of the model on the device and with the threads of
    the run: that is what users have code for, and it leaves no file behind. Its data are its own, and
    onnxmerge does not see them.

    Attributes:
        evaluate: from an ``InferenceSession`` to one number.
        lower_is_better: whether a smaller score is a better one, as an error rate is.
        most: about how many evaluations a run makes, for the time that is left.
        before: the score of the input: the mean of its evaluations.
        spread: how far these are apart.
        evaluations: how many were made, those of the input included.
        seconds: what they took.
    """

    evaluate: Callable[[Any], Any]
    lower_is_better: bool
    clock: Clock
    most: int
    before: float = math.nan
    spread: float = 0.0
    evaluations: int = 0
    seconds: float = 0.0
    name: str = field(init=False)

    def __post_init__(self) -> None:
        if not callable(self.evaluate):
            raise refused("evaluate", "a function from an InferenceSession to one number", self.evaluate)
        self.name = getattr(self.evaluate, "__name__", type(self.evaluate).__name__)

    @staticmethod
    def of(
        evaluate: Callable[[Any], Any] | None, options: Options, clock: Clock, candidates: int
    ) -> OwnMeasure | None:
        """The measure of a run that asks for the score of about so many candidates; None: there is none.

        Raises:
            UsageError: it is no function, or options are about the score of none.
        """
        if evaluate is not None:
            return OwnMeasure(evaluate, options.lower_is_better, clock, REPEATS + candidates)
        if options.max_drop is not None or options.lower_is_better:
            name = "lower_is_better" if options.max_drop is None else "max_drop"
            raise UsageError(f"{name}= is about the score of your own measure: give it with evaluate=")
        return None

    @property
    def looked_at(self) -> int:
        """How many candidates were evaluated."""
        return max(self.evaluations - REPEATS, 0)

    def begin(self, session: Session) -> None:
        """Evaluate the input, before any work.

        Raises:
            EvaluationError: the function fails, or gives no finite number.
        """
        scores = [self.score(session, "the input model") for _ in range(REPEATS)]
        if not all(map(math.isfinite, scores)):
            raise EvaluationError(
                f"evaluate= {self.name} gave {scores[0]} for the input model: nothing to keep"
            )
        self.before, self.spread = sum(scores) / REPEATS, max(scores) - min(scores)

    def score(self, session: Session, what: str = "a smaller model, after it ran on the input") -> float:
        """The score of a model; NaN and infinity are passed on.

        Raises:
            EvaluationError: the function fails, or gives no number.
        """
        with self.clock.noted(self._progress()), self.clock("evaluate"):
            start = time.perf_counter()
            try:
                given = self.evaluate(session.inference_session)
            except (Exception, SystemExit) as error:
                raise EvaluationError(
                    f"evaluate= {self.name} raised {in_one_line(error)}, on {what}"
                ) from error
            self.seconds += time.perf_counter() - start
            self.evaluations += 1
        return _number(given, self.name)

    def drop(self, score: float) -> float:
        """How much worse than the input's a score is; negative where it is better, infinite for NaN."""
        worse = score - self.before if self.lower_is_better else self.before - score
        return math.inf if math.isnan(worse) else worse

    def _progress(self) -> str:
        if not self.evaluations:
            return "first evaluation"
        each = self.seconds / self.evaluations
        left = max(self.most - self.evaluations, 1)
        most = self.evaluations + left
        return f"evaluation {self.evaluations + 1} of at most {most}, {duration(left * each)} left"


def _number(given: Any, name: str) -> float:
    value = given
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()  # of numpy, or of a tensor
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    what = f"a {type(given).__name__}" if given is not None else "None"
    raise EvaluationError(f"evaluate= {name} returned {what}, where one number is needed: the score")

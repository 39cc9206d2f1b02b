"""How a smaller model is taught by the original, and what came of it: all of it that needs no torch."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from math import isfinite

import onnx

from onnxmerge.arguments import flag, number, whole
from onnxmerge.errors import UsageError

# The part of the inputs that is held out to judge by, and the fewest samples.
HELD_OUT, LEAST_HELD_OUT = 1 / 8, 32
# Seconds in a unit of time as people write it.
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_TIME = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([smh])")
_ENDED = {
    "steps": "the bound in steps",
    "time": "the bound in time",
    "no better": "want of progress",
    "interrupted": "an interruption; the best so far is kept",
}


@dataclass(frozen=True)
class Recovery:
    """The options of teaching a smaller model on unlabelled inputs.

    The learning rate is relative: the usual change of a weight in one step, as a share of the root mean
    square of its tensor. So one rate suits layers, and models, whose weights differ by orders of magnitude.

    Attributes:
        steps: at most so many updates of the weights, those of the trials of rates included; None: no bound.
        seconds: at most so long, everything included; None: no bound, or whatever the caller finds right
            where ``steps`` is None, too.
        batch: samples in a step. A model with a fixed batch takes the whole batches that come nearest.
        rate: the largest learning rate; None: found by short trials on inputs that are held out.
        inner: the weight of inner tensors beside the answers; 0: the answers alone are matched.
        augment: whether images are mirrored and shifted where the caller says which inputs are images.

    Raises:
        UsageError: options of the wrong type, or out of range.
    """

    steps: int | None = None
    seconds: float | None = None
    batch: int = 32
    rate: float | None = None
    inner: float = 50.0
    augment: bool = True

    def __post_init__(self) -> None:
        if self.steps is not None:
            object.__setattr__(self, "steps", whole("steps", self.steps, 1))
        if self.seconds is not None:
            seconds = number(
                "seconds", self.seconds, "a time above 0, in seconds", lambda v: v > 0 and isfinite(v)
            )
            object.__setattr__(self, "seconds", seconds)
        object.__setattr__(self, "batch", whole("batch", self.batch, 1))
        if self.rate is not None:
            rate = number("rate", self.rate, "a learning rate above 0", lambda v: v > 0 and isfinite(v))
            object.__setattr__(self, "rate", rate)
        inner = number("inner", self.inner, "a weight of at least 0", lambda v: v >= 0 and isfinite(v))
        object.__setattr__(self, "inner", inner)
        object.__setattr__(self, "augment", flag("augment", self.augment))

    @classmethod
    def parse(cls, text: str, name: str = "recover=") -> Recovery:
        """The bound as the command line takes it: ``2m``, ``90s`` or ``1h`` of time, or ``500`` steps.

        Args:
            name: of the option, for the message.

        Raises:
            UsageError: the text is neither.
        """
        timed = _TIME.fullmatch(text.strip())
        if timed is not None:
            return cls(seconds=float(timed[1]) * _UNITS[timed[2]])
        if text.strip().isdigit() and int(text) > 0:
            return cls(steps=int(text))
        raise UsageError(f"{name} is a time such as 90s, 2m or 1h, or a number of steps, not {text!r}")

    def as_dict(self) -> dict[str, object]:
        """All options as plain data, for the report."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Recovered:
    """What came of teaching.

    Attributes:
        model: the taught student, or the student as it was where that is not better.
        taken: whether the new weights are in it.
        error_before, error_after: the mean over the held-out inputs and the answers of |y' - y|^2 in units of
            the answer's variance: of the student, and of the best weights that were found.
        steps: updates of the weights, those of trials included.
        seconds: all the time that was spent.
        learning_rate: the one chosen, relative to the size of each tensor; nan where none was.
        stopped: why: ``time``, ``steps``, ``no better`` or ``interrupted``.
        trials: the rates that were tried, and the held-out error that each led to.
    """

    model: onnx.ModelProto
    taken: bool
    error_before: float
    error_after: float
    steps: int
    seconds: float
    learning_rate: float
    stopped: str
    trials: tuple[tuple[float, float], ...] = ()

    def summary(self) -> str:
        """One line for a person."""
        kept = "taken" if self.taken else "not taken: no better than by chance"
        return (
            f"recovery: held-out error {self.error_before:.4g} > {self.error_after:.4g}, {kept} "
            f"({self.steps} steps, {self.seconds:.0f} s, learning rate {self.learning_rate:g}, "
            f"ended by {_ENDED[self.stopped]})"
        )

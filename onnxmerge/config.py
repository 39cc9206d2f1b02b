"""Every option of a run, checked once."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from math import isfinite
from typing import Any

from onnxmerge.allocation import ALLOCATIONS
from onnxmerge.allocation.targets import TARGETS
from onnxmerge.arguments import flag, lengths, named, nearest, number, refused, texts, whole, word
from onnxmerge.compensation import COMPENSATIONS, LeastSquares, LeaveBeforeYouLeave, Merge
from onnxmerge.criteria import CRITERIA
from onnxmerge.data import ImageOptions
from onnxmerge.errors import UsageError
from onnxmerge.plugins import enter
from onnxmerge.runtime import DEVICES
from onnxmerge.validation import KINDS

DEFAULT_TOLERANCE = 0.01
BUDGETS = ("ratio", "macs", "params", "latency")
PRECISIONS = ("int8", "fp16")
# Seconds in a unit of time as people write it.
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_TIME = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([smh])")


# Methods by their names; other packages add theirs.
_METHODS: dict[str, dict[str, Any]] = {
    "criterion": CRITERIA,
    "compensation": COMPENSATIONS,
    "allocation": ALLOCATIONS,
}


def _words() -> dict[str, tuple[str, ...]]:
    """What options that are words may be, methods as the tables name them now."""
    return {
        **{name: ("auto", *table) for name, table in _METHODS.items()},
        "target": ("auto", *TARGETS),
        "scope": ("all", "chain"),
        "device": DEVICES,
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
        batch: samples in a step; None: 32, or 16 or 8 where the bound in time leaves few such steps. A model
            with a fixed batch takes the whole batches that come nearest.
        rate: the largest learning rate; None: found by short trials on inputs that are held out.
        inner: the weight of inner tensors beside the answers; 0: the answers alone are matched.
        augment: whether images are mirrored and shifted where the caller says which inputs are images.

    Raises:
        UsageError: options of the wrong type, or out of range.
    """

    steps: int | None = None
    seconds: float | None = None
    batch: int | None = None
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
        if self.batch is not None:
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
        what = "a time such as 90s, 2m or 1h, or a number of steps"
        raise UsageError(f"{name} is {what}, not the text {text!r}")

    def as_dict(self) -> dict[str, object]:
        """All options as plain data, for the report."""
        return asdict(self)


@dataclass(frozen=True)
class Config:
    """The options of ``optimize``; see the README for what they mean together.

    Attributes:
        ratio: share of channels to remove per group, 0..1 (1 excluded).
        macs: share of the model's multiplications to keep, 0..1.
        params: share of the model's parameters to keep, 0..1.
        latency: share of the measured time of one run to keep, 0..1.
        tolerance: largest change of the answers. Without a budget the target of the search (default
            0.01); with one, a gate.
        max_drop: largest drop of the user's own score, in its unit. Without a budget the target of the search
            in the place of the tolerance; with one, a gate.
        lower_is_better: whether the own score is better where it is smaller, as an error rate is.
        threshold: merge: smallest cosine at which a channel is merged; None: per layer kind.
        trade_off: merge: lambda, the weight of the cosine against the BatchNorm shift.
        shift_weight: lbyl: lambda1, the weight of BatchNorm's shifts.
        spread_weight: lbyl: lambda2, the weight of the bound on what activations add.
        depth: whether groups may be left without a channel, so that whole layers go, where that costs less
            than narrower ones; under a ``ratio`` and ``uniform`` or ``global`` widths every group keeps one.
        scope: ``all``, or ``chain`` for groups that no sum and no concat couples.
        skip, only: globs of node or tensor names.
        criterion, allocation, compensation: a method by name, or ``auto``.
        align: widths are multiples of this where a group is that wide; ``auto``: of what the target
            computes without waste, and of less in narrow groups. A ``ratio`` is never aligned.
        target: ``cpu``, ``cuda`` or ``tensorrt``: what the model is aligned for; ``auto``: the device.
        samples: most calibration samples that are fitted; where more are given, a quarter as many others, or
            48, judge, and else a part of them.
        patches: rows per layer for least squares, spread over the samples.
        shapes: input shapes for made-up inputs.
        images: how images become numbers; None: as they are for folders, inferred for generic images.
        output_kinds: one of ``validation.kinds.KINDS`` (``classes``, ``detections``, ...) by output name,
            where the guess is wrong; the report says how each output was judged.
        examples: how many of the samples whose answers change most a report shows, images included; 0: none,
            for data that must not be shown.
        recover: whether and how the smaller model is taught by the original in the end, on the calibration
            inputs and without labels: a ``Recovery``, True, a time such as ``2m``, or a number of steps.
        precision: ``int8`` or ``fp16``: what the smaller model is turned into in the end; None: it stays as
            it is.
        seed: of every random choice.
        threads: of onnxruntime; None: all processors.
        device: ``auto``, ``cpu`` or ``cuda``: what runs the models.

    Raises:
        UsageError: options of the wrong type, out of range, or that contradict one another.
    """

    ratio: float | None = None
    macs: float | None = None
    params: float | None = None
    latency: float | None = None
    tolerance: float | None = None
    max_drop: float | None = None
    lower_is_better: bool = False
    criterion: str = "auto"
    compensation: str = "auto"
    threshold: float | None = Merge.threshold
    trade_off: float = Merge.trade_off
    shift_weight: float = LeaveBeforeYouLeave.shift_weight
    spread_weight: float = LeaveBeforeYouLeave.spread_weight
    allocation: str = "auto"
    align: int | str = "auto"
    target: str = "auto"
    depth: bool = True
    scope: str = "all"
    skip: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    samples: int = 512
    patches: int = LeastSquares.patches
    seed: int = 0
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    images: ImageOptions | None = None
    output_kinds: Mapping[str, str] = field(default_factory=dict)
    examples: int = 8
    recover: Recovery | bool | str | int | None = None
    precision: str | None = None
    threads: int | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        for name, value in self._checked().items():
            object.__setattr__(self, name, value)  # lists become tuples, numpy's numbers Python's
        budgets = [name for name in BUDGETS if getattr(self, name) is not None]
        if len(budgets) > 1:
            raise UsageError(f"{budgets[0]}= and {budgets[1]}= are both budgets: give one")
        if not budgets and self.tolerance is not None and self.max_drop is not None:
            raise UsageError("without a budget the search holds max_drop= or tolerance=: give one")

    def _checked(self) -> dict[str, Any]:
        """All options by name, each of its type and within its range."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}

        def check(name: str, checked: Callable[..., Any], *details: Any) -> None:
            values[name] = checked(name, values[name], *details)

        def given(name: str, checked: Callable[..., Any], *details: Any) -> None:
            if values[name] is not None:
                check(name, checked, *details)

        given("ratio", number, "the share of channels removed, from 0 to below 1", lambda v: 0 <= v < 1)
        for name in BUDGETS[1:]:
            given(name, number, "the share that is kept, above 0 and at most 1", lambda v: 0 < v <= 1)
        given("tolerance", number, "a number of at least 0", lambda v: v >= 0)
        given("max_drop", number, "a number of at least 0, in the unit of the score", lambda v: v >= 0)
        given("threshold", number, "the smallest cosine that is merged, a number", isfinite)
        check("trade_off", number, "a number from 0 to 1", lambda v: 0 <= v <= 1)
        for name in ("shift_weight", "spread_weight"):
            check(name, number, "a weight of at least 0", lambda v: v >= 0 and isfinite(v))
        if not (isinstance(self.align, str) and self.align == "auto"):
            check("align", whole, 1, "'auto' or a whole number of at least 1")
        for name, table in _METHODS.items():
            enter(table, name, getattr(self, name) if getattr(self, name) != "auto" else None)
        for name, known in _words().items():
            check(name, word, known)
        check("depth", flag)
        check("lower_is_better", flag)
        for name in ("skip", "only"):
            check(name, texts)
        for name, least in (("samples", 1), ("patches", 1), ("examples", 0), ("seed", 0)):
            check(name, whole, least)
        values["recover"] = _recovery(self.recover)
        given("precision", word, PRECISIONS)
        given("threads", whole, 1)
        check("shapes", named, "a mapping from inputs to shapes")
        values["shapes"] = {
            name: lengths("shapes", shape, "a list of whole numbers of at least 1", of=name)
            for name, shape in values["shapes"].items()
        }
        check("output_kinds", named, "a mapping from outputs to kinds")
        for name, kind in values["output_kinds"].items():
            if not isinstance(kind, str) or kind not in KINDS:
                raise refused("output_kinds", f"one of {', '.join(KINDS)}", kind, name)
        if self.images is not None and not isinstance(self.images, ImageOptions):
            raise refused("images", "an ImageOptions", self.images)
        return values

    @property
    def budget(self) -> tuple[str, float] | None:
        """The kind and value of the budget, or None for a search within the tolerance."""
        for kind in BUDGETS:
            value = getattr(self, kind)
            if value is not None:
                return kind, value
        return None

    @property
    def recovery(self) -> Recovery | None:
        """How the smaller model is taught; None where it is not."""
        return self.recover if isinstance(self.recover, Recovery) else None

    def as_dict(self) -> dict[str, object]:
        """All options as plain data, for the report."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["images"] = None if self.images is None else asdict(self.images)
        values["recover"] = None if self.recovery is None else self.recovery.as_dict()
        values["shapes"] = {name: list(shape) for name, shape in self.shapes.items()}
        values["output_kinds"] = dict(self.output_kinds)
        return values


def configured(config: Config | None, options: Mapping[str, Any]) -> Config:
    """A configuration with some options replaced.

    Raises:
        UsageError: unknown options, or values out of range.
    """
    for name in options:
        if name not in (known := [f.name for f in fields(Config)]):
            raise UsageError(f"unknown option: {name}={nearest(name, known)}")
    return replace(config or Config(), **options)


def _recovery(value: Any) -> Recovery | None:
    """What ``recover`` stands for."""
    if value is None or value is False:
        return None
    if isinstance(value, Recovery):
        return value
    if value is True:
        return Recovery()
    if isinstance(value, str):
        return Recovery.parse(value)
    return Recovery(steps=whole("recover", value, 1, "a Recovery, a time such as 2m, or a number of steps"))

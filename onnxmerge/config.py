"""Every option of a run, checked once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields

from onnxmerge.allocation import ALLOCATIONS
from onnxmerge.calibration import ImageOptions
from onnxmerge.compensation import COMPENSATIONS
from onnxmerge.criteria import CRITERIA
from onnxmerge.errors import UsageError
from onnxmerge.targets import TARGETS

DEFAULT_TOLERANCE = 0.01
BUDGETS = ("ratio", "macs", "params", "latency")


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
        threshold: merge: smallest cosine at which a channel is merged; None: per layer kind.
        trade_off: merge: lambda, the weight of the cosine against the BatchNorm shift.
        scope: ``all``, or ``chain`` for groups that no sum and no concat couples.
        skip, only: globs of node or tensor names.
        criterion, allocation, compensation: a method by name, or ``auto``.
        align: widths are multiples of this where a group is that wide; ``auto``: of what the target
            computes without waste, and of less in narrow groups. A ``ratio`` is never aligned.
        target: ``cpu``, ``cuda`` or ``tensorrt``: what the model is aligned for; ``auto``: the device.
        samples: most calibration samples used.
        patches: rows per layer for least squares, spread over the samples.
        shapes: input shapes for made-up inputs.
        images: how images become numbers; None: as they are for folders, inferred for generic images.
        output_kinds: ``classes``, ``probabilities``, ``values`` or ``integers`` by output name, where the
            guess is wrong; the report says how each output was judged.
        threads: of onnxruntime; None: all processors.

    Raises:
        UsageError: options that are out of range or contradict one another.
    """

    ratio: float | None = None
    macs: float | None = None
    params: float | None = None
    latency: float | None = None
    tolerance: float | None = None
    criterion: str = "auto"
    compensation: str = "auto"
    threshold: float | None = None
    trade_off: float = 0.85
    allocation: str = "auto"
    align: int | str = "auto"
    target: str = "auto"
    scope: str = "all"
    skip: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    samples: int = 512
    patches: int = 40_000
    seed: int = 0
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    images: ImageOptions | None = None
    output_kinds: Mapping[str, str] = field(default_factory=dict)
    threads: int | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        budgets = [name for name in BUDGETS if getattr(self, name) is not None]
        if len(budgets) > 1:
            raise UsageError(f"--{budgets[0]} and --{budgets[1]} are both budgets: give one")
        if self.ratio is not None and not 0 <= self.ratio < 1:
            raise UsageError(f"--ratio is the share of channels removed, from 0 to below 1, not {self.ratio}")
        for name in BUDGETS[1:]:
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise UsageError(f"--{name} is the share that is kept, above 0 and at most 1, not {value}")
        if self.tolerance is not None and not self.tolerance >= 0:
            raise UsageError(f"--tolerance is at least 0, not {self.tolerance}")
        if not 0 <= self.trade_off <= 1:
            raise UsageError(f"--lambda is from 0 to 1, not {self.trade_off}")
        for name in ("samples", "patches"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name} is at least 1, not {getattr(self, name)}")
        if self.align != "auto" and not (isinstance(self.align, int) and self.align >= 1):
            raise UsageError(f"--align is auto, or at least 1, not {self.align}")
        _one_of("target", self.target, ("auto", *TARGETS))
        _one_of("criterion", self.criterion, ("auto", *CRITERIA))
        _one_of("compensation", self.compensation, ("auto", "lstsq", *COMPENSATIONS))
        _one_of("allocation", self.allocation, ("auto", *ALLOCATIONS))
        _one_of("scope", self.scope, ("all", "chain"))

    @property
    def budget(self) -> tuple[str, float] | None:
        """The kind and value of the budget, or None for a search within the tolerance."""
        for kind in BUDGETS:
            value = getattr(self, kind)
            if value is not None:
                return kind, value
        return None

    def as_dict(self) -> dict[str, object]:
        """All options as plain data, for the report."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["images"] = None if self.images is None else asdict(self.images)
        values["shapes"] = {name: list(shape) for name, shape in self.shapes.items()}
        values["output_kinds"] = dict(self.output_kinds)
        return values


def _one_of(option: str, value: str, known) -> None:
    if value not in known:
        raise UsageError(f"--{option} is one of {', '.join(known)}, not '{value}'")

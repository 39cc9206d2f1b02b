"""Two models beside each other: sizes, answers, time; and whether that is good enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

from onnxmerge.arguments import number
from onnxmerge.data.generic import Plausible
from onnxmerge.data.holdout import Holdout
from onnxmerge.errors import LatencyExceeded, ToleranceExceeded, UsageError
from onnxmerge.progress import Clock
from onnxmerge.report.describe import parity_facts, seconds_of
from onnxmerge.report.document import SCHEMA_VERSION, Document
from onnxmerge.report.facts import LatencyFacts, ModelFacts, ParityFacts
from onnxmerge.report.headline import Headline, checked, time_taken
from onnxmerge.validation import Latency, Parity
from onnxmerge.version import __version__


@dataclass(frozen=True, repr=False)
class Comparison(Document):
    """The report of ``compare``: the second model beside the first, which is the reference.

    Attributes:
        first, second: the models in figures, both counted from their own files.
        parity: how the second model's answers differ from the first one's.
        latency: of one run; ``before`` is the first model's, ``after`` the second one's.
        config: all options, and the path of the data.
        seconds: by stage.
        version: of onnxmerge.
        command: the command line; None of a run in Python.
    """

    headline: Headline
    schema_version: int
    first: ModelFacts
    second: ModelFacts
    parity: ParityFacts
    latency: LatencyFacts
    config: Mapping[str, Any]
    warnings: tuple[str, ...]
    seconds: Mapping[str, float]
    version: str = __version__
    command: str | None = None

    @property
    def sentences(self) -> tuple[str, ...]:
        return self.headline.sentences

    def require(self, *, max_change: float | None = None, max_latency: float | None = None) -> None:
        """Nothing, where the second model is good enough.

        Args:
            max_change: the largest change of the answers that passes, as ``parity.change`` measures it.
            max_latency: the largest share of the first model's time that passes.

        Raises:
            ToleranceExceeded: the answers change more.
            LatencyExceeded: they do not, but the second model takes longer.
            UsageError: limits that are no numbers of at least 0, or a change that there cannot be.
        """
        change, ratio = self.parity.change, self.latency.ratio
        slow = None
        if max_latency is not None:
            most = number("max_latency", max_latency, "a share of the time, above 0", lambda v: v > 0)
            if not ratio <= most:
                slow = f"one run takes {ratio:.2f} of the first model's time, above the {most:.4g} allowed"
        if max_change is not None:
            most = number("max_change", max_change, "a number of at least 0", lambda v: v >= 0)
            if 1 < most <= 100 and all(output.kind != "values" for output in self.parity.outputs):
                # A gate that nothing could fail is no gate; larger numbers stand for none.
                raise UsageError(
                    f"max_change= is a share, and nothing here can change by more than 1: {most:.4g}% is "
                    f"{most / 100:.4g}"
                )
            if not change <= most:
                found = f"{change:.4g}" if isfinite(change) else "beyond all numbers"
                raise ToleranceExceeded(
                    f"the change is {found}, above the {most:.4g} allowed (measured on {self._on})"
                    + (f"; and {slow}" if slow else "")
                )
        if slow is not None:
            raise LatencyExceeded(f"{slow} ({self.latency.runs} measurements on this machine)")

    @property
    def _on(self) -> str:
        stand_in = ", which is no data of the model's own kind" if self.parity.stand_in else ""
        return f"{self.parity.samples} samples of {self.parity.source}{stand_in}"


def describe_comparison(
    first: ModelFacts,
    second: ModelFacts,
    parity: Parity,
    latency: Latency,
    holdout: Holdout,
    plausible: Plausible | None,
    options: Mapping[str, Any],
    warnings: Sequence[str],
    clock: Clock,
) -> Comparison:
    """The report of a comparison."""
    return Comparison(
        headline=Headline(
            _sizes(first, second), checked(parity, holdout, plausible), time_taken(latency, "first model")
        ),
        schema_version=SCHEMA_VERSION,
        first=first,
        second=second,
        parity=parity_facts(parity, holdout),
        latency=LatencyFacts(**asdict(latency), predicted_ratio=None),
        config=options,
        warnings=tuple(dict.fromkeys([*warnings, *parity.notes])),
        seconds=seconds_of(clock),
    )


def _sizes(first: ModelFacts, second: ModelFacts) -> str:
    if first.sha256 == second.sha256:
        return "Both are the same model."
    macs, params, size = (
        getattr(second, name) / max(getattr(first, name), 1) for name in ("macs", "params", "bytes")
    )
    return (
        f"The second model has {macs:.1%} of the first one's multiplications, {params:.1%} of its parameters "
        f"and {size:.1%} of its bytes."
    )

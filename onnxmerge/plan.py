"""What is decided about a model, as data: scores, selection, and the plan that can be saved.

``keep`` is always integer indices into a group's channels, in ascending order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from onnxmerge.errors import UsageError

PLAN_VERSION = 1


@dataclass(frozen=True)
class Scores:
    """How much the channels of every group matter.

    Attributes:
        values: saliency of every channel, float64 [C] per group name: larger is more worth keeping.
        curves: where the criterion knows, what keeping only the best 0, 1, .., C channels of a group costs,
            float64 [C + 1] per group name, in a unit that is the same for all groups.
        order: where the criterion knows more than the values tell, a group's channels, the best first,
            int64 [C] per group name; values do not increase along it.
    """

    values: Mapping[str, np.ndarray]
    curves: Mapping[str, np.ndarray] = field(default_factory=dict)
    order: Mapping[str, np.ndarray] = field(default_factory=dict)

    def best_first(self) -> dict[str, np.ndarray]:
        """The channels of every group, the best first, int64 [C]; of equal ones the higher index."""
        return {
            name: self.order[name] if name in self.order else np.argsort(values, kind="stable")[::-1]
            for name, values in self.values.items()
        }


@dataclass(frozen=True)
class Selection:
    """The channels that stay, int64 indices per group name; a group that is not named stays whole."""

    keep: Mapping[str, np.ndarray]

    @property
    def widths(self) -> tuple[tuple[str, int], ...]:
        """The number of channels that stay, by group: what time and multiplications depend on."""
        return tuple((name, len(index)) for name, index in self.keep.items())

    @property
    def emptied(self) -> list[str]:
        """The groups that keep no channel."""
        return [name for name, index in self.keep.items() if not len(index)]


@dataclass(frozen=True)
class Plan:
    """A decision that can be saved, read, edited and applied later to the same model.

    Attributes:
        fingerprint: sha256 of the model file the plan belongs to.
        keep: kept channel indices per group name.
        method: how it was made, and so how it is applied: ``criterion``, ``allocation``, ``compensation``
            and their options ``threshold``, ``trade_off``, ``patches`` and ``seed``; ``recover`` how it
            was taught, or None; ``fit_on`` what it was fitted to, see ``study.Choice``; ``why`` is for
            people. What is not named is taken from the options of the run that applies the plan.
    """

    fingerprint: str
    keep: Mapping[str, tuple[int, ...]]
    method: Mapping[str, object] = field(default_factory=dict)

    @property
    def selection(self) -> Selection:
        return Selection({name: np.array(index, dtype=np.int64) for name, index in self.keep.items()})

    def to_json(self) -> str:
        keep = {name: list(index) for name, index in self.keep.items()}
        content = {"plan_version": PLAN_VERSION, "fingerprint": self.fingerprint, "method": dict(self.method)}
        return json.dumps(content | {"keep": keep}, indent=2)

    @staticmethod
    def from_json(text: str) -> Plan:
        """Raises UsageError where the text is no plan of this version."""
        try:
            content = json.loads(text)
            version = content["plan_version"]
            keep = {name: tuple(sorted({int(i) for i in index})) for name, index in content["keep"].items()}
            plan = Plan(content["fingerprint"], keep, dict(content.get("method", {})))
        except (json.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(f"this is not a plan: {error!r}") from error
        if version != PLAN_VERSION:
            raise UsageError(f"the plan has version {version}, this program reads {PLAN_VERSION}")
        return plan

    @staticmethod
    def load(path: str | Path) -> Plan:
        try:
            return Plan.from_json(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise UsageError(f"cannot read the plan {path}: {error.strerror or error}") from error

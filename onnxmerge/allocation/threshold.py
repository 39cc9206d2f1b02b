"""One threshold for the whole model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from onnxmerge.allocation.alignment import Alignment
from onnxmerge.allocation.budget import Budget
from onnxmerge.allocation.met import at_most, fill_up, share, unreachable, widths
from onnxmerge.channels import Channels
from onnxmerge.plan import Scores, Selection


@dataclass(frozen=True)
class Global:
    """Removes the channels with the smallest scores, each score divided by its group's mean.

    Every group keeps at least one channel. Under ``ratio`` that share of all channels goes.

    Attributes:
        alignment: the widths that groups may have; under a ``ratio`` nothing is aligned.
    """

    alignment: Alignment = field(default_factory=Alignment)

    @property
    def empties(self) -> bool:
        return False

    def shapes(self, kind: str) -> dict[str, Global]:
        """One for every kind of budget."""
        return {"global": self}

    def __call__(self, channels: Channels, scores: Scores, budget: Budget) -> Selection:
        relative = {name: values / (values.mean() or 1.0) for name, values in scores.values.items()}
        order = {name: np.argsort(values, kind="stable")[::-1] for name, values in relative.items()}
        thresholds = np.unique(np.concatenate([*relative.values(), [-np.inf]]))
        if budget.kind == "ratio":
            pooled = np.sort(np.concatenate([*relative.values()])) if relative else np.zeros(1)
            count = int(np.floor(len(pooled) * budget.value + 1e-6))
            every = Alignment().ladders(channels)
            return _select(relative, order, every, pooled[count - 1] if count else -np.inf)
        ladders = self.alignment.ladders(channels)
        smallest = share(channels, _select(relative, order, ladders, np.inf), budget)
        if smallest > budget.value:
            raise unreachable(budget, smallest)
        low, high = 0, len(thresholds) - 1
        while low < high:
            middle = (low + high) // 2
            if share(channels, _select(relative, order, ladders, thresholds[middle]), budget) <= budget.value:
                high = middle
            else:
                low = middle + 1
        return fill_up(channels, _select(relative, order, ladders, thresholds[low]), order, ladders, budget)


def _select(
    relative: Mapping[str, np.ndarray],
    order: Mapping[str, np.ndarray],
    ladders: Mapping[str, np.ndarray],
    threshold: float,
) -> Selection:
    rung = {
        name: at_most(ladders[name], int((values > threshold).sum())) for name, values in relative.items()
    }
    return widths(order, ladders, rung)

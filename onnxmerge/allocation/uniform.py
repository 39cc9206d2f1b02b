"""The same share of every group: the published recipe."""

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
class Uniform:
    """Keeps the ``floor(C*(1-ratio) + 1e-6)`` best channels of every group, and at least one.

    Under ``macs`` or ``params`` the ratio is the smallest that meets the budget; what one step of
    the ratio removed too much is then given back, best channels first. Ties in the score keep the
    higher index (as in the published implementation).

    Attributes:
        alignment: the widths that groups may have; under a ``ratio`` nothing is aligned.
    """

    alignment: Alignment = field(default_factory=Alignment)

    @property
    def empties(self) -> bool:
        return False

    def shapes(self, kind: str) -> dict[str, Uniform]:
        """One for every kind of budget."""
        return {"uniform": self}

    def __call__(self, channels: Channels, scores: Scores, budget: Budget) -> Selection:
        order = scores.best_first()
        if budget.kind == "ratio":
            return _select(order, Alignment().ladders(channels), budget.value)
        ladders = self.alignment.ladders(channels)
        # Between these ratios nothing changes, so bisecting over them is exact.
        steps = np.unique(
            np.concatenate([1 - np.arange(1, len(o) + 1) / len(o) for o in order.values()] or [np.zeros(1)])
        )
        smallest = share(channels, _select(order, ladders, steps[-1]), budget)
        if smallest > budget.value:
            raise unreachable(budget, smallest)
        low, high = 0, len(steps) - 1
        while low < high:
            middle = (low + high) // 2
            if share(channels, _select(order, ladders, steps[middle]), budget) <= budget.value:
                high = middle
            else:
                low = middle + 1
        return fill_up(channels, _select(order, ladders, steps[low]), order, ladders, budget)


def _select(order: Mapping[str, np.ndarray], ladders: Mapping[str, np.ndarray], ratio: float) -> Selection:
    rung = {
        name: at_most(ladders[name], int(np.floor(len(best) * (1 - ratio) + 1e-6)))
        for name, best in order.items()
    }
    return widths(order, ladders, rung)

"""The same share of every group: the published recipe."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxmerge.allocation.met import fill_up, unreachable
from onnxmerge.channels import Channels
from onnxmerge.plan import Budget, Scores, Selection


@dataclass(frozen=True)
class Uniform:
    """Keeps the ``floor(C*(1-ratio) + 1e-6)`` best channels of every group, and at least one.

    Under ``macs`` or ``params`` the ratio is the smallest that meets the budget; what one step of
    the ratio removed too much is then given back, best channels first. Ties in the score keep the
    higher index (as in the published implementation).
    """

    def __call__(self, channels: Channels, scores: Scores, budget: Budget) -> Selection:
        order = {name: np.argsort(values, kind="stable")[::-1] for name, values in scores.values.items()}
        if budget.kind == "ratio":
            return _select(order, budget.value)
        # Between these ratios nothing changes, so bisecting over them is exact.
        steps = np.unique(
            np.concatenate([1 - np.arange(1, len(o) + 1) / len(o) for o in order.values()] or [[0.0]])
        )
        assert budget.share is not None
        if budget.share(_select(order, steps[-1])) > budget.value:
            raise unreachable(budget, budget.share(_select(order, steps[-1])))
        low, high = 0, len(steps) - 1
        while low < high:
            middle = (low + high) // 2
            if budget.share(_select(order, steps[middle])) <= budget.value:
                high = middle
            else:
                low = middle + 1
        return fill_up(_select(order, steps[low]), order, budget)


def _select(order: dict[str, np.ndarray], ratio: float) -> Selection:
    keep = {}
    for name, best in order.items():
        count = max(1, int(np.floor(len(best) * (1 - ratio) + 1e-6)))
        keep[name] = np.sort(best[:count])
    return Selection(keep)

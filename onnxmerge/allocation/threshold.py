"""One threshold for the whole model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxmerge.allocation.met import fill_up, unreachable
from onnxmerge.channels import Channels
from onnxmerge.plan import Budget, Scores, Selection


@dataclass(frozen=True)
class Global:
    """Removes the channels with the smallest scores, each score divided by its group's mean.

    Every group keeps at least one channel. Under ``ratio`` that share of all channels goes.
    """

    def __call__(self, channels: Channels, scores: Scores, budget: Budget) -> Selection:
        relative = {name: values / (values.mean() or 1.0) for name, values in scores.values.items()}
        order = {name: np.argsort(values, kind="stable")[::-1] for name, values in relative.items()}
        thresholds = np.unique(np.concatenate([*relative.values(), [-np.inf]]))
        if budget.kind == "ratio":
            pooled = np.sort(np.concatenate([*relative.values()])) if relative else np.zeros(1)
            count = int(np.floor(len(pooled) * budget.value + 1e-6))
            return _select(relative, order, pooled[count - 1] if count else -np.inf)
        assert budget.share is not None
        smallest = budget.share(_select(relative, order, np.inf))
        if smallest > budget.value:
            raise unreachable(budget, smallest)
        low, high = 0, len(thresholds) - 1
        while low < high:
            middle = (low + high) // 2
            if budget.share(_select(relative, order, thresholds[middle])) <= budget.value:
                high = middle
            else:
                low = middle + 1
        return fill_up(_select(relative, order, thresholds[low]), order, budget)


def _select(relative: dict[str, np.ndarray], order: dict[str, np.ndarray], threshold: float) -> Selection:
    keep = {}
    for name, values in relative.items():
        count = max(1, int((values > threshold).sum()))
        keep[name] = np.sort(order[name][:count])
    return Selection(keep)

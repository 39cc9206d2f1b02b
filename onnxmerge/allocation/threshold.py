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
        levels, order = _levels(scores), scores.best_first()
        every = np.sort(np.concatenate([np.zeros(0, np.int64), *levels.values()]))
        if budget.kind == "ratio":
            count = int(np.floor(len(every) * budget.value + 1e-6))
            return _select(levels, order, Alignment().ladders(channels), every[count - 1] if count else -1)
        ladders = self.alignment.ladders(channels)
        low, high = -1, int(every.max(initial=-1))
        smallest = share(channels, _select(levels, order, ladders, high), budget)
        if smallest > budget.value:
            raise unreachable(budget, smallest)
        while low < high:
            middle = (low + high) // 2
            if share(channels, _select(levels, order, ladders, middle), budget) <= budget.value:
                high = middle
            else:
                low = middle + 1
        return fill_up(channels, _select(levels, order, ladders, low), order, ladders, budget)


def _levels(scores: Scores) -> dict[str, np.ndarray]:
    """The place of every channel's relative score among those of all groups, int64 [C], from 0.

    Equal scores have the same place, unless the criterion puts their channels into an order.
    """
    if not scores.values:
        return {}
    keys = []
    for name, values in scores.values.items():
        tie = np.zeros(len(values))
        if name in scores.order:
            tie[scores.order[name][::-1]] = np.arange(1, len(values) + 1)
        keys.append(np.stack([values, tie], axis=1) / (values.mean() or 1.0))
    _, level = np.unique(np.concatenate(keys), axis=0, return_inverse=True)
    parts = np.split(level.reshape(-1), np.cumsum([len(k) for k in keys])[:-1])
    return dict(zip(scores.values, parts, strict=True))


def _select(
    levels: Mapping[str, np.ndarray],
    order: Mapping[str, np.ndarray],
    ladders: Mapping[str, np.ndarray],
    threshold: int,
) -> Selection:
    rung = {name: at_most(ladders[name], int((level > threshold).sum())) for name, level in levels.items()}
    return widths(order, ladders, rung)

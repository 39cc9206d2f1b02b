"""Widths from cost curves: the budget is taken where a unit of it costs the least error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from onnxmerge.allocation.met import fill_up, unreachable
from onnxmerge.channels import Channels
from onnxmerge.plan import Budget, Scores, Selection


@dataclass(frozen=True)
class CostCurves:
    """Greedy descent along the groups' cost curves.

    Attributes:
        align: widths are multiples of this, where a group is at least that wide.
        stride: the largest share of the budget's total that is spent between two evaluations of what
            a channel saves.
    """

    align: int = 1
    stride: float = 0.002

    def __call__(self, channels: Channels, scores: Scores, budget: Budget) -> Selection:
        order = {name: np.argsort(values, kind="stable")[::-1] for name, values in scores.values.items()}
        curves = {name: _curve(values, scores.curves.get(name)) for name, values in scores.values.items()}
        if budget.kind == "ratio":
            total = sum(len(o) for o in order.values())
            goal = 1 - budget.value

            def share(width: Mapping[str, int]) -> float:
                return sum(width.values()) / max(total, 1)
        else:
            goal = budget.value

            def share(width: Mapping[str, int]) -> float:
                return budget.share(_selection(order, width))

        least = {name: min(self.align, len(o)) for name, o in order.items()}
        smallest = share(least)
        if smallest > goal + 1e-12:
            raise unreachable(budget, smallest)
        width = self._descend({name: len(o) for name, o in order.items()}, least, curves, share, goal)
        if budget.kind == "ratio":
            return _selection(order, width)
        return fill_up(_selection(order, width), order, budget)

    def _descend(self, width: dict[str, int], least, curves, share, goal: float) -> dict[str, int]:
        now = share(width)
        while now > goal + 1e-12:
            saved = {}
            for name in width:
                step = self._step(width[name], least[name])
                if step:
                    saved[name] = (now - share(width | {name: width[name] - step})) / step
            budget_left = min(self.stride, now - goal)
            spent = 0.0
            while spent < budget_left:
                best, price = None, np.inf
                for name, gain in saved.items():
                    step = self._best_step(width[name], least[name], curves[name])
                    if step and gain > 0:
                        cost = (curves[name][width[name] - step - 1] - curves[name][width[name] - 1]) / (
                            gain * step
                        )
                        if cost < price:
                            best, price, best_step = name, cost, step
                if best is None:
                    # Nothing saves anything any more on its own: take what is left at once.
                    return dict(least)
                width[best] -= best_step
                spent += saved[best] * best_step
            now = share(width)
        return width

    def _step(self, width: int, least: int) -> int:
        if width <= least:
            return 0
        return (
            min((width - 1) % self.align + 1, width - least)
            if width % self.align
            else min(self.align, width - least)
        )

    def _best_step(self, width: int, least: int, curve: np.ndarray) -> int:
        return self._step(width, least)


def _curve(values: np.ndarray, curve: np.ndarray | None) -> np.ndarray:
    """The cost of keeping 1..C channels; made up from the scores where the criterion gives none."""
    if curve is not None:
        return curve
    ordered = np.sort(values)
    gone = np.concatenate([[0.0], np.cumsum(ordered)[:-1]]) / max(ordered.sum(), 1e-30)
    return gone[::-1]


def _selection(order: Mapping[str, np.ndarray], width: Mapping[str, int]) -> Selection:
    return Selection({name: np.sort(order[name][:count]) for name, count in width.items()})

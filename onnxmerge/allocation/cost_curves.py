"""Widths from cost curves: the budget is taken where a unit of it costs the least error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from onnxmerge.allocation.met import unreachable
from onnxmerge.channels import Channels
from onnxmerge.plan import Budget, Scores, Selection

Widths = dict[str, int]
Share = Callable[[Widths], float]
# Rounding of shares that were summed in another order.
_EXACT = 1e-12


@dataclass(frozen=True)
class CostCurves:
    """Greedy descent along the convex hulls of the groups' cost curves.

    What a channel saves is measured at the present widths of all groups, with the budget's own function.

    Attributes:
        align: widths are multiples of this in groups that are at least that wide; under a ``ratio``
            nothing is aligned.
        stride: how much of the model's total is spent between two measurements of what channels save.
    """

    align: int = 1
    stride: float = 0.005

    def __call__(self, channels: Channels, scores: Scores, budget: Budget) -> Selection:
        order = {name: np.argsort(values, kind="stable")[::-1] for name, values in scores.values.items()}
        curves = {name: _curve(values, scores.curves.get(name)) for name, values in scores.values.items()}
        full = {name: len(index) for name, index in order.items()}
        if budget.kind == "ratio":
            align, goal = 1, 1 - budget.value
            share: Share = _Count(full)
        else:
            align, goal = self.align, budget.value
            share = _Measured(order, budget)
        ladders = {name: _ladder(count, align) for name, count in full.items()}
        smallest = share({name: int(ladder[0]) for name, ladder in ladders.items()})
        if smallest > goal + _EXACT:
            raise unreachable(budget, smallest)
        descent = _Descent(curves, ladders, share, goal)
        widths = descent.give_back(descent.run(full, self.stride))
        return Selection({name: np.sort(order[name][:count]) for name, count in widths.items()})


@dataclass(frozen=True, eq=False)
class _Count:
    """The share of all channels that some widths keep."""

    full: Widths

    def __call__(self, widths: Widths) -> float:
        return sum(widths.values()) / max(sum(self.full.values()), 1)


@dataclass(frozen=True, eq=False)
class _Measured:
    """The share of a budget that some widths keep."""

    order: Mapping[str, np.ndarray]
    budget: Budget

    def __call__(self, widths: Widths) -> float:
        assert self.budget.share is not None
        return self.budget.share(
            Selection({name: np.sort(self.order[name][:count]) for name, count in widths.items()})
        )


class _Descent:
    """Widths on their way down to the goal; every group moves along its ladder of allowed widths."""

    def __init__(self, curves: Mapping[str, np.ndarray], ladders, share: Share, goal: float):
        self._ladders, self._share, self._goal = ladders, share, goal
        self._hulls = {name: _convex(ladders[name], curves[name][ladders[name] - 1]) for name in curves}

    def run(self, widths: Widths, stride: float) -> Widths:
        """Step down, the cheapest step first, until the goal is met."""
        rung = {name: len(self._ladders[name]) - 1 for name in widths}
        now = self._share(widths)
        while now > self._goal + _EXACT:
            saves = {
                name: (now - self._share(self._at(rung | {name: r - 1}))) / self._size(name, r)
                for name, r in rung.items()
                if r > 0
            }
            allowance = min(stride, now - self._goal)
            while allowance > 0:
                prices = {
                    name: self._price(name, rung[name]) / saved
                    for name, saved in saves.items()
                    if saved > 0 and rung[name] > 0
                }
                if not prices:
                    # Nothing saves anything on its own any more: only all groups together do.
                    return self._at(dict.fromkeys(rung, 0))
                best = min(prices, key=prices.__getitem__)
                allowance -= saves[best] * self._size(best, rung[best])
                rung[best] -= 1
            now = self._share(self._at(rung))
        return self._at(rung)

    def give_back(self, widths: Widths) -> Widths:
        """Step up again, what is worth most first, while anything fits."""
        rung = {name: int(np.searchsorted(self._ladders[name], count)) for name, count in widths.items()}
        open_names = {name for name, r in rung.items() if r < len(self._ladders[name]) - 1}
        while open_names:
            fits = {
                name
                for name in open_names
                if self._share(self._at(rung | {name: rung[name] + 1})) <= self._goal + _EXACT
            }
            if not fits:
                break
            best = max(sorted(fits), key=lambda name: self._price(name, rung[name] + 1))
            rung[best] += 1
            open_names = {name for name in fits if rung[name] < len(self._ladders[name]) - 1}
        return self._at(rung)

    def _at(self, rung: Mapping[str, int]) -> Widths:
        return {name: int(self._ladders[name][r]) for name, r in rung.items()}

    def _size(self, name: str, rung: int) -> int:
        return int(self._ladders[name][rung] - self._ladders[name][rung - 1])

    def _price(self, name: str, rung: int) -> float:
        """The error per channel of the step down from a rung."""
        hull = self._hulls[name]
        return (hull[rung - 1] - hull[rung]) / self._size(name, rung)


def _ladder(count: int, align: int) -> np.ndarray:
    """The widths that a group may have, ascending: multiples of ``align``, and all of it."""
    steps = np.arange(align, count + 1, align)
    return np.unique(np.append(steps, count))


def _convex(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The lower convex hull of points, at the same x; float64 [n]."""
    hull: list[int] = []
    for i in range(len(x)):
        while len(hull) > 1:
            a, b = hull[-2:]
            if (y[b] - y[a]) * (x[i] - x[a]) < (y[i] - y[a]) * (x[b] - x[a]):
                break
            hull.pop()
        hull.append(i)
    return np.interp(x, x[hull], y[hull])


def _curve(values: np.ndarray, curve: np.ndarray | None) -> np.ndarray:
    """The cost of keeping 1..C channels; made up from the scores where the criterion gives none."""
    if curve is not None:
        return curve
    ordered = np.sort(values)
    gone = np.concatenate([[0.0], np.cumsum(ordered)[:-1]]) / max(ordered.sum(), 1e-30)
    return gone[::-1]

"""Widths from cost curves: the budget is taken where a unit of it costs the least error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from onnxmerge.allocation.alignment import Alignment
from onnxmerge.allocation.cost import Cost, Rungs
from onnxmerge.allocation.met import at_most, unreachable, widths
from onnxmerge.channels import Channels
from onnxmerge.plan import Budget, Scores, Selection

# Rounding of shares that were summed in another order.
_EXACT = 1e-12


@dataclass(frozen=True)
class CostCurves:
    """Greedy descent along the convex hulls of the groups' cost curves.

    What a narrower group saves is measured at the present widths of all groups, with the budget's own
    function. Steps of several rungs are compared too: where the cost is a staircase, one alone may
    save nothing.

    Attributes:
        alignment: the widths that groups may have; under a ``ratio`` nothing is aligned.
        stride: how much of the model's total is spent between two measurements of what steps save.
    """

    alignment: Alignment = field(default_factory=Alignment)
    stride: float = 0.005

    def __call__(self, channels: Channels, scores: Scores, budget: Budget) -> Selection:
        order = {name: np.argsort(values, kind="stable")[::-1] for name, values in scores.values.items()}
        curves = {name: _curve(values, scores.curves.get(name)) for name, values in scores.values.items()}
        if budget.kind == "ratio":
            ladders = Alignment().ladders(channels)
            cost, goal = Cost.of_channels(ladders), 1 - budget.value
        else:
            ladders = self.alignment.ladders(channels)
            cost, goal = Cost.of_axes(channels, order, ladders, budget), budget.value
        smallest = cost(dict.fromkeys(order, 0))
        if smallest > goal + _EXACT:
            raise unreachable(budget, smallest)
        descent = _Descent(curves, ladders, cost, goal)
        chosen = widths(order, ladders, descent.give_back(descent.run(self.stride)))
        if budget.kind not in ("macs", "params") or self.alignment.least is None:
            return chosen
        # What the coarse steps leave of the budget goes to finer ones: it was given to be used.
        finer = Alignment(self.alignment.least).ladders(channels)
        cost = Cost.of_axes(channels, order, finer, budget)
        rung = {name: at_most(finer[name], len(keep)) for name, keep in chosen.keep.items()}
        return widths(order, finer, _Descent(curves, finer, cost, goal).give_back(rung))


class _Descent:
    """Widths on their way down to the goal; every group moves along its ladder of allowed widths."""

    def __init__(self, curves: Mapping[str, np.ndarray], ladders, cost: Cost, goal: float):
        self._ladders, self._cost, self._goal = ladders, cost, goal
        self._hulls = {name: _convex(ladders[name], curves[name][ladders[name] - 1]) for name in curves}

    def run(self, stride: float) -> Rungs:
        """Step down, the cheapest step first, until the goal is met."""
        rung = {name: len(ladder) - 1 for name, ladder in self._ladders.items()}
        now = self._cost(rung)
        while now > self._goal + _EXACT:
            saved = self._savings(rung, now)
            offers = {name: self._offer(name, rung[name], saved[name]) for name in rung}
            allowance = min(stride, now - self._goal)
            while allowance > 0:
                best = min(offers, key=lambda name: offers[name][0], default=None)
                if best is None or np.isinf(offers[best][0]):
                    break
                before, rung[best] = rung[best], offers[best][1]
                allowance -= saved[best][rung[best]] - saved[best].get(before, 0.0)
                offers[best] = self._offer(best, rung[best], saved[best])
            if allowance == min(stride, now - self._goal):
                # Nothing saves anything on its own any more: only all groups together do.
                return dict.fromkeys(rung, 0)
            now = self._cost(rung)
        return rung

    def give_back(self, rung: Rungs) -> Rungs:
        """Step up again, what is worth most first, while anything fits."""
        rung = dict(rung)
        open_names = [name for name in sorted(rung) if rung[name] < len(self._ladders[name]) - 1]
        while open_names:
            shares = self._cost.each(rung, [(name, rung[name] + 1) for name in open_names])
            fits = [n for n, share in zip(open_names, shares, strict=True) if share <= self._goal + _EXACT]
            if not fits:
                break
            best = max(fits, key=lambda name: self._price(name, rung[name] + 1))
            rung[best] += 1
            open_names = [name for name in fits if rung[name] < len(self._ladders[name]) - 1]
        return rung

    def _savings(self, rung: Rungs, now: float) -> dict[str, dict[int, float]]:
        """What each group saves by stepping down to each of some lower rungs, ever farther apart."""
        steps = [(name, r - 2**k) for name, r in rung.items() for k in range(r.bit_length()) if r - 2**k >= 0]
        saved: dict[str, dict[int, float]] = {name: {} for name in rung}
        for (name, r), share in zip(steps, self._cost.each(rung, steps), strict=True):
            saved[name][r] = now - float(share)
        return saved

    def _offer(self, name: str, rung: int, saved: Mapping[int, float]) -> tuple[float, int]:
        """The least error per share saved by a step down from a rung, and the rung that it leads to."""
        hull = self._hulls[name]
        already = saved.get(rung, 0.0)
        prices = [
            ((hull[r] - hull[rung]) / (s - already), r)
            for r, s in saved.items()
            if r < rung and s - already > _EXACT
        ]
        return min(prices, default=(np.inf, rung))

    def _price(self, name: str, rung: int) -> float:
        """The error per channel of the step down from a rung."""
        hull, ladder = self._hulls[name], self._ladders[name]
        return (hull[rung - 1] - hull[rung]) / (ladder[rung] - ladder[rung - 1])


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

"""Widths from cost curves: the budget is taken where a unit of it costs the least error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from onnxmerge.allocation.alignment import Alignment
from onnxmerge.allocation.budget import Budget
from onnxmerge.allocation.cost import Cost, Ladders, Rungs
from onnxmerge.allocation.met import at_most, unreachable, widths
from onnxmerge.channels import Channels
from onnxmerge.channels.depth import Depth
from onnxmerge.plan import Scores, Selection

# Rounding of shares that were summed in another order.
_EXACT = 1e-12


@dataclass(frozen=True)
class Weighing:
    """What the measured costs count where they are compared: other weights give widths of another shape.

    A cost is the error of one consumer before later layers repair it. How much they repair is not known
    beforehand: in a ResNet-20 and a ResNet-56, groups alone, between 70 and 99% of it, most of what the
    first layers lose; of many groups together less.

    Attributes:
        gone: what doing without a group counts of its cost.
        first: what costs count in the first layer; the last one's count whole, those between in proportion
            to their place.
        depth: whether groups may go.
        measured: whether costs count what they were measured to be at the outputs, where they were.
    """

    gone: float = 1.0
    first: float = 1.0
    depth: bool = True
    measured: bool = True


# The shape that differs from the usual one where costs were measured at the outputs, and nowhere else.
BY_LAYER = "by layer"
# The shapes worth trying, the usual one first; chosen on training images. In time, a layer that is gone saves
# more than its multiplications, and later layers repair more of it than of narrow groups. KL divergence of
# the answers at these weights or ones close to them: ResNet-56 at 0.6 of the time 0.057, 0.032, 0.107, 0.028
# (fitted to 86 samples); ResNet-20 at 0.6 0.46, 0.46, 0.31, 0.55, and 1.76 without depth (to 345);
# MobileNetV2 at 0.8, on 32 images, 0.09, 0.09, 0.6, 0.2: there no layer goes in the first two.
_IN_TIME = {
    "mixed": Weighing(gone=0.7),
    "first layers": Weighing(gone=0.7, first=0.3),
    "more depth": Weighing(gone=0.3),
    "more depth, first layers": Weighing(gone=0.4, first=0.1),
    "no depth": Weighing(depth=False),
    BY_LAYER: Weighing(gone=0.7, measured=False),
}
# At half the multiplications of a ResNet-56 the first two reach 0.022 and 0.019, at 0.6 of a ResNet-20's 0.20
# and 0.19.
_IN_SIZE = {
    "mixed": Weighing(),
    "first layers": Weighing(first=0.3),
    "no depth": Weighing(depth=False),
    BY_LAYER: Weighing(measured=False),
}


@dataclass(frozen=True)
class CostCurves:
    """Greedy descent along the convex hulls of the groups' cost curves.

    What a narrower group saves is measured at the present widths of all groups, with the budget's own
    function. Steps of several rungs are compared too: where the cost is a staircase, one alone may
    save nothing.

    Attributes:
        alignment: the widths that groups may have; under a ``ratio`` nothing is aligned.
        stride: how much of the model's total is spent between two measurements of what steps save.
        weighing: what the costs count.
    """

    alignment: Alignment = field(default_factory=Alignment)
    stride: float = 0.005
    weighing: Weighing = field(default_factory=Weighing)

    @property
    def empties(self) -> bool:
        return self.weighing.depth

    def shapes(self, kind: str) -> dict[str, CostCurves]:
        """The same with every weighing worth trying for a kind of budget, the usual one first."""
        weighings = {"ratio": {"mixed": Weighing()}, "latency": _IN_TIME}.get(kind, _IN_SIZE)
        return {name: replace(self, weighing=weighing) for name, weighing in weighings.items()}

    def __call__(self, channels: Channels, scores: Scores, budget: Budget) -> Selection:
        order = scores.best_first()
        weighing = self.weighing
        place = _places(channels) if weighing.first != 1.0 else {}
        curves = {}
        for name, values in scores.values.items():
            curve = _curve(values, scores.curves.get(name))
            weight = weighing.first + (1.0 - weighing.first) * place.get(name, 1.0)
            weight *= scores.measured.get(name, 1.0) if weighing.measured else 1.0
            curves[name] = weight * np.append(weighing.gone * curve[0], curve[1:])
        if budget.kind == "ratio":
            ladders = Alignment().ladders(channels)
            cost, goal = Cost.of_channels(ladders), 1 - budget.value
        else:
            ladders = with_none(self.alignment.ladders(channels), budget.depth)
            cost, goal = Cost.of_axes(channels, order, ladders, budget), budget.value
        descent = _Descent(curves, ladders, cost, goal, budget.depth)
        smallest = cost(descent.lowest())
        if smallest > goal + _EXACT:
            raise unreachable(budget, smallest)
        chosen = widths(order, ladders, descent.give_back(descent.run(self.stride)))
        if budget.kind not in ("macs", "params") or self.alignment.least is None:
            return chosen
        # What the coarse steps leave of the budget goes to finer ones: it was given to be used.
        finer = Alignment(self.alignment.least).ladders(channels)
        gone = {name: np.zeros(1, dtype=np.int64) for name, keep in chosen.keep.items() if not len(keep)}
        finer = {**finer, **gone}
        cost = Cost.of_axes(channels, order, finer, budget)
        rung = {name: at_most(finer[name], len(keep)) for name, keep in chosen.keep.items()}
        return widths(order, finer, _Descent(curves, finer, cost, goal).give_back(rung))


def with_none(ladders: Ladders, depth: Depth | None) -> Ladders:
    """Ladders that begin with no channel at all, for groups that may go."""
    if depth is None:
        return ladders
    may_go = set(depth.names)
    return {
        name: np.concatenate([[0], ladder]) if name in may_go else ladder for name, ladder in ladders.items()
    }


def _places(channels: Channels) -> dict[str, float]:
    """Where the last layer that reads a group stands among all layers, by name: above 0, and 1 at the end."""
    readers = [(node.index, channels.of(contract.data)) for node, contract in channels.contracts()]
    rank = {index: number for number, index in enumerate(sorted({index for index, _ in readers}), 1)}
    found: dict[str, float] = {}
    for index, read in readers:
        for number in np.unique(channels.group_of[read]):
            if number >= 0:
                found[channels.groups[number].name] = rank[index] / len(rank)
    return found


class _Descent:
    """Widths on their way down to the goal; every group moves along its ladder of allowed widths."""

    def __init__(
        self,
        curves: Mapping[str, np.ndarray],
        ladders: Ladders,
        cost: Cost,
        goal: float,
        depth: Depth | None = None,
    ):
        self._ladders, self._cost, self._goal, self._depth = ladders, cost, goal, depth
        self._hulls = {name: _convex(ladders[name], curves[name][ladders[name]]) for name in curves}

    def lowest(self) -> Rungs:
        """The lowest rung of every group, as far as those that may go can go together."""
        may_go = [name for name, ladder in self._ladders.items() if ladder[0] == 0]
        gone = set(self._depth.most(may_go)) if self._depth is not None else set()
        return {name: int(name in may_go and name not in gone) for name in self._ladders}

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
                before, to = rung[best], offers[best][1]
                if self._is_none(best, to) and not self._may_go(rung, best):
                    del saved[best][to]
                else:
                    rung[best] = to
                    allowance -= saved[best][to] - saved[best].get(before, 0.0)
                    if self._is_none(best, to):
                        self._follow(rung)
                        break  # what others save may have changed
                offers[best] = self._offer(best, rung[best], saved[best])
            if allowance == min(stride, now - self._goal):
                # Nothing saves anything on its own any more: only all groups together do.
                return self.lowest()
            now = self._cost(rung)
        return rung

    def _is_none(self, name: str, rung: int) -> bool:
        return bool(self._ladders[name][rung] == 0)

    def _gone(self, rung: Rungs) -> list[str]:
        return [name for name, r in rung.items() if self._is_none(name, r)]

    def _may_go(self, rung: Rungs, name: str) -> bool:
        """Whether a group may go where others have gone already."""
        return self._depth is not None and self._depth.together([*self._gone(rung), name])

    def _unread(self, rung: Rungs) -> set[str]:
        """The groups that nothing would read if they came back."""
        gone = self._gone(rung)
        if self._depth is None:
            return set(gone)
        return {n for n in gone if n in self._depth.followers([other for other in gone if other != n])}

    def _follow(self, rung: Rungs) -> None:
        """Take out what nothing reads any more."""
        assert self._depth is not None, "only depth empties groups"
        for name in sorted(self._depth.followers(self._gone(rung))):
            if self._ladders[name][0] == 0 and self._may_go(rung, name):
                rung[name] = 0

    def give_back(self, rung: Rungs) -> Rungs:
        """Step up again, what is worth most first, while anything fits."""
        rung = dict(rung)
        unread = self._unread(rung)
        open_names = [
            name for name in sorted(rung) if rung[name] < len(self._ladders[name]) - 1 and name not in unread
        ]
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
        steps = [(name, to) for name, r in rung.items() for to in self._lower(name, r)]
        saved: dict[str, dict[int, float]] = {name: {} for name in rung}
        for (name, r), share in zip(steps, self._cost.each(rung, steps), strict=True):
            saved[name][r] = now - float(share)
        return saved

    def _lower(self, name: str, rung: int) -> set[int]:
        """Rungs ever farther below one, and that of no channel."""
        found = {rung - 2**k for k in range(rung.bit_length()) if rung - 2**k >= 0}
        return found | {0} if rung and self._is_none(name, 0) else found

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
    """The cost of keeping 0..C channels; made up from the scores where the criterion gives none."""
    if curve is not None:
        return curve
    ordered = np.sort(values)
    gone = np.concatenate([[0.0], np.cumsum(ordered)]) / max(ordered.sum(), 1e-30)
    return gone[::-1]

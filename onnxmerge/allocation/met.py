"""When a budget is met: at most the share, and no channel could be given back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from onnxmerge.allocation.alignment import Alignment
from onnxmerge.allocation.budget import Budget
from onnxmerge.channels import Channels
from onnxmerge.channels.cost import kept_lengths, removed_channels
from onnxmerge.errors import BudgetError
from onnxmerge.plan import Selection

# A budget is used up when no more than this share of the model is left of it.
SLACK = 0.02

_NAMES = {
    "macs": "multiplications (MACs)",
    "params": "parameters",
    "latency": "time (as the latency table predicts it)",
}


def unreachable(budget: Budget, smallest: float) -> BudgetError:
    """The error for a budget below what removing everything removable leaves."""
    return BudgetError(
        f"cannot keep only {budget.value:.4g} of the {_NAMES[budget.kind]}: "
        f"with every group at its smallest width {smallest:.4g} remain; ask for at least that"
    )


def share(channels: Channels, selection: Selection, budget: Budget) -> float:
    """What a selection keeps of what the budget counts."""
    assert budget.share is not None, "a ratio counts channels, and nothing else"
    return float(budget.share(kept_lengths(channels, removed_channels(channels, selection.keep))))


def fill_up(
    channels: Channels,
    selection: Selection,
    order: Mapping[str, np.ndarray],
    ladders: Mapping[str, np.ndarray],
    budget: Budget,
) -> Selection:
    """Give channels back, the cheapest step first, until none fits into the budget any more.

    Args:
        order: per group all channels, best first; what comes back is the best that is not kept.
        ladders: per group the widths that it may have, ascending.
    """
    rung = {name: int(np.searchsorted(ladders[name], len(index))) for name, index in selection.keep.items()}
    open_groups = {name for name in rung if rung[name] + 1 < len(ladders[name])}
    while open_groups:
        shares = {
            name: share(channels, widths(order, ladders, rung | {name: rung[name] + 1}), budget)
            for name in open_groups
        }
        name = min(shares, key=lambda n: (shares[n], n))
        if shares[name] > budget.value:
            break
        rung[name] += 1
        open_groups = {n for n in open_groups if shares[n] <= budget.value and rung[n] + 1 < len(ladders[n])}
    return widths(order, ladders, rung)


def top_up(
    channels: Channels,
    selection: Selection,
    order: Mapping[str, np.ndarray],
    alignment: Alignment,
    budget: Budget,
) -> Selection:
    """Widen groups in finer steps, where coarse ones leave more of the budget than ``SLACK``.

    As few groups as possible leave the coarse widths, and in steps that are as coarse as possible: each
    time the one that comes closest to the budget. Where single channels are too much, one group gets one
    and another gives up some.

    Args:
        order: per group all channels, best first.
        alignment: what the selection is aligned to.
    """

    def used_up(found: Selection) -> bool:
        return share(channels, found, budget) >= budget.value - SLACK

    step = alignment.step
    while not used_up(selection):
        step = max(step // 2, 1)
        every = Alignment(step).ladders(channels)
        # What is gone stays gone.
        ladders = {name: ladder for name, ladder in every.items() if len(selection.keep[name])}
        changes = _Changes(channels, order, ladders, budget)
        for offers in (changes.wider, changes.exchanged) if step == 1 else (changes.wider,):
            while not used_up(selection) and (found := changes.closest(offers(selection), selection)):
                selection = found
        if step == 1:
            break
    return selection


@dataclass(frozen=True, eq=False)
class _Changes:
    """Changes of a selection within a budget, along ladders of allowed widths."""

    channels: Channels
    order: Mapping[str, np.ndarray]
    ladders: Mapping[str, np.ndarray]
    budget: Budget

    def closest(self, offers: Iterable[Selection], now: Selection) -> Selection | None:
        """The offer that leaves the least of the budget, if that is less than now."""
        best, most = None, share(self.channels, now, self.budget)
        for offer in offers:
            if (found := share(self.channels, offer, self.budget)) > most:
                best, most = offer, found
        return best

    def wider(self, now: Selection) -> Iterator[Selection]:
        """One group as wide as the budget allows."""
        for name, ladder in self.ladders.items():
            yield from self._widest(now, name, ladder[ladder > len(now.keep[name])])

    def exchanged(self, now: Selection) -> Iterator[Selection]:
        """One group a step wider, and another one as wide as the budget then allows."""
        for name, ladder in self.ladders.items():
            for width in ladder[ladder > len(now.keep[name])][:1]:
                grown = self._at(now, name, width)
                for other, rungs in self.ladders.items():
                    if other != name:
                        yield from self._widest(grown, other, rungs[rungs < len(now.keep[other])])

    def _widest(self, now: Selection, name: str, rungs: np.ndarray) -> list[Selection]:
        """The selection with one group at the largest of these widths that the budget allows, if any."""
        low, high = 0, len(rungs)
        while low < high:
            middle = (low + high) // 2
            if share(self.channels, self._at(now, name, rungs[middle]), self.budget) <= self.budget.value:
                low = middle + 1
            else:
                high = middle
        return [self._at(now, name, rungs[low - 1])] if low else []

    def _at(self, now: Selection, name: str, width: int) -> Selection:
        return Selection({**now.keep, name: np.sort(self.order[name][:width])})


def next_wider(
    channels: Channels, selection: Selection, ladders: Mapping[str, np.ndarray], budget: Budget
) -> tuple[str, float] | None:
    """The group whose next step up costs the least, and the share that is kept then; None: all are whole."""
    shares = {}
    for name, keep in selection.keep.items():
        rungs = ladders[name][ladders[name] > len(keep)]
        if len(keep) and len(rungs):
            missing = np.setdiff1d(np.arange(ladders[name][-1]), keep)
            more = np.concatenate([keep, missing[: rungs[0] - len(keep)]])
            shares[name] = share(channels, Selection({**selection.keep, name: more}), budget)
    return min(shares.items(), key=lambda item: (item[1], item[0]), default=None)


def widths(
    order: Mapping[str, np.ndarray], ladders: Mapping[str, np.ndarray], rung: Mapping[str, int]
) -> Selection:
    """The best channels of every group at a rung of its ladder."""
    return Selection({name: np.sort(order[name][: ladders[name][r]]) for name, r in rung.items()})


def at_most(ladder: np.ndarray, count: int) -> int:
    """The rung of the largest allowed width that is not above ``count``; the first where all are."""
    return max(int(np.searchsorted(ladder, count, side="right")) - 1, 0)

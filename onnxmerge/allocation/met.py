"""When a budget is met: at most the share, and no channel could be given back."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxmerge.channels import Channels
from onnxmerge.channels.cost import kept_lengths, removed_channels
from onnxmerge.errors import BudgetError
from onnxmerge.plan import Budget, Selection

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


def widths(
    order: Mapping[str, np.ndarray], ladders: Mapping[str, np.ndarray], rung: Mapping[str, int]
) -> Selection:
    """The best channels of every group at a rung of its ladder."""
    return Selection({name: np.sort(order[name][: ladders[name][r]]) for name, r in rung.items()})


def at_most(ladder: np.ndarray, count: int) -> int:
    """The rung of the largest allowed width that is not above ``count``; the first where all are."""
    return max(int(np.searchsorted(ladder, count, side="right")) - 1, 0)

"""When a budget is met: at most the share, and no channel could be given back."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

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


def fill_up(selection: Selection, order: Mapping[str, np.ndarray], budget: Budget) -> Selection:
    """Give channels back, the cheapest step first, until none fits into the budget any more.

    Args:
        order: per group all channels, best first; a step is the best channel that is not kept.
    """
    assert budget.share is not None
    keep = {name: len(index) for name, index in selection.keep.items()}
    open_groups = {name for name in keep if keep[name] < len(order[name])}
    while open_groups:
        shares = {}
        for name in open_groups:
            shares[name] = budget.share(_selection(order, keep | {name: keep[name] + 1}))
        name = min(shares, key=lambda n: (shares[n], n))
        if shares[name] > budget.value:
            break
        keep[name] += 1
        open_groups = {n for n in open_groups if shares[n] <= budget.value and keep[n] < len(order[n])}
    return _selection(order, keep)


def _selection(order: Mapping[str, np.ndarray], keep: Mapping[str, int]) -> Selection:
    return Selection({name: np.sort(order[name][:count]) for name, count in keep.items()})

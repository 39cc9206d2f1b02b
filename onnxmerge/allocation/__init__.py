"""From scores and a budget to the channels that stay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from onnxmerge.allocation.alignment import Alignment
from onnxmerge.allocation.budget import Budget
from onnxmerge.allocation.cost_curves import BY_LAYER, CostCurves
from onnxmerge.allocation.met import SLACK, next_wider, share, top_up
from onnxmerge.allocation.threshold import Global
from onnxmerge.allocation.uniform import Uniform
from onnxmerge.channels import Channels
from onnxmerge.plan import Scores, Selection


class Allocator(Protocol):
    """Chooses the channels of every group so that the budget is met.

    ``empties`` says whether it leaves groups without a channel where the budget's depth allows it.
    ``shapes`` are variants, by name, that divide a kind of budget otherwise between groups: close on paper,
    and far apart in fact. The usual one is the first.

    Raises:
        BudgetError: the budget cannot be met; the message says what is reachable.
    """

    @property
    def empties(self) -> bool: ...

    def shapes(self, kind: str) -> Mapping[str, Allocator]: ...

    def __call__(self, channels: Channels, scores: Scores, budget: Budget) -> Selection: ...


ALLOCATIONS: dict[str, type[CostCurves] | type[Uniform] | type[Global]] = {
    "curves": CostCurves,
    "uniform": Uniform,
    "global": Global,
}

__all__ = [
    "ALLOCATIONS",
    "BY_LAYER",
    "SLACK",
    "Alignment",
    "Allocator",
    "CostCurves",
    "Global",
    "Uniform",
    "next_wider",
    "share",
    "top_up",
]

"""Budgets that are met by trying: a tolerance of the answers, and a share of the measured time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onnxmerge.clock import Progress
from onnxmerge.errors import BudgetError
from onnxmerge.plan import Selection
from onnxmerge.recipe import Candidate, Recipe
from onnxmerge.validation import Parity

# Halving the interval of kept MACs this often leaves steps of about one percent.
STEPS = 7


@dataclass(frozen=True, eq=False)
class Found:
    """The result of a search: the share of MACs kept and the change measured there on held-out data."""

    share: float
    candidate: Candidate
    parity: Parity


def search(
    recipe: Recipe,
    measure: Callable[[Candidate], Parity],
    tolerance: float,
    progress: Progress,
) -> Found | None:
    """Bisect over the share of MACs that is kept; None where nothing can be removed within the tolerance.

    The change is taken to grow as the share falls; where it does not, what is returned still is within
    the tolerance, for every candidate is measured.

    Args:
        measure: the change of a candidate on data that did not make it.
    """
    low, high = recipe.smallest("macs"), 1.0
    best: Found | None = None
    if not recipe.subject.channels.groups or low >= 1.0:
        return None
    for step in range(STEPS):
        progress("search", step, STEPS)
        share = (low + high) / 2
        candidate = recipe.at("macs", share)
        parity = measure(candidate)
        if parity.change <= tolerance:
            best, high = Found(share, candidate, parity), share
        else:
            low = share
    return best


# Predictions are off by some percent, and what is measured says by how much.
ATTEMPTS = 8
# A measured share this close below the goal is not improved any more, and this close above it will do
# where nothing is faster.
CLOSE = 0.02


def within_latency(
    recipe: Recipe,
    measure: Callable[[Candidate], float],
    goal: float,
    progress: Progress,
) -> Selection:
    """The widest channels whose measured share of the input model's time is at most the goal.

    Widths alone decide the time, so what is measured is cut and not compensated yet.

    Args:
        measure: the measured share of a candidate, interleaved with the input model.

    Raises:
        BudgetError: what is fastest takes longer.
    """
    low, high = recipe.smallest("latency"), 1.0
    best: Selection | None = None
    fastest = Selection({})
    least = float("inf")
    seen: dict[tuple[tuple[str, int], ...], float] = {}
    aim, reached = min(max(goal, low), high), 0.0
    for attempt in range(ATTEMPTS):
        progress("latency", attempt, ATTEMPTS)
        selection = recipe.select("latency", aim)
        widths = tuple((name, len(keep)) for name, keep in selection.keep.items())
        if widths not in seen:
            seen[widths] = measure(recipe.cut(selection))
        measured = seen[widths]
        if measured < least:
            fastest, least = selection, measured
        if reached < measured <= goal:
            best, reached = selection, measured
        if measured <= goal:
            low = aim
        else:
            high = aim
        if goal - CLOSE <= measured <= goal or high - low < 1e-3:
            break
        aim = min(max(aim * (goal - CLOSE / 2) / measured, low), high)
        if best is None and attempt == ATTEMPTS - 2:
            aim = low
        elif aim in (low, high) and attempt:
            aim = (low + high) / 2
    if best is None and least > goal + CLOSE:
        raise BudgetError(
            f"cannot keep only {goal:.4g} of the time: with the fastest widths that were tried "
            f"{least:.3g} of it was measured on this machine; ask for at least that"
        )
    return best or fastest

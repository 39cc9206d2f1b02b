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
ATTEMPTS = 10
# After so many that were too slow the smallest widths show whether the goal can be reached at all.
PATIENCE = 3
# A measured share this close below the goal is not improved any more, and this close above it will do
# where nothing is faster, or only what is far below the goal.
CLOSE, FAR = 0.02, 0.05
# Times of one model in two sessions differ by some percent, more on several threads. A share within this
# share of the goal, from which the next step would draw the wrong conclusion, is measured twice.
DOUBTFUL = 0.08


@dataclass(frozen=True, eq=False)
class _Try:
    """Widths that were asked to take a share of the time, and the share that they took."""

    aim: float
    selection: Selection
    measured: float


def within_latency(
    recipe: Recipe,
    measure: Callable[[Candidate], float],
    goal: float,
    progress: Progress,
) -> Selection:
    """The widest channels whose measured share of the input model's time is at most the goal.

    Or a little above it, where all that is below is far below. Widths alone decide the time, so what is
    measured is cut and not compensated yet.

    Args:
        measure: the measured share of a candidate, interleaved with the input model.

    Raises:
        BudgetError: what is fastest takes longer.
    """
    smallest = recipe.smallest("latency")
    aim = max(goal, smallest)
    fast: _Try | None = None
    slow: list[_Try] = []
    seen: dict[tuple[tuple[str, int], ...], float] = {}
    for attempt in range(ATTEMPTS):
        progress("latency", attempt, ATTEMPTS)
        selection = recipe.select("latency", aim)
        widths = tuple((name, len(keep)) for name, keep in selection.keep.items())
        if widths not in seen:
            seen[widths] = _settled(measure, recipe.cut(selection), goal)
        tried = _Try(aim, selection, seen[widths])
        if tried.measured > goal:
            slow.append(tried)
        elif fast is None or tried.measured > fast.measured:
            fast = tried
        reached = fast is not None and (fast.measured >= goal - CLOSE or fast.aim >= 1)
        hopeless = fast is None and aim <= smallest
        if reached or hopeless:
            break
        aim = _next_aim(goal - CLOSE / 2, fast, slow, smallest)
    near = min(slow, key=lambda one: one.measured, default=None)
    if near is not None and near.measured <= goal + CLOSE and (fast is None or fast.measured < goal - FAR):
        return near.selection
    if fast is not None:
        return fast.selection
    assert near is not None, "what is tried is fast or slow"
    raise BudgetError(
        f"cannot keep only {goal:.4g} of the time: with the fastest widths that were tried "
        f"{near.measured:.3g} of it was measured on this machine; ask for at least that"
    )


def _settled(measure: Callable[[Candidate], float], candidate: Candidate, goal: float) -> float:
    """The measured share of a candidate; near the goal, where noise would decide, the mean of two."""
    share = measure(candidate)
    return share if abs(share - goal) > DOUBTFUL * goal else (share + measure(candidate)) / 2


def _next_aim(target: float, fast: _Try | None, slow: list[_Try], smallest: float) -> float:
    """What to ask the table for next: between what was fast enough and what was not, where both are known."""
    if fast is None:
        last = slow[-1]
        return smallest if len(slow) >= PATIENCE else max(last.aim * target / last.measured, smallest)
    above = [one for one in slow if one.aim > fast.aim]
    if not above:
        return min(fast.aim * target / fast.measured, 1.0)
    near = min(above, key=lambda one: one.aim)
    part = (target - fast.measured) / max(near.measured - fast.measured, 1e-9)
    return fast.aim + min(max(part, 0.1), 0.9) * (near.aim - fast.aim)

"""No budget given: the largest reduction whose measured change stays within the tolerance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onnxmerge.clock import Progress
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


# Predictions are off by some percent; each attempt corrects the goal by what the last one was off.
ATTEMPTS = 4
# A measured ratio this far above the goal still counts as reached.
LATENCY_SLACK = 0.02


def within_latency(
    recipe: Recipe,
    measure: Callable[[Candidate], float],
    goal: float,
    progress: Progress,
) -> Candidate:
    """The candidate whose measured share of the input model's time is at most the goal.

    Where the attempts run out, the fastest one is returned; the report states what was measured.

    Args:
        measure: the measured share of a candidate, interleaved with the input model.

    Raises:
        BudgetError: even the smallest widths are predicted to take longer.
    """
    best, fastest, aim = None, float("inf"), goal
    smallest = recipe.smallest("latency")
    for attempt in range(ATTEMPTS):
        progress("latency", attempt, ATTEMPTS)
        candidate = recipe.at("latency", aim)
        measured = measure(candidate)
        if measured < fastest:
            best, fastest = candidate, measured
        if measured <= goal + LATENCY_SLACK or aim <= smallest:
            break
        aim = max(smallest, aim * goal / measured)
    assert best is not None
    return best

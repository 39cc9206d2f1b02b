"""Budgets in time that are met by trying: a share of the measured time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from onnxmerge.clock import Progress
from onnxmerge.errors import BudgetError
from onnxmerge.plan import Selection
from onnxmerge.recipe import Candidate, Recipe

# Predictions are off by some percent, and what is measured says by how much.
ATTEMPTS = 12
# After so many that were too slow the smallest widths show whether the goal can be reached at all.
PATIENCE = 3
# A measured share this close below the goal is not improved any more, and this close above it will do
# where nothing is faster, or only what is far below the goal.
CLOSE, FAR = 0.02, 0.05
# Times of one model in two sessions differ by some percent, more on several threads. A share within this
# share of the goal, from which the next step would draw the wrong conclusion, is measured twice.
DOUBTFUL = 0.08
# Above this multiple of the shortest, a measurement of the same widths was disturbed.
DISTURBED = 1.1
# One width is not measured more often than this.
MOST_DOUBTS = 4


@dataclass(frozen=True, eq=False)
class _Try:
    """Widths that were asked to take a share of the time, and the shares that they took."""

    aim: float
    selection: Selection
    times: tuple[float, ...]

    @property
    def measured(self) -> float:
        """The mean, without what was disturbed: that makes a measurement longer, and by much."""
        usual = [t for t in self.times if t <= DISTURBED * min(self.times)]
        return sum(usual) / len(usual)


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
    tries: dict[tuple[tuple[str, int], ...], _Try] = {}
    fast: _Try | None = None
    slow: list[_Try] = []
    for attempt in range(ATTEMPTS):
        progress("latency", attempt, ATTEMPTS)
        selection = recipe.select("latency", aim)
        if _widths(selection) in tries and slow:
            # Nothing lies between any more: is the next wider one as slow as it seemed?
            selection = _next_wider(slow, fast).selection
        known = tries.get(_widths(selection))
        if known is None:
            found = _Try(aim, selection, _settled(measure, recipe.cut(selection), goal))
        else:
            found = replace(known, times=(*known.times, measure(recipe.cut(selection))))
        tries[_widths(selection)] = found
        slow = [one for one in tries.values() if one.measured > goal]
        fast = max((t for t in tries.values() if t.measured <= goal), key=lambda t: t.aim, default=None)
        reached = fast is not None and (fast.measured >= goal - CLOSE or fast.aim >= 1)
        hopeless = fast is None and aim <= smallest
        if reached or hopeless or len(found.times) > MOST_DOUBTS:
            break
        aim = _next_aim(goal - CLOSE / 2, fast, slow, smallest, attempt)
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


def _widths(selection: Selection) -> tuple[tuple[str, int], ...]:
    return tuple((name, len(keep)) for name, keep in selection.keep.items())


def _settled(measure: Callable[[Candidate], float], candidate: Candidate, goal: float) -> tuple[float, ...]:
    """The measured share of a candidate; two of them near the goal, where noise would decide."""
    share = measure(candidate)
    return (share,) if abs(share - goal) > DOUBTFUL * goal else (share, measure(candidate))


def _next_wider(slow: list[_Try], fast: _Try | None) -> _Try:
    """Of what was too slow, the next to what was fast enough."""
    above = [one for one in slow if fast is None or one.aim > fast.aim]
    return min(above or slow, key=lambda one: one.aim)


def _next_aim(target: float, fast: _Try | None, slow: list[_Try], smallest: float, attempt: int) -> float:
    """What to ask the table for next: between what was fast enough and what was not, where both are known."""
    if fast is None:
        last = slow[-1]
        return smallest if attempt + 1 >= PATIENCE else max(last.aim * target / last.measured, smallest)
    if all(one.aim < fast.aim for one in slow):
        return min(fast.aim * target / fast.measured, 1.0)
    near = _next_wider(slow, fast)
    part = (target - fast.measured) / max(near.measured - fast.measured, 1e-9)
    return fast.aim + min(max(part, 0.1), 0.9) * (near.aim - fast.aim)

"""A budget in time that is met by trying: the table's prediction, put right by what is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxmerge.budgets.front import best_first
from onnxmerge.candidates import Builder, Widths, priced_by_time, time_of_all
from onnxmerge.data.holdout import Holdout
from onnxmerge.errors import BudgetError
from onnxmerge.outcomes import Candidate, Choice
from onnxmerge.plan import Scores, Selection
from onnxmerge.progress import Progress
from onnxmerge.study import Study

# Widths that are tried, but for the smallest ones.
ATTEMPTS = 5
# New sessions of both models for each of them: on several threads of a virtual machine the times of one
# model were measured to differ by a quarter from one session to the next.
SESSIONS = 5
# A measured share this close to the goal is not improved any more.
CLOSE = 0.02
# Shapes that are timed at most: each takes up to ``ATTEMPTS`` times ``SESSIONS`` sessions.
TIMED = 2
# The table is not taken to be wrong by more than this, whatever the clock says.
MOST_WRONG = 0.25


@dataclass(frozen=True, eq=False)
class Timed:
    """Widths, and what time they take.

    Attributes:
        predicted: the share of the input model's time, by the table.
        measured: the same as measured, one for every pair of new sessions.
    """

    selection: Selection
    predicted: float
    measured: tuple[float, ...]

    @property
    def usual(self) -> float:
        return float(np.median(self.measured))

    @property
    def error(self) -> float:
        """Measured by predicted, as far as every session confirms that the table is wrong; else 1."""
        return float(np.clip(1.0, min(self.measured) / self.predicted, max(self.measured) / self.predicted))


def within_latency(study: Study, scores: Scores, holdout: Holdout, goal: float) -> Choice:
    """The channels that run within a share of the input model's time on this machine and answer best.

    Where the input is slow by the way it is stored, all channels may. Else, by the table, all shapes that are
    compared take the same time. What answers best is timed first, and the others where it does not meet the
    goal.

    Raises:
        BudgetError: the fastest widths of every shape take longer.
    """
    whole = time_of_all(study)
    if whole < 1.0 and whole <= goal:
        return Choice(Selection({}), holdout, all_channels=whole)
    priced = priced_by_time(study, scores, whole)

    def shaped(shape: str) -> Widths:
        return replace(priced, shape=shape)

    def measured(candidate: Candidate) -> float:
        with study.clock("latency"):
            return study.latency_in_new_sessions(candidate).ratio

    # Where the table says that the goal is out of reach, the clock has the last word.
    aim = max(goal, priced.smallest)
    found = best_first(study, holdout, "latency", lambda shape: shaped(shape).select(aim))
    builder = Builder.of(study, holdout.fit)
    tries, refused = [], []
    for number, one in enumerate(found.shaped[:TIMED]):
        try:
            timed = nearest_to_goal(shaped(one.shape), builder, measured, goal, study.clock.step)
        except BudgetError as error:
            refused.append(error)
            continue
        tries.append((timed, number))
        if timed.usual <= goal + CLOSE:
            break
    if not tries:
        raise refused[0]
    best, place = min(tries, key=lambda one: max(one[0].usual, goal + CLOSE))
    taken, rest = found.tried[place : place + 1], (*found.tried[:place], *found.tried[place + 1 :])
    shapes = (*taken, *rest)
    return Choice(best.selection, holdout, shapes=shapes, predicted=best.predicted, all_channels=whole)


def nearest_to_goal(
    widths: Widths,
    builder: Builder,
    measure: Callable[[Candidate], float],
    goal: float,
    progress: Progress,
) -> Timed:
    """The widest channels whose share of the input model's time is measured to be near the goal or below it.

    The table predicts; what is measured says by how much it is wrong, and the table is asked again for
    the goal less that. So no more is cut than the table says is needed, but for its own error: what it is
    asked for is at least ``goal / (1 + e)``, where ``e`` is the largest error that all sessions of some
    widths confirmed, and at most ``MOST_WRONG``. Where that does not reach the goal, the widths that are
    nearest come back.

    Widths alone decide the time, so what is measured is cut and not compensated yet.

    Args:
        widths: selections by the share of the time that the table predicts.
        measure: the share of a candidate in one pair of new sessions, the two models taking turns.

    Raises:
        BudgetError: the fastest widths take longer.
    """
    smallest = widths.smallest
    tries: list[Timed] = []
    steps = (ATTEMPTS + 1) * SESSIONS

    def attempt(aim: float) -> bool:
        selection = widths.select(aim)
        if any(selection.widths == one.selection.widths for one in tries):
            return False
        candidate, measured = builder.cut(selection), []
        for session in range(SESSIONS):
            progress("latency", len(tries) * SESSIONS + session, steps)
            measured.append(measure(candidate))
        tries.append(Timed(selection, widths.share(selection), tuple(measured)))
        return True

    aim = max(goal, smallest)
    while len(tries) < ATTEMPTS and attempt(aim) and abs(tries[-1].usual - goal) > CLOSE:
        aim = max(_next_aim(tries, goal), smallest)
    reached = [one for one in tries if one.usual <= goal + CLOSE]
    if reached:
        return max(reached, key=lambda one: one.predicted)
    nearest = min(tries, key=lambda one: one.usual)
    if min(nearest.measured) > goal:
        attempt(smallest)
        if min(min(tries, key=lambda one: one.predicted).measured) > goal:
            fastest = min(tries, key=lambda one: one.usual)
            raise BudgetError(
                f"cannot keep only {goal:.4g} of the time: with the fastest widths that were tried "
                f"{fastest.usual:.3g} of it was measured on this machine; ask for at least that"
            )
    return nearest


def _next_aim(tries: Sequence[Timed], goal: float) -> float:
    """The largest share to ask the table for with which the goal is met; its error is interpolated."""
    known = sorted(tries, key=lambda one: one.predicted)
    grid = np.linspace(goal / (1 + MOST_WRONG), 1.0, 1001)
    error = np.interp(grid, [one.predicted for one in known], [one.error for one in known])
    fast = grid[grid * error <= goal]
    return float(fast[-1] if len(fast) else grid[0])

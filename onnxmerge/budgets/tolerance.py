"""A budget that is met by trying: as little of a model as the tolerance of its answers allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from onnxmerge.budgets.front import in_order
from onnxmerge.candidates import Builder, Widths, shapes
from onnxmerge.data.holdout import Holdout
from onnxmerge.errors import BudgetError
from onnxmerge.outcomes import Candidate, Choice, Sought, TriedShape, Verdict
from onnxmerge.plan import Scores, Selection
from onnxmerge.progress import Clock
from onnxmerge.runtime import Session
from onnxmerge.study import Study
from onnxmerge.validation import Parity

# Candidates whose fit is cheap, and those that few samples make.
STEPS, SCREENS = 7, 6
# Where many samples make a candidate, few tell where to look, and so many candidates are made from all. With
# the one that is made in the end they take less than five runs with a budget.
CONFIRMED = 3
# So many are measured at most.
MOST_MEASURED = max(STEPS, SCREENS + CONFIRMED)
# Few are this share of the samples, and at least so many; with less than four times as many there is no
# difference to speak of.
SHARE, FEWEST = 1 / 8, 16
# An interval of kept MACs that is as small as this is closed.
CLOSED = 0.02


def within_tolerance(study: Study, scores: Scores, holdout: Holdout) -> Choice:
    """The fewest MACs with which the answers to the samples that choose change within the tolerance.

    Where the user's own score is held in their place, that is what chooses, on its own data.

    Nothing is chosen where nothing can be removed.
    """
    nothing = Choice(Selection({}), holdout)
    if not study.analysis.channels.groups:
        return nothing
    builder = Builder.of(study, holdout.fit)
    usual, *others = (Widths(study, scores, "macs", shape=shape) for shape in shapes(study, "macs"))

    def measure(candidate: Candidate) -> Verdict:
        return chosen_change(study, candidate, holdout)

    def compare(candidate: Candidate) -> Parity:
        return _parity(study, study.session(candidate), holdout)

    sought = search(usual, builder, measure, study.tolerance, study.clock, others, compare)
    if sought is None:
        return nothing
    return Choice(sought.candidate.selection, holdout, sought=sought, shapes=sought.shapes)


def chosen_change(study: Study, candidate: Candidate, holdout: Holdout) -> Verdict:
    """What the search holds against a candidate, where it chooses: that flatters what it chose."""
    session = study.session(candidate)
    parity = _parity(study, session, holdout)
    score = study.score(candidate, session) if study.searches_by_score else None
    if study.own is None or score is None:
        return Verdict(parity.change, parity)
    return Verdict(study.own.drop(score), parity)


def _parity(study: Study, session: Session, holdout: Holdout) -> Parity:
    assert holdout.choosing is not None, "a search has samples to choose by"
    return study.parity(session, holdout.choosing)


def search(
    widths: Widths,
    builder: Builder,
    measure: Callable[[Candidate], Verdict],
    tolerance: float,
    clock: Clock,
    others: Sequence[Widths] = (),
    compare: Callable[[Candidate], Parity] | None = None,
) -> Sought | None:
    """The fewest MACs within the tolerance; None where nothing can be removed.

    Where candidates are fitted to many samples, bisection over candidates that are fitted to few of them
    comes first. Fewer samples make worse candidates, so what all samples make is tried from there on, at
    the share where the ratio of the two says that the tolerance is reached. Of several shapes those few
    samples choose one, at the share that they found for the usual one.

    The change is taken to grow as the share falls; where it does not, what is returned still is within
    the tolerance, for every candidate is measured.

    Args:
        widths: selections by the share of the MACs that they keep.
        builder: on the data to fit; ``measure`` has others.
        measure: the change of a candidate on data that did not make it.
        others: selections of other shapes.
        compare: how the answers of candidates change, for telling shapes apart; the own score, which may
            take long, is not asked for that.
    """
    smallest = widths.smallest
    if smallest >= 1.0:
        return None
    few = max(int(SHARE * len(builder.data)), FEWEST)
    confirmed = _Bracket(widths, builder, measure, tolerance, smallest)
    if not builder.fits or len(builder.data) < 4 * few:
        most = STEPS if not builder.fits else SCREENS
        while not confirmed.closed and confirmed.made < most:
            with clock.portion("search", confirmed.made, confirmed.made + 1, most):
                confirmed.attempt((confirmed.low + confirmed.high) / 2)
        return confirmed.best
    # Progress counts samples: in units of what a screened candidate takes.
    each = round(len(builder.data) / few)
    total = SCREENS + len(others) + CONFIRMED * each
    screened = _Bracket(widths, builder.with_samples(few), measure, tolerance, smallest)
    while not screened.closed and screened.made < SCREENS:
        with clock.portion("search", screened.made, screened.made + 1, total):
            screened.attempt((screened.low + screened.high) / 2)
    tried = _shapes(screened, others, compare, clock, total) if compare is not None else []
    confirmed.widths = min(tried, key=lambda one: one[1].distance)[0] if tried else widths
    while not confirmed.closed and confirmed.made < CONFIRMED:
        done = SCREENS + len(others) + confirmed.made * each
        with clock.portion("search", done, done + each, total):
            confirmed.attempt(_promising(confirmed, screened))
    if confirmed.best is None:
        return None
    return replace(confirmed.best, shapes=in_order([shape for _, shape in tried]))


def _shapes(
    screened: _Bracket,
    others: Sequence[Widths],
    compare: Callable[[Candidate], Parity],
    clock: Clock,
    total: int,
) -> list[tuple[Widths, TriedShape]]:
    """What few samples make of every shape, at the smallest share within the tolerance in the usual one."""
    if screened.best is None or not others:
        return []
    usual, share = screened.best, screened.high
    found = {usual.candidate.selection.widths: (screened.widths, usual.candidate, usual.verdict.parity)}
    for number, widths in enumerate(others):
        try:
            selection = widths.select(share)
        except BudgetError:
            continue
        if selection.widths in found:
            continue
        with clock.portion("search", SCREENS + number, SCREENS + number + 1, total):
            candidate = screened.builder.of_widths(selection)
            found[selection.widths] = widths, candidate, compare(candidate)
    if len(found) == 1:
        return []
    return [(w, TriedShape.of(w.shape or "", c.selection, parity)) for w, c, parity in found.values()]


@dataclass(eq=False)
class _Bracket:
    """The shares of the MACs between which the tolerance is reached, and what was found on the way.

    Attributes:
        low, high: the largest share that is known to be too small, and the smallest that is not.
        best: the candidate at ``high``.
        changes: by share, ascending where the shares were asked for in this order.
        made: how many candidates were made; widths that come again are none.
    """

    widths: Widths
    builder: Builder
    measure: Callable[[Candidate], Verdict]
    tolerance: float
    low: float
    high: float = 1.0
    best: Sought | None = None
    changes: dict[float, float] = field(default_factory=dict)
    _changes_of: dict[tuple[tuple[str, int], ...], float] = field(default_factory=dict)

    @property
    def closed(self) -> bool:
        return self.high - self.low <= CLOSED

    @property
    def made(self) -> int:
        return len(self._changes_of)

    def attempt(self, asked: float) -> None:
        """Try the widths that keep at most the share that is asked for."""
        selection = self.widths.select(asked)
        share, counts = self.widths.share(selection), selection.widths
        if counts not in self._changes_of:
            candidate = self.builder.of_widths(selection)
            verdict = self.measure(candidate)
            self._changes_of[counts] = self.changes[share] = verdict.change
            if verdict.change <= self.tolerance and share < self.high:
                self.best = Sought(share, candidate, verdict)
        if self._changes_of[counts] <= self.tolerance:
            self.high = min(self.high, share)
        else:
            self.low = max(self.low, asked)


def _promising(confirmed: _Bracket, screened: _Bracket) -> float:
    """The share to try next: where screened changes, put right by confirmed ones, reach the tolerance."""
    low, high, tolerance = confirmed.low, confirmed.high, confirmed.tolerance
    if not confirmed.changes:
        return screened.high if screened.best is not None else (screened.low + screened.high) / 2

    def logarithm(change: float) -> float:
        # What is far below the tolerance tells as little about it as what is zero.
        return float(np.log(max(change, tolerance / 4, 1e-12)))

    shares, changes = zip(*sorted((screened.changes | {1.0: 0.0}).items()), strict=True)
    screened_at = np.interp(list(confirmed.changes), shares, [logarithm(c) for c in changes])
    ratios = [logarithm(c) - at for c, at in zip(confirmed.changes.values(), screened_at, strict=True)]
    order = np.argsort(list(confirmed.changes))
    grid = np.linspace(low, high, 101)[10:91]
    expected = np.interp(grid, shares, [logarithm(c) for c in changes])
    expected += np.interp(grid, np.array(list(confirmed.changes))[order], np.array(ratios)[order])
    within = grid[expected <= logarithm(tolerance)]
    return float(within[0] if len(within) else grid[-1])

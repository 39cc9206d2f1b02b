"""A budget that is met by trying: as little of a model as the tolerance of its answers allows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from onnxmerge.plan import Selection
from onnxmerge.progress import Clock
from onnxmerge.recipe import Candidate, Recipe
from onnxmerge.validation import Parity

# Candidates whose fit is cheap, and those that few samples make.
STEPS, SCREENS = 7, 6
# Where many samples make a candidate, few tell where to look, and so many candidates are made from all. With
# the one that is made in the end they take less than five runs with a budget.
CONFIRMED = 3
# Few are this share of the samples, and at least so many; with less than four times as many there is no
# difference to speak of.
SHARE, FEWEST = 1 / 8, 16
# An interval of kept MACs that is as small as this is closed.
CLOSED = 0.02


@dataclass(frozen=True, eq=False)
class Found:
    """The result of a search: the share of MACs kept and the change measured there on held-out data."""

    share: float
    candidate: Candidate
    parity: Parity


def search(
    recipe: Recipe, measure: Callable[[Candidate], Parity], tolerance: float, clock: Clock
) -> Found | None:
    """The fewest MACs within the tolerance; None where nothing can be removed.

    Where candidates are fitted to many samples, bisection over candidates that are fitted to few of them
    comes first. Fewer samples make worse candidates, so what all samples make is tried from there on, at
    the share where the ratio of the two says that the tolerance is reached.

    The change is taken to grow as the share falls; where it does not, what is returned still is within
    the tolerance, for every candidate is measured.

    Args:
        recipe: on the data to fit; ``measure`` has others.
        measure: the change of a candidate on data that did not make it.
    """
    smallest = recipe.smallest("macs")
    if not recipe.subject.channels.groups or smallest >= 1.0:
        return None
    few = max(int(SHARE * len(recipe.data)), FEWEST)
    confirmed = _Bracket(recipe, measure, tolerance, smallest)
    if not recipe.fits or len(recipe.data) < 4 * few:
        most = STEPS if not recipe.fits else SCREENS
        while not confirmed.closed and confirmed.made < most:
            with clock.portion("search", confirmed.made, confirmed.made + 1, most):
                confirmed.attempt((confirmed.low + confirmed.high) / 2)
        return confirmed.best
    # Progress counts samples: in units of what a screened candidate takes.
    each = round(len(recipe.data) / few)
    total = SCREENS + CONFIRMED * each
    screened = _Bracket(recipe.with_samples(few), measure, tolerance, smallest)
    while not screened.closed and screened.made < SCREENS:
        with clock.portion("search", screened.made, screened.made + 1, total):
            screened.attempt((screened.low + screened.high) / 2)
    while not confirmed.closed and confirmed.made < CONFIRMED:
        done = SCREENS + confirmed.made * each
        with clock.portion("search", done, done + each, total):
            confirmed.attempt(_promising(confirmed, screened))
    return confirmed.best


@dataclass(eq=False)
class _Bracket:
    """The shares of the MACs between which the tolerance is reached, and what was found on the way.

    Attributes:
        low, high: the largest share that is known to be too small, and the smallest that is not.
        best: the candidate at ``high``.
        changes: by share, ascending where the shares were asked for in this order.
        made: how many candidates were made; widths that come again are none.
    """

    recipe: Recipe
    measure: Callable[[Candidate], Parity]
    tolerance: float
    low: float
    high: float = 1.0
    best: Found | None = None
    changes: dict[float, float] = field(default_factory=dict)
    _known: dict[tuple[tuple[str, int], ...], float] = field(default_factory=dict)

    @property
    def closed(self) -> bool:
        return self.high - self.low <= CLOSED

    @property
    def made(self) -> int:
        return len(self._known)

    def attempt(self, asked: float) -> None:
        """Try the widths that keep at most the share that is asked for."""
        selection = self.recipe.select("macs", asked)
        share, widths = self.recipe.share("macs", selection), _widths(selection)
        if widths not in self._known:
            candidate = self.recipe.of_widths(selection)
            parity = self.measure(candidate)
            self._known[widths] = self.changes[share] = parity.change
            if parity.change <= self.tolerance and share < self.high:
                self.best = Found(share, candidate, parity)
        if self._known[widths] <= self.tolerance:
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


def _widths(selection: Selection) -> tuple[tuple[str, int], ...]:
    return tuple((name, len(keep)) for name, keep in selection.keep.items())

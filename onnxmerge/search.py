"""No budget given: the largest reduction whose measured change stays within the tolerance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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
    progress: Callable[[str, int, int], None],
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

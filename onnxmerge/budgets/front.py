"""Candidates of different shape for one budget: a few are made and measured, and the best is taken.

More depth, more width, or both: what costs the same and looks alike on paper is far apart in fact. On a
ResNet-56 at 0.6 of the time four shapes change 0.9 to 3.6% of the answers, on a ResNet-20 11 to 33%.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from onnxmerge.candidates import Builder, shapes
from onnxmerge.data.holdout import Holdout
from onnxmerge.errors import BudgetError
from onnxmerge.outcomes import Candidate, TriedShape
from onnxmerge.plan import Selection
from onnxmerge.progress import Clock
from onnxmerge.study import Study
from onnxmerge.validation import Parity

# With fewer samples than this, one candidate is made: too few would be left to tell several apart.
FEWEST = 64
# Candidates that are compared are fitted to this share of the samples, and to so many at least: one takes
# 0.3 to 0.4 of what a whole one takes, and their order is that of whole ones.
SHARE, LEAST = 1 / 4, 64


@dataclass(frozen=True, eq=False)
class Shaped:
    """A selection that meets a budget.

    Attributes:
        shape: the name of what it comes of, see ``candidates.shapes``.
    """

    shape: str
    selection: Selection


@dataclass(frozen=True, eq=False)
class Ranked:
    """The shapes that meet a budget.

    Attributes:
        shaped: what is to be taken comes first.
        tried: what was measured of those that were made, in the same order; empty where only one is there.
    """

    shaped: tuple[Shaped, ...]
    tried: tuple[TriedShape, ...] = ()


def best_first(study: Study, holdout: Holdout, kind: str, select: Callable[[str], Selection]) -> Ranked:
    """The shapes that meet a budget, that whose answers change least first.

    Those of the same widths are one. They are made from few of the samples, and measured on others which
    nothing else is measured on: ``holdout.judged`` chooses nothing.

    Args:
        select: the selection of a shape; it raises BudgetError where the shape cannot meet the budget.

    Raises:
        BudgetError: no shape can meet the budget.
    """
    different = distinct(shapes(study, kind), select)
    if len(different) == 1 or not enough(holdout):
        return Ranked((different[0],))
    part = holdout.for_search(study.config.seed)
    assert part.choosing is not None
    choosing, full = part.choosing, Builder.of(study, part.fit)
    builder = full.with_samples(max(int(SHARE * len(part.fit)), LEAST)) if full.fits else full

    def measure(candidate: Candidate) -> Parity:
        return study.parity(study.session(candidate), choosing)

    return ranked(different, builder.of_widths, measure, study.clock)


def enough(holdout: Holdout) -> bool:
    """Whether there are samples to choose by that are not those that judge, and mean something."""
    return holdout.basis in ("held out", "evaluation", "photographs") and len(holdout.fit) >= FEWEST


def distinct(names: Sequence[str], select: Callable[[str], Selection]) -> list[Shaped]:
    """The shapes that meet the budget, without those whose widths an earlier one has.

    Raises:
        BudgetError: none meets it.
    """
    found: dict[tuple[tuple[str, int], ...], Shaped] = {}
    refused: list[BudgetError] = []
    for name in names:
        try:
            selection = select(name)
        except BudgetError as error:
            refused.append(error)
            continue
        found.setdefault(selection.widths, Shaped(name, selection))
    if not found:
        raise refused[0]
    return list(found.values())


def ranked(
    different: Sequence[Shaped],
    build: Callable[[Selection], Candidate],
    measure: Callable[[Candidate], Parity],
    clock: Clock,
) -> Ranked:
    """Shapes by the change of their answers, the smallest first; of equals the earlier one."""
    rows = []
    for number, shaped in enumerate(different):
        with clock.portion("shapes", number, number + 1, len(different)):
            parity = measure(build(shaped.selection))
        rows.append((shaped, TriedShape.of(shaped.shape, shaped.selection, parity)))
    rows.sort(key=lambda row: row[1].distance)
    return Ranked(tuple(shaped for shaped, _ in rows), tuple(tried for _, tried in rows))


def in_order(tried: Sequence[TriedShape]) -> tuple[TriedShape, ...]:
    """The best first; of equals the earlier one."""
    return tuple(sorted(tried, key=lambda one: one.distance))

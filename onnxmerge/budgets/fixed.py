"""A share of the channels, of the MACs or of the parameters: every allocation meets it."""

from __future__ import annotations

from onnxmerge.budgets.front import best_first
from onnxmerge.candidates import allocate, budget_of, use_up
from onnxmerge.data.holdout import Holdout
from onnxmerge.errors import BudgetError
from onnxmerge.outcomes import Choice
from onnxmerge.plan import Scores, Selection
from onnxmerge.study import Study

# So many reasons are given where nothing can be removed.
MOST_REASONS = 3


def within_share(study: Study, scores: Scores, holdout: Holdout, kind: str, value: float) -> Choice:
    """Of the shapes that stay within a budget that whose answers change least.

    Raises:
        BudgetError: the budget cannot be met.
    """
    found = best_first(study, holdout, kind, lambda shape: filled(study, scores, kind, value, shape))
    return Choice(found.shaped[0].selection, holdout, shapes=found.tried)


def filled(study: Study, scores: Scores, kind: str, value: float, shape: str | None = None) -> Selection:
    """The channels that stay within a budget, and as many more as it leaves room for.

    Args:
        shape: one of ``candidates.shapes``; None: the usual one.

    Raises:
        BudgetError: the budget cannot be met.
    """
    budget = budget_of(study, kind, value, shape=shape)
    return use_up(study, scores, budget, allocate(study, scores, budget, shape))


def refuse_impossible(study: Study, kind: str, value: float) -> None:
    """Raise BudgetError where a budget asks for something, and nothing can be removed at all."""
    if value == 0.0 if kind == "ratio" else value >= 1.0:
        return
    channels = study.analysis.channels
    inside = f"; {study.explanation.not_analysed}" if study.explanation.branches else ""
    if kind == "macs" and not study.analysis.cost.macs:
        raise BudgetError(f"macs= cannot be met: the model has no multiplications that are counted{inside}")
    if not channels.groups:
        reasons = [entry.reason for entry in study.explanation.frozen] or ["no layer has stored weights"]
        if channels.left_whole:
            reasons = ["its groups are left whole, as asked"]
        elif study.explanation.groups:
            reasons = [
                "what is normalised or averaged together keeps its width where nothing is refitted: give "
                "inputs with calibration=, or say compensation= lstsq"
            ]
        raise BudgetError(
            f"{kind}= cannot be met: nothing of the model can be removed; {'; '.join(reasons[:MOST_REASONS])}"
            f"{inside}"
        )


def with_reasons(error: BudgetError, study: Study) -> BudgetError:
    """The error, with what the file itself fixes: somebody may export it otherwise."""
    return BudgetError("; ".join([str(error), *study.explanation.unprunable]))

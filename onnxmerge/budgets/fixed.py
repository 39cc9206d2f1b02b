"""A share of the channels, of the MACs or of the parameters: one allocation meets it."""

from __future__ import annotations

from onnxmerge.candidates import allocate, budget_of, use_up
from onnxmerge.errors import BudgetError
from onnxmerge.plan import Scores, Selection
from onnxmerge.study import Study

# So many reasons are given where nothing can be removed.
MOST_REASONS = 3


def within_share(study: Study, scores: Scores, kind: str, value: float) -> Selection:
    """The channels that stay within a budget, and as many more as it leaves room for.

    Raises:
        BudgetError: the budget cannot be met.
    """
    budget = budget_of(study, kind, value)
    return use_up(study, scores, budget, allocate(study, scores, budget))


def refuse_in_vain(study: Study, kind: str, value: float) -> None:
    """Raise BudgetError where a budget asks for something, and nothing can be removed at all."""
    if value == 0.0 if kind == "ratio" else value >= 1.0:
        return
    channels = study.analysis.channels
    if kind == "macs" and not study.analysis.cost.macs:
        raise BudgetError("macs= cannot be met: the model has no multiplications that are counted")
    if not channels.groups:
        reasons = [entry.reason for entry in study.explanation.frozen] or ["no layer has stored weights"]
        if channels.left_whole:
            reasons = ["its groups are left whole, as asked"]
        raise BudgetError(
            f"{kind}= cannot be met: nothing of the model can be removed; {'; '.join(reasons[:MOST_REASONS])}"
        )


def with_reasons(error: BudgetError, study: Study) -> BudgetError:
    """The error, with what the file itself fixes: somebody may export it otherwise."""
    return BudgetError("; ".join([str(error), *study.explanation.unprunable]))

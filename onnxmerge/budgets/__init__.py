"""What stays, under every kind of budget: a share, a time, a change of the answers, or a plan.

Each is a strategy that ends in a ``Choice``, over the same functions: ``candidates.allocate`` chooses widths
that meet a share, and a ``candidates.Builder`` makes the candidate of any selection.
"""

from onnxmerge.budgets.fixed import filled, refuse_impossible, with_reasons, within_share
from onnxmerge.budgets.latency import within_latency
from onnxmerge.budgets.planned import config_of_plan, plan_of, planned
from onnxmerge.budgets.tolerance import chosen_change, within_tolerance

__all__ = [
    "chosen_change",
    "config_of_plan",
    "filled",
    "plan_of",
    "planned",
    "refuse_impossible",
    "with_reasons",
    "within_latency",
    "within_share",
    "within_tolerance",
]

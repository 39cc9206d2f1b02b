"""Which channels stay, under every kind of budget: a share, a time, a change of the answers, or a plan.

Each is a strategy over the same functions: ``candidates.allocate`` chooses widths that meet a share, in one
of several shapes, and a ``candidates.Builder`` makes the candidate of any selection; ``front`` compares
shapes.
"""

from onnxmerge.budgets.fixed import best_within_share, refuse_in_vain, with_reasons, within_share
from onnxmerge.budgets.latency import within_latency
from onnxmerge.budgets.planned import config_of_plan, planned, recorded
from onnxmerge.budgets.tolerance import chosen_change, within_tolerance

__all__ = [
    "best_within_share",
    "chosen_change",
    "config_of_plan",
    "planned",
    "recorded",
    "refuse_in_vain",
    "with_reasons",
    "within_latency",
    "within_share",
    "within_tolerance",
]

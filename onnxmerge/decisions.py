"""From a choice to the models that come of it: the one that is written, and the one that is judged.

What is written is fitted to all of the data; what is judged has the same widths, and is fitted to nothing
that judges it. They are one where nothing is fitted, where samples to judge by were given apart, and where
the candidate is taught.
"""

from __future__ import annotations

from dataclasses import replace

from onnxmerge.budgets import chosen_change
from onnxmerge.candidates import Builder, budget_of, shortfall
from onnxmerge.data.dataset import Dataset
from onnxmerge.outcomes import Candidate, Choice, Decision, RecoveryFacts
from onnxmerge.plan import Selection
from onnxmerge.recovery import taught
from onnxmerge.study import Study


def made(study: Study, choice: Choice) -> Decision:
    """Reconstruct and rewrite what was chosen; and teach it, where that is asked for and helps."""
    if not study.analysis.removed(choice.selection).any():
        nothing = Builder.of(study, choice.holdout.fit).cut(Selection({}))
        decision = decision_of(study, choice, nothing, nothing, "all")
        if decision.unchanged or choice.planned or _answers_alike(study, decision):
            return decision
        return replace(decision, unchanged=True)
    if study.config.recovery is None:
        return fitted(study, choice)
    student, fit_on = untaught(study, choice)
    candidate, facts = taught(study, student, choice.holdout)
    if not facts.taken:
        # As without teaching.
        return replace(fitted(study, choice), recovery=facts)
    return decision_of(study, choice, candidate, candidate, fit_on, checked=student, recovery=facts)


def fitted(study: Study, choice: Choice) -> Decision:
    """The candidate that is fitted to all of the data, and the one that nothing was fitted to that judges.

    Where a search's choice, fitted to all, falls outside of the tolerance, what the search made stays.
    """
    if choice.fit_on != "all":
        candidate = _built(study, choice, fitted_to(study, choice.fit_on))
        return decision_of(study, choice, candidate, candidate, choice.fit_on)
    candidate = _built(study, choice, study.samples.fit)
    if choice.sought is not None:
        found = choice.sought.candidate
        if chosen_change(study, candidate, choice.holdout).change > study.tolerance:
            return decision_of(study, choice, found, found, "part")
        return decision_of(study, choice, candidate, candidate if study.judged_apart else found, "all")
    if choice.holdout.fit is study.samples.fit:
        return decision_of(study, choice, candidate, candidate, "all")
    return decision_of(study, choice, candidate, _built(study, choice, choice.holdout.fit), "all")


def untaught(study: Study, choice: Choice) -> tuple[Candidate, str]:
    """What is taught, and what it is fitted to: nothing that judges."""
    if choice.sought is not None:
        return choice.sought.candidate, "part"
    fit_on = "rest" if choice.fit_on == "all" else choice.fit_on
    return _built(study, choice, fitted_to(study, fit_on)), fit_on


def fitted_to(study: Study, fit_on: str) -> Dataset:
    """The samples that a candidate is fitted to, see ``Choice``."""
    if fit_on == "all":
        return study.samples.fit
    holdout = study.holdout()
    return holdout.fit if fit_on == "rest" else holdout.for_search(study.config.seed).fit


def _built(study: Study, choice: Choice, data: Dataset) -> Candidate:
    builder = Builder.of(study, data)
    return builder.of_selection(choice.selection) if choice.replay else builder.of_widths(choice.selection)


def decision_of(
    study: Study,
    choice: Choice,
    candidate: Candidate,
    tried: Candidate,
    fit_on: str,
    *,
    checked: Candidate | None = None,
    recovery: RecoveryFacts | None = None,
) -> Decision:
    left = None
    if study.config.budget is not None and study.config.latency is None:
        left = shortfall(study, budget_of(study, *study.config.budget), candidate.selection)
    unchanged = _is_input(study, choice, candidate)
    return Decision(choice, candidate, tried, checked or candidate, unchanged, fit_on, recovery, left)


def _answers_alike(study: Study, decision: Decision) -> bool:
    """Whether what was written anew with all channels stays within the tolerance: it should, by rounding."""
    holdout = decision.choice.holdout
    parity = study.parity(study.session(decision.candidate), holdout.choosing or holdout.judged)
    return parity.change <= study.tolerance


def _is_input(study: Study, choice: Choice, candidate: Candidate) -> bool:
    """Whether the input model stands for a candidate: nothing was removed, and nothing is gained otherwise.

    Who asks for a share of the model, and gets all of it, gets it as it was; else fewer operators are faster,
    and so are parameters that are stored well.
    """
    if study.analysis.removed(candidate.selection).any():
        return False
    if choice.planned:
        return choice.fit_on == "none"
    kind = study.config.budget and study.config.budget[0]
    fewer = len(candidate.model.graph.node) < len(study.analysis.proto.graph.node)
    return not ((fewer or study.analysis.lighter) and kind in (None, "latency"))

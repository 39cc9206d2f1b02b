"""What is removed, under every budget: a share, a plan, a time, or a change that the answers may have."""

from __future__ import annotations

from dataclasses import replace

from onnxmerge.data import Dataset
from onnxmerge.deadline import within_latency
from onnxmerge.errors import BudgetError, UsageError
from onnxmerge.operators.unprunable import is_fixed
from onnxmerge.plan import Plan, Selection
from onnxmerge.recipe import Candidate, Recipe
from onnxmerge.reference import misjudged
from onnxmerge.search import Found, search
from onnxmerge.stages import HELD_OUT, SEARCHED, Decision, Prepared, Trial
from onnxmerge.validation import Latency, Parity, compare_latency

# So many reasons are given where nothing can be removed.
MOST_REASONS = 3


def decide(prepared: Prepared, plan: Plan | None) -> Decision:
    """The candidate of the plan or the budget, or the smallest one within the tolerance.

    Raises:
        BudgetError: the budget cannot be met, or not with the groups whose removal equals their mask.
    """
    config, subject = prepared.config, prepared.subject
    found, fit_on = None, "all"
    if plan is None and config.budget is not None:
        _refuse_in_vain(prepared, *config.budget)
    recipe = prepared.recipe()
    if plan is None and config.budget is None:
        candidate, tried, trial, found = _search(prepared, recipe)
        fit_on = "part" if found is not None and candidate is found.candidate else "all"
    else:
        trial = Trial.of(prepared, *HELD_OUT)
        trying = recipe if trial.fit is prepared.data else prepared.recipe(trial.fit)
        if plan is not None:
            selection = _checked(plan, prepared)
            fit_on = str(plan.method.get("fit_on", "all"))
            candidate = (recipe if fit_on == "all" else _searched(prepared)).of(selection)
            tried = candidate if trying is recipe else trying.of(selection)
        else:
            assert config.budget is not None
            try:
                widths = _fast_enough(prepared, trying) if config.latency else trying.widths(*config.budget)
            except BudgetError as error:
                reasons = [entry.reason for entry in prepared.explanation.frozen if is_fixed(entry.reason)]
                raise BudgetError("; ".join([str(error), *reasons])) from error
            tried = trying.of_widths(widths)
            candidate = tried if trying is recipe else recipe.of_widths(widths)
    distrusted: list[str] = []
    if subject.removed(candidate.selection).any():
        maker = recipe if fit_on == "all" else _searched(prepared)
        with prepared.clock("check"):
            distrusted = misjudged(maker, candidate, next(iter(prepared.data.feeds(batch=1))))
        if distrusted and plan is None and config.budget is not None:
            # The budget is owed all the same, and the groups that remain have to meet it.
            others = decide(prepared.without(distrusted), None)
            return replace(others, distrusted=(*distrusted, *others.distrusted))
        if distrusted:
            kept = {name: keep for name, keep in candidate.selection.keep.items() if name not in distrusted}
            candidate = maker.of(Selection(kept))
            # What was measured must have the same widths.
            tried = prepared.recipe(trial.fit).of(candidate.selection)
    unchanged = not subject.removed(candidate.selection).any()
    predicted = None if config.latency is None else trying.share("latency", candidate.selection)
    return Decision(
        candidate,
        trial,
        tried,
        found,
        unchanged,
        tuple(distrusted),
        planned=plan is not None,
        predicted=predicted,
        shortfall=None if config.budget is None else recipe.shortfall(*config.budget, candidate.selection),
        fit_on=fit_on,
    )


def _refuse_in_vain(prepared: Prepared, kind: str, value: float) -> None:
    """Raise BudgetError where a budget asks for something, and nothing can be removed at all."""
    if value == 0.0 if kind == "ratio" else value >= 1.0:
        return
    channels, cost = prepared.subject.channels, prepared.subject.cost
    if kind == "macs" and not cost.macs:
        raise BudgetError("macs= cannot be met: the model has no multiplications that are counted")
    if not channels.groups:
        reasons = [entry.reason for entry in prepared.explanation.frozen] or ["no layer has stored weights"]
        if channels.left_whole:
            reasons = ["its groups are left whole, as asked"]
        raise BudgetError(
            f"{kind}= cannot be met: nothing of the model can be removed; {'; '.join(reasons[:MOST_REASONS])}"
        )


def _search(prepared: Prepared, recipe: Recipe) -> tuple[Candidate, Candidate, Trial, Found | None]:
    """Search on a part of the data, rebuild with all of it; the part's candidate where that falls outside.

    What the search judges by has chosen the result, and would flatter it: the change that is said is
    measured on samples that took no part in the choice either.
    """
    tolerance = prepared.tolerance
    fit, choosing, trial = _parts(prepared)

    def change(candidate: Candidate) -> Parity:
        return prepared.parity(prepared.session(candidate), choosing)

    found = search(prepared.recipe(fit), change, tolerance, prepared.clock)
    if found is None:
        whole = recipe.of(Selection({}))
        return whole, whole, trial, None
    candidate = recipe.of_widths(found.candidate.selection)
    candidate = candidate if change(candidate).change <= tolerance else found.candidate
    return candidate, candidate if prepared.evaluation is not None else found.candidate, trial, found


def _parts(prepared: Prepared) -> tuple[Dataset, Dataset, Trial]:
    """What candidates of a search are fitted to, what chooses among them, what the choice is tried on."""
    trial, seed = Trial.of(prepared, *HELD_OUT), prepared.config.seed
    fit, choosing = trial.fit.split(*SEARCHED, seed=seed)
    if trial.basis == "calibration":
        # Nothing is fitted, so all but what chooses is as good as held out.
        trial = replace(trial, judged=fit)
    return fit, choosing, trial


def _searched(prepared: Prepared) -> Recipe:
    """What a search makes its candidates with."""
    return prepared.recipe(_parts(prepared)[0])


def _fast_enough(prepared: Prepared, recipe: Recipe) -> Selection:
    goal = prepared.config.latency
    assert goal is not None

    def share(candidate: Candidate) -> float:
        with prepared.clock("latency"):
            return in_new_sessions(prepared, candidate, prepared.data).ratio

    return within_latency(recipe, share, goal, prepared.clock.step).selection


def in_new_sessions(prepared: Prepared, candidate: Candidate, data: Dataset) -> Latency:
    """Times of the input and of a candidate; one session of either may be slow as long as it lives."""
    before, after = prepared.runtime.session(prepared.loaded.proto), prepared.session(candidate)
    return compare_latency(before, after, next(iter(data.feeds(batch=1))), seconds=0.3)


def _checked(plan: Plan, prepared: Prepared) -> Selection:
    if plan.fingerprint != prepared.loaded.sha256:
        raise UsageError("the plan belongs to another model: its fingerprint differs")
    sizes = {group.name: len(group) for group in prepared.subject.channels.groups}
    for name, keep in plan.keep.items():
        if name not in sizes:
            raise UsageError(f"the plan names the group '{name}', which this model does not have")
        if keep and not 0 <= min(keep) <= max(keep) < sizes[name]:
            raise UsageError(f"the plan keeps unknown channels of '{name}', which has {sizes[name]}")
    gone = [name for name, keep in plan.keep.items() if not keep]
    if not prepared.subject.depth.together(gone):
        raise UsageError(
            f"the plan keeps no channel of {', '.join(repr(name) for name in gone)}: something that stays "
            "needs them"
        )
    return plan.selection

"""What is removed, under every budget: a share, a plan, a time, or a change that the answers may have."""

from __future__ import annotations

from onnxmerge.calibration import Dataset
from onnxmerge.deadline import within_latency
from onnxmerge.errors import UsageError
from onnxmerge.plan import Plan, Selection
from onnxmerge.recipe import Candidate, Recipe
from onnxmerge.reference import trusted
from onnxmerge.search import Found, search
from onnxmerge.stages import Decision, Prepared, Trial
from onnxmerge.validation import Latency, Parity, compare_latency

# What is held out to measure the change on: of samples that a budget is fitted to, and in a search, which
# decides by it. (Share of the samples, fewest, largest share.)
HELD_OUT = (0.1, 32, 0.25)
SEARCHED = (0.25, 64, 0.5)


def decide(prepared: Prepared, plan: Plan | None) -> Decision:
    """The candidate of the plan or the budget, or the smallest one within the tolerance."""
    config, subject = prepared.config, prepared.subject
    found, fit_on = None, "all"
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
            widths = _fast_enough(prepared, trying) if config.latency else trying.widths(*config.budget)
            tried = trying.of_widths(widths)
            candidate = tried if trying is recipe else recipe.of_widths(widths)
    distrusted: list[str] = []
    if subject.removed(candidate.selection).any():
        maker = recipe if fit_on == "all" else _searched(prepared)
        with prepared.clock("check"):
            checked, distrusted = trusted(maker, candidate, next(iter(prepared.data.feeds(batch=1))))
        if distrusted:
            # What was measured must have the same widths.
            candidate, tried = checked, prepared.recipe(trial.fit).of(checked.selection)
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


def _search(prepared: Prepared, recipe: Recipe) -> tuple[Candidate, Candidate, Trial, Found | None]:
    """Search on a part of the data, rebuild with all of it; the part's candidate where that falls outside.

    Data given for evaluation take no part in the choice.
    """
    tolerance = prepared.tolerance
    fit, held_out = prepared.data.split(*SEARCHED, seed=prepared.config.seed)

    def change(candidate: Candidate) -> Parity:
        return prepared.parity(prepared.session(candidate), held_out)

    found = search(prepared.recipe(fit), change, tolerance, prepared.clock)
    whole = recipe.of(Selection({}))
    trial = Trial.of(prepared, *SEARCHED)
    if found is None:
        return whole, whole, trial, None
    candidate = recipe.of_widths(found.candidate.selection)
    candidate = candidate if change(candidate).change <= tolerance else found.candidate
    return candidate, candidate if prepared.evaluation is not None else found.candidate, trial, found


def _searched(prepared: Prepared) -> Recipe:
    """What a search makes its candidates with: the part of the data that it does not judge by."""
    return prepared.recipe(prepared.data.split(*SEARCHED, seed=prepared.config.seed)[0])


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

"""A plan in the place of a budget: what was decided before is done again."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, fields, replace
from typing import Any

import numpy as np

from onnxmerge.arguments import nearest, refused
from onnxmerge.config import Config, Recovery
from onnxmerge.data import ImageOptions
from onnxmerge.errors import UsageError
from onnxmerge.method import Method
from onnxmerge.outcomes import Choice, Decision
from onnxmerge.plan import Plan
from onnxmerge.study import Study

# What a plan records of a configuration: the methods, and the options that change what they compute; and how
# the data were read, which counts where nothing else is said. The data are given again.
_METHODS = (
    "criterion", "allocation", "compensation", "threshold", "trade_off", "shift_weight", "spread_weight",
    "patches",
)  # fmt: skip
_RECORDED = (*_METHODS, "seed", "recover", "precision", "target")
_READING = ("samples", "shapes", "images")
# What a candidate may have been fitted to, see ``outcomes.Choice``.
FIT_ON = ("all", "rest", "part", "none")


def planned(study: Study, plan: Plan, *, force: bool = False) -> Choice:
    """What a plan says, to be made as it was made.

    Args:
        force: whether a plan for another file counts where that has the same groups: the same network with
            other weights.

    Raises:
        UsageError: the plan belongs to another model, or keeps what this one does not have.
    """
    sizes = {group.name: len(group) for group in study.analysis.channels.groups}
    scoped, method = bool(study.analysis.channels.left_whole), study.method
    together = () if scoped or method.refits else [g.name for g in study.explanation.groups]
    difference = _difference(plan, sizes, together, scoped=scoped)
    foreign = plan.fingerprint != study.source.loaded.sha256
    if foreign and difference is not None:
        raise UsageError(f"the plan belongs to another model: {difference}")
    if foreign and not force:
        raise UsageError(
            f"the plan belongs to another model file, sha256 {plan.fingerprint[:12]}..., and this one is "
            f"{study.source.loaded.sha256[:12]}...; its groups are the same: where only the weights differ, "
            "force= applies the plan all the same"
        )
    if difference is not None:
        raise UsageError(difference)
    gone = plan.selection.emptied
    if not study.analysis.depth.together(gone):
        raise UsageError(
            f"the plan keeps no channel of {', '.join(repr(name) for name in gone)}: something that stays "
            "needs them"
        )
    fit_on = plan.method.get("fit_on", "all")
    if fit_on not in FIT_ON:
        raise UsageError(f"this is not a plan: fit_on is one of {', '.join(FIT_ON)}, not {fit_on!r}")
    if fit_on == "none" and study.analysis.removed(plan.selection).any():
        fit_on = "all"  # it was edited
    order = {name: np.array(ranked, dtype=np.int64) for name, ranked in plan.order.items()}
    return Choice(
        plan.selection,
        study.holdout(),
        replay=True,
        fit_on=str(fit_on),
        planned=True,
        foreign=foreign,
        order=order,
    )


def _difference(
    plan: Plan, sizes: Mapping[str, int], together: Collection[str], *, scoped: bool
) -> str | None:
    """Where a plan does not fit a model with groups of these sizes, in words.

    Args:
        together: groups that stay whole, unless they are among those, because nothing is refitted.
        scoped: whether the user wants some groups left whole, which are not among them.
    """
    for name, keep in plan.keep.items():
        if name not in sizes and name in together:
            return (
                f"the plan names the group '{name}', which is normalised or averaged together: its channels "
                "go only where what reads them is refitted, as with compensation= lstsq"
            )
        if name not in sizes:
            where = ", or which skip=, only= or scope= leave whole" if scoped else nearest(name, sizes)
            return f"the plan names the group '{name}', which this model does not have{where}"
        known = len(plan.order.get(name, ()))
        if known and known != sizes[name]:
            return f"the group '{name}' has {known} channels in the plan, and {sizes[name]} in this model"
        if keep and not 0 <= min(keep) <= max(keep) < sizes[name]:
            return f"the plan keeps unknown channels of '{name}', which has {sizes[name]}"
    return None


def plan_of(study: Study, decision: Decision) -> Plan:
    """What was decided, as a plan that makes it again."""
    loaded, selection, ranked = study.source.loaded, decision.candidate.selection, decision.choice.order
    # A plan that was applied stays as it is: what it does not name is no part of it.
    planned = decision.choice.planned
    groups = [g for g in study.analysis.channels.groups if not planned or g.name in selection.keep]
    keep, order = {}, {}
    for group in groups:
        index = selection.keep.get(group.name, np.arange(len(group)))
        best = ranked.get(group.name, np.arange(len(group)))
        stays = np.isin(best, index)
        keep[group.name] = tuple(int(i) for i in np.sort(index))
        order[group.name] = tuple(int(i) for i in (*best[stays], *best[~stays]))
    fit_on = "none" if decision.unchanged else decision.fit_on
    method = recorded(study.method, study.config) | {"fit_on": fit_on}
    if decision.recovery is None or not decision.recovery.taken:
        method["recover"] = None
    nodes = {group.name: group.nodes for group in groups}
    return Plan(loaded.sha256, keep, method, order, nodes, _data(study))


def _data(study: Study) -> dict[str, object]:
    """What the data of a run were, and how they were read."""
    options = study.config.as_dict()
    if study.config.images is not None:
        stated = asdict(study.config.images).items()
        options["images"] = {name: list(v) if isinstance(v, tuple) else v for name, v in stated}
    source = {"source": study.samples.fit.source}
    return source | {name: options[name] for name in _READING if options[name]}


def recorded(method: Method, config: Config) -> dict[str, object]:
    """The method of a run and its options, as a plan carries them."""
    options = config.as_dict()
    found = {name: options[name] for name in _RECORDED} | asdict(method)
    if config.precision is None:
        del found["precision"], found["target"]
    return found


def config_of_plan(config: Config, plan: Plan, given: Collection[str] = ()) -> Config:
    """The configuration that applies a plan: its own method and options in the place of the run's.

    What the plan does not record is taken from the configuration, and so is how data are read where that is
    given or not at its default.

    Args:
        given: options that were given by name; of others those that are not at their default count, too.

    Raises:
        UsageError: an option that was given differs from the plan's, or is a budget.
    """
    if config.budget is not None:
        raise UsageError(f"a plan takes the place of a budget: give the plan or {config.budget[0]}, not both")
    usual = {f.name: f.default for f in fields(config)}
    if not isinstance(plan, Plan):
        raise refused("plan", "a Plan, which Plan.load reads from a file", plan)
    own: dict[str, Any] = {name: value for name, value in plan.method.items() if name in _RECORDED}
    try:
        taught = own.pop("recover", None)
        if taught is not None:
            own["recover"] = Recovery(**taught)
    except TypeError as error:
        raise UsageError(f"this is not a plan: its recovery has unknown options ({error})") from error
    for name, value in own.items():
        asked = getattr(config, name)
        if asked not in (value, "auto") and (name in given or asked != usual[name]):
            raise UsageError(
                f"{name}={asked!r} contradicts the plan, which was made with {value!r}: "
                "leave the option out, or make another plan"
            )
    read: dict[str, Any] = {
        name: value
        for name, value in plan.data.items()
        if name in _READING and name not in given and getattr(config, name) == usual[name]
    }
    try:
        if isinstance(read.get("images"), Mapping):
            read["images"] = ImageOptions(**read["images"])
        return replace(config, **(own | read))
    except TypeError as error:
        raise UsageError(f"this is not a plan: its method has a value of the wrong type ({error})") from error

"""A plan in the place of a budget: what was decided before is done again."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, fields, replace
from typing import Any

from onnxmerge.config import Config, Recovery
from onnxmerge.errors import UsageError
from onnxmerge.method import Method
from onnxmerge.plan import Plan
from onnxmerge.study import Choice, Study

# What a plan records of a configuration: the methods, and the options that change what they compute. The
# data, and how they are read, are given again.
_METHODS = ("criterion", "allocation", "compensation", "threshold", "trade_off", "patches")
_RECORDED = (*_METHODS, "seed", "recover")
# What a candidate may have been fitted to, see ``study.Choice``.
FIT_ON = ("all", "rest", "part")


def planned(study: Study, plan: Plan) -> Choice:
    """What a plan says, to be made as it was made.

    Raises:
        UsageError: the plan belongs to another model, or keeps what this one does not have.
    """
    if plan.fingerprint != study.source.loaded.sha256:
        raise UsageError("the plan belongs to another model: its fingerprint differs")
    sizes = {group.name: len(group) for group in study.analysis.channels.groups}
    for name, keep in plan.keep.items():
        if name not in sizes:
            raise UsageError(f"the plan names the group '{name}', which this model does not have")
        if keep and not 0 <= min(keep) <= max(keep) < sizes[name]:
            raise UsageError(f"the plan keeps unknown channels of '{name}', which has {sizes[name]}")
    gone = plan.selection.emptied
    if not study.analysis.depth.together(gone):
        raise UsageError(
            f"the plan keeps no channel of {', '.join(repr(name) for name in gone)}: something that stays "
            "needs them"
        )
    fit_on = plan.method.get("fit_on", "all")
    if fit_on not in FIT_ON:
        raise UsageError(f"this is not a plan: fit_on is one of {', '.join(FIT_ON)}, not {fit_on!r}")
    return Choice(plan.selection, study.holdout(), replay=True, fit_on=str(fit_on), planned=True)


def recorded(method: Method, config: Config) -> dict[str, object]:
    """The method of a run and its options, as a plan carries them."""
    options = config.as_dict()
    return {name: options[name] for name in _RECORDED} | asdict(method)


def config_of_plan(config: Config, planned: Mapping[str, Any], given: Collection[str] = ()) -> Config:
    """The configuration that applies a plan: its own method and options in the place of the run's.

    What the plan does not record is taken from the configuration.

    Args:
        planned: what ``recorded`` gave.
        given: options that were given by name; of others those that are not at their default count, too.

    Raises:
        UsageError: an option that was given differs from the plan's, or is a budget.
    """
    if config.budget is not None:
        raise UsageError(f"a plan takes the place of a budget: give the plan or {config.budget[0]}, not both")
    usual = {f.name: f.default for f in fields(config)}
    own = {name: value for name, value in planned.items() if name in _RECORDED}
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
    try:
        return replace(config, **own)
    except TypeError as error:
        raise UsageError(f"this is not a plan: its method has a value of the wrong type ({error})") from error

"""A plan in the place of a budget: what was decided before is done again."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, fields, replace
from typing import Any

from onnxmerge.config import Config
from onnxmerge.errors import UsageError
from onnxmerge.method import Method
from onnxmerge.plan import Plan, Selection
from onnxmerge.study import Study

# What a plan records of a configuration: the methods, and every option that changes what they compute.
_RECORDED = ("criterion", "allocation", "compensation", "threshold", "trade_off", "patches", "seed")


def planned(study: Study, plan: Plan) -> Selection:
    """The selection of a plan.

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
    gone = [name for name, keep in plan.keep.items() if not keep]
    if not study.analysis.depth.together(gone):
        raise UsageError(
            f"the plan keeps no channel of {', '.join(repr(name) for name in gone)}: something that stays "
            "needs them"
        )
    return plan.selection


def recorded(method: Method, config: Config) -> dict[str, object]:
    """The method of a run and its options, as a plan carries them."""
    return {name: getattr(config, name) for name in _RECORDED} | asdict(method)


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

"""Which criterion, allocation and compensation a run takes, and why."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from onnxmerge.channels import Channels
from onnxmerge.channels.sites import fold_sites
from onnxmerge.config import Config
from onnxmerge.errors import UsageError
from onnxmerge.operators.parameters import is_normalization

# What a plan records of a configuration: the methods, and every option that changes what they compute.
_RECORDED = ("criterion", "allocation", "compensation", "threshold", "trade_off", "patches", "seed")


@dataclass(frozen=True)
class Method:
    """The methods of a run by their names, with the reason for those that were not asked for."""

    criterion: str
    allocation: str
    compensation: str
    why: str

    @property
    def fits_data(self) -> bool:
        """Whether anything is fitted to the values of the data."""
        return self.criterion == "reconstruction" or self.compensation in ("lstsq", "bias")


def choose_method(config: Config, channels: Channels, data_kind: str) -> Method:
    """The methods of a configuration, ``auto`` resolved.

    Args:
        data_kind: ``given``, ``generic`` (images shipped with the package) or ``made up``.
    """
    refitted = not channels.groups or _any_refitted(channels)
    real = data_kind in ("given", "generic") and refitted
    reasons = []
    compensation = config.compensation
    if compensation == "auto":
        if not refitted:
            compensation = "none"
            reasons.append("no compensation, for the weights behind the channels are quantised or computed")
        elif real:
            compensation = "lstsq"
            reasons.append(
                "lstsq, for there are data"
                if data_kind == "given"
                else "lstsq on generic images, for inputs are images"
            )
        elif any(is_normalization(node) for node in channels.view):
            compensation = "gaussian"
            reasons.append(
                "gaussian, for there are no data, but BatchNorm tells how channels are distributed"
            )
        else:
            compensation = "merge"
            reasons.append("merge, for there are no data and no BatchNorm")
    criterion = config.criterion
    if criterion == "auto":
        criterion = "reconstruction" if real else "l1"
        known = "data" if real else "no data" if refitted else "no weights to refit"
        reasons.append(f"{criterion}, for there are {known}")
    allocation = config.allocation
    if allocation == "auto":
        # A ratio is the published recipe: the same share of every group.
        allocation = "curves" if criterion == "reconstruction" and config.ratio is None else "uniform"
        reasons.append(f"{allocation} widths")
    return Method(criterion, allocation, compensation, "; ".join(reasons) or "as asked for")


def _any_refitted(channels: Channels) -> bool:
    """Whether some channel that can go is read by a stored floating-point weight."""
    return any((channels.group_of[site.channel] >= 0).any() for site in fold_sites(channels))


def recorded(method: Method, config: Config) -> dict[str, object]:
    """The method of a run and its options, as a plan carries them."""
    return {name: getattr(config, name) for name in _RECORDED} | asdict(method)


def as_planned(config: Config, planned: Mapping[str, Any], given: Collection[str] = ()) -> Config:
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

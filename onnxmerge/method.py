"""Which criterion, allocation and compensation a run takes, and why."""

from __future__ import annotations

from dataclasses import dataclass, replace

from onnxmerge.channels.analysis import Analysis
from onnxmerge.channels.scope import without_statistics
from onnxmerge.compensation import COMPENSATIONS, Merge
from onnxmerge.config import Config
from onnxmerge.criteria import CRITERIA
from onnxmerge.operators.parameters import is_normalization
from onnxmerge.statistics import Needs


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
        needs: set[object] = {CRITERIA[self.criterion].needs, COMPENSATIONS[self.compensation].needs}
        return needs != {Needs.NOTHING}

    @property
    def refits(self) -> bool:
        """Whether the consumers of removed channels are refitted, one after the other."""
        needs: set[object] = {COMPENSATIONS[self.compensation].needs}
        return needs == {Needs.PAIRED}


def choose_method(config: Config, analysis: Analysis, data_kind: str) -> Method:
    """The methods of a configuration, ``auto`` resolved.

    Args:
        data_kind: ``given``, ``generic`` (images shipped with the package) or ``made up``.
    """
    refitted = not analysis.channels.groups or _any_refitted(analysis)
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
        elif any(is_normalization(node) for node in analysis.channels.view):
            compensation = "gaussian"
            reasons.append(
                "gaussian, for there are no data, but BatchNorm tells how channels are distributed"
            )
        elif config.criterion == "auto" and not _steers_merging(config):
            # What stays of the answers of small nets is in tools/results/without_data.md.
            compensation = "folding"
            reasons.append(
                "folding, which chooses its channels itself, for there are no data and no BatchNorm"
            )
        else:
            compensation = "merge"
            reasons.append("merge, for there are no data and no BatchNorm, and its options or a criterion")
    criterion = config.criterion
    if criterion == "auto":
        criterion = "reconstruction" if real else "l1"
        known = "data" if real else "no data" if refitted else "no weights to refit"
        where = " where channels cannot be folded" if compensation == "folding" else ""
        reasons.append(f"{criterion}{where}, for there are {known}")
    allocation = config.allocation
    if allocation == "auto":
        # A ratio is the published recipe: the same share of every group.
        allocation = "curves" if criterion == "reconstruction" and config.ratio is None else "uniform"
        reasons.append(f"{allocation} widths")
    method = Method(criterion, allocation, compensation, "; ".join(reasons) or "as asked for")
    together = len(analysis.channels.groups) - len(without_statistics(analysis.channels).groups)
    if together and not method.refits:
        left = "what is normalised together keeps its width, for nothing is refitted"
        method = replace(method, why=f"{method.why}; {left}")
    return method


def _steers_merging(config: Config) -> bool:
    """Whether options of merging were given."""
    return config.threshold != Merge.threshold or config.trade_off != Merge.trade_off


def _any_refitted(analysis: Analysis) -> bool:
    """Whether some channel that can go is read by a stored floating-point weight."""
    return any((analysis.channels.group_of[site.channel] >= 0).any() for site in analysis.sites)

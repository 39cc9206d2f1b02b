"""One-to-many restoration: every removed filter as a linear combination of all kept ones, from weights alone.

Source: Lee, Kim, Choi, Training-Free Restoration of Pruned Neural Networks (arXiv 2502.08474, "Leave Before
You Leave"): the error of a removed channel's map is bounded by what the filters leave over, what
BatchNorm's shifts leave over, and what the activation makes of the combination; the weighted sum of the
three is a ridge regression with one solution. What is taken from there is the form of the three terms; the
weights of the last two are our own, for they were published per network and dataset. They were chosen on 150
training images with a quarter of the in-block channels removed: lambda1 hardly matters below 0.1, and of
lambda2 between 0.01 and 3 a ResNet-20 wants the largest (72% of the labels at 1, 56% at 0.01, and 75% with
plain removal, which is better there), a ResNet-8 a small one (27% at 0.3, 26% at 1, 20% with plain removal).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from onnxmerge.channels.filters import Filters, channel_filters
from onnxmerge.channels.sites import FoldSite
from onnxmerge.compensation.folding import fold_combinations
from onnxmerge.compensation.solvers import ridge
from onnxmerge.statistics import Needs
from onnxmerge.statistics.dense import Statistics


@dataclass(frozen=True)
class LeaveBeforeYouLeave:
    """Hands each removed channel on to all kept channels of its group.

    Attributes:
        shift_weight: lambda1, the weight of what BatchNorm's shifts leave over, against what the filters
            leave over.
        spread_weight: lambda2, the weight of the penalty on the coefficients, which bounds what activations
            add, as a share of the mean square of the kept filters.
    """

    shift_weight: float = 0.01
    spread_weight: float = 1.0
    needs: ClassVar[Literal[Needs.NOTHING]] = Needs.NOTHING

    def __call__(
        self, site: FoldSite, kept: np.ndarray, statistics: Statistics | None = None
    ) -> tuple[np.ndarray | None, None]:
        channels = site.channels
        weight: np.ndarray | None = None
        for number in np.unique(channels.group_of[site.channel]):
            if number < 0 or site.contract.blocks > 1:
                continue
            group = channels.groups[number]
            stays = kept[group.channels]
            filters = channel_filters(channels, group)
            if stays.all() or not stays.any() or not filters:
                continue
            coefficients = combine(filters, stays, self.shift_weight, self.spread_weight)
            gone, rest = group.channels[~stays], group.channels[stays]
            before = site.values if weight is None else weight
            weight = fold_combinations(site, before, gone, rest, coefficients)
        return weight, None


def combine(
    filters: list[Filters], stays: np.ndarray, shift_weight: float, spread_weight: float
) -> np.ndarray:
    """The coefficients of the kept channels in every removed one.

    Args:
        filters: one entry per producer of the group's channels; those of several are put side by side, each
            divided by its Frobenius norm.
        stays: bool [C].

    Returns:
        float64 [removed, kept].
    """
    parts = [_features(one, shift_weight) for one in filters]
    if len(parts) > 1:
        parts = [part / max(float(np.linalg.norm(part)), 1e-12) for part in parts]
    features = np.concatenate(parts, axis=1)
    left, gone = features[stays], features[~stays]
    return ridge(left @ left.T, gone @ left.T, np.zeros((len(gone), len(left))), spread_weight)


def _features(filters: Filters, shift_weight: float) -> np.ndarray:
    """What a channel is before its activation, float64 [C, n + 1]: its filter, scaled, and its shift."""
    norm = filters.batch_norm
    if norm is None:
        return filters.vectors
    scale = norm.gamma / np.sqrt(norm.variance)
    shift = norm.beta - scale * norm.mean
    return np.concatenate([scale[:, None] * filters.vectors, np.sqrt(shift_weight) * shift[:, None]], axis=1)

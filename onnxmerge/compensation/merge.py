"""Neuron merging: every removed channel hands its outgoing weights, scaled, to the most similar kept one.

Source: Kim et al., Neuron Merging: Compensating for Pruned Neurons (NeurIPS 2020), Algorithm 1 and
its public implementation. The BatchNorm part of the scale is the published one, with the running
variance where the text writes a standard deviation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal
from weakref import WeakKeyDictionary

import numpy as np

from onnxmerge.channels import Channels, Group
from onnxmerge.channels.filters import Filters, channel_filters
from onnxmerge.channels.sites import BatchNorm, FoldSite
from onnxmerge.compensation.folding import fold_into_partners
from onnxmerge.statistics import Needs
from onnxmerge.statistics.dense import Statistics

# Default thresholds of the published experiments for fully connected and convolutional producers.
DENSE_THRESHOLD = 0.45
CONVOLUTION_THRESHOLD = 0.1
_TINY = 1e-12
# Filters and gammas below this share of the largest of their layer make no channel.
DEAD = 1e-3


# Of every channel of a group its partner's place, int64 [C], -1 for none, and the scale, float64 [C].
Matches = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Merge:
    """One-to-one merging from the weights alone.

    Attributes:
        threshold: smallest cosine at which a channel is merged; None: 0.45 dense, 0.1 convolution.
        trade_off: lambda, the weight of the cosine against the BatchNorm shift.
    """

    threshold: float | None = None
    trade_off: float = 0.85
    needs: ClassVar[Literal[Needs.NOTHING]] = Needs.NOTHING
    # All consumers of a group have the same matches: per analysis by (group, kept).
    _matched: WeakKeyDictionary[Channels, dict[tuple[str, bytes], Matches]] = field(
        default_factory=WeakKeyDictionary, init=False, compare=False, repr=False
    )

    def __call__(
        self, site: FoldSite, kept: np.ndarray, statistics: Statistics | None = None
    ) -> tuple[np.ndarray | None, None]:
        channels = site.channels
        partner = np.full(channels.count, -1, dtype=np.int64)
        scale = np.zeros(channels.count)
        for number in np.unique(channels.group_of[site.channel]):
            if number >= 0:
                group = channels.groups[number]
                places, factors = self.matches(channels, group, kept[group.channels])
                found = places >= 0
                partner[group.channels[found]] = group.channels[places[found]]
                scale[group.channels[found]] = factors[found]
        return fold_into_partners(site, kept, partner, scale), None

    def matches(self, channels: Channels, group: Group, stays: np.ndarray) -> Matches:
        """The partner and the scale of every channel of a group that goes; ``stays`` is bool [C]."""
        known, key = self._matched.setdefault(channels, {}), (group.name, stays.tobytes())
        if key not in known:
            filters = channel_filters(channels, group)
            known[key] = match(filters, stays, self._threshold(filters), self.trade_off)
        return known[key]

    def _threshold(self, filters: list[Filters]) -> float:
        if self.threshold is not None:
            return self.threshold
        return CONVOLUTION_THRESHOLD if any(f.convolution for f in filters) else DENSE_THRESHOLD


def match(filters: list[Filters], stays: np.ndarray, threshold: float, trade_off: float) -> Matches:
    """The partner and the scale of every removed channel of a group (Kim et al. 2020, Algorithm 1).

    Several producers (a residual stream) are compared by the concatenation of their filters, each
    divided by its layer's Frobenius norm; scale and shift are means over them.

    Args:
        filters: one entry per producer of the group's channels.
        stays: bool [C].
        threshold: smallest cosine at which a channel is merged.
        trade_off: weight of the cosine, 0..1, against the BatchNorm shift.
    """
    count = len(stays)
    partner, scale = np.full(count, -1, dtype=np.int64), np.zeros(count)
    gone, kept = np.flatnonzero(~stays), np.flatnonzero(stays)
    if not filters or not len(gone) or not len(kept):
        return partner, scale
    cosine = _cosines(filters, gone, kept)
    scales = _mean([_scale(f, gone, kept) for f in filters], filters, gone, kept)
    norms = [f for f in filters if f.batch_norm is not None]
    if norms:
        shift = _mean([_shift(f, gone, kept) for f in norms], norms, gone, kept)
        low, high = shift.min(axis=1, keepdims=True), shift.max(axis=1, keepdims=True)
        shift = (shift - low) / np.where(high > low, high - low, 1.0)
        best = np.argmin(trade_off * (1 - cosine) + (1 - trade_off) * shift, axis=1)
    else:
        best = np.argmax(cosine, axis=1)
    rows = np.arange(len(gone))
    good = (cosine[rows, best] >= threshold) & np.isfinite(scales[rows, best])
    partner[gone[good]] = kept[best[good]]
    scale[gone[good]] = scales[rows, best][good]
    return partner, scale


def _mean(values: list[np.ndarray], filters: list[Filters], gone: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The mean over producers, [gone, kept]; of several, those in which one of the two is dead do not count.

    In a residual stream a channel is often dead in one block and alive in others: dividing by what it
    has there would say nothing about it.
    """
    if len(values) == 1:
        return values[0]
    alive = [_alive(f) for f in filters]
    counted = np.array([a[gone][:, None] & a[kept][None, :] for a in alive], dtype=np.float64)
    mean: np.ndarray = (counted * np.array(values)).sum(axis=0) / np.maximum(counted.sum(axis=0), 1)
    return mean


def _alive(filters: Filters) -> np.ndarray:
    """bool [C]: whether a producer makes more than a constant of a channel."""
    size = np.linalg.norm(filters.vectors, axis=1)
    alive: np.ndarray = size > DEAD * size.max(initial=0)
    if filters.batch_norm is not None:
        gamma = np.abs(filters.batch_norm.gamma)
        alive &= gamma > DEAD * gamma.max(initial=0)
    return alive


def _cosines(filters: list[Filters], gone: np.ndarray, kept: np.ndarray) -> np.ndarray:
    several = len(filters) > 1
    parts = [f.vectors / max(np.linalg.norm(f.vectors), _TINY) if several else f.vectors for f in filters]
    vectors = np.concatenate(parts, axis=1)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), _TINY)
    cosines: np.ndarray = unit[gone] @ unit[kept].T
    return cosines


def _ratios(filters: Filters, gone: np.ndarray, kept: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(filters.vectors, axis=1)
    ratios: np.ndarray = length[gone][:, None] / np.maximum(length[kept][None, :], _TINY)
    return ratios


def _scale(filters: Filters, gone: np.ndarray, kept: np.ndarray) -> np.ndarray:
    ratio = _ratios(filters, gone, kept)
    norm = filters.batch_norm
    if norm is None:
        return ratio
    gamma_i, gamma_j = _guard(norm.gamma)[gone][:, None], norm.gamma[kept][None, :]
    sigma_i, sigma_j = norm.variance[gone][:, None], _guard(norm.variance)[kept][None, :]
    scale: np.ndarray = ratio * (gamma_j / gamma_i) * (sigma_i / sigma_j)
    return scale


def _shift(filters: Filters, gone: np.ndarray, kept: np.ndarray) -> np.ndarray:
    norm: BatchNorm = filters.batch_norm  # type: ignore[assignment]
    ratio = _ratios(filters, gone, kept)
    gamma, sigma = _guard(norm.gamma), _guard(norm.variance)
    inner = norm.mean[gone] - sigma[gone] * norm.beta[gone] / gamma[gone]
    shift = (norm.gamma[kept] / sigma[kept])[None, :] * (ratio * inner[:, None] - norm.mean[kept][None, :])
    shift = np.abs(shift + norm.beta[kept][None, :])
    relative: np.ndarray = shift / _guard(_scale(filters, gone, kept))
    return relative


def _guard(values: np.ndarray) -> np.ndarray:
    """Values without zeros, signs kept."""
    return np.where(np.abs(values) < _TINY, np.where(values < 0, -_TINY, _TINY), values)

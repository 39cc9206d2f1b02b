"""Folding what removed channels carried into the kept columns of a consumer."""

from __future__ import annotations

import numpy as np

from onnxmerge.channels.sites import FoldSite


def fold_mixing(site: FoldSite, kept: np.ndarray, partner: np.ndarray, scale: np.ndarray) -> np.ndarray | None:
    """The consumer's weight with each removed channel's columns added, scaled, to its partner's.

    A channel that owns several columns (Flatten) hands each to the partner's column of the same rank.

    Args:
        kept: bool [channels].
        partner: int64 [channels], -1 for none.
        scale: float64 [channels].

    Returns:
        The weight at full size, float64, or None where nothing changes.
    """
    gone = np.flatnonzero(~kept[site.channel] & (partner[site.channel] >= 0))
    if not len(gone):
        return None
    rank = ranks(site.channel)
    place = {(c, r): i for i, (c, r) in enumerate(zip(site.channel.tolist(), rank.tolist(), strict=True))}
    keys = zip(partner[site.channel[gone]].tolist(), rank[gone].tolist(), strict=True)
    target = np.array([place.get(key, -1) for key in keys])
    gone, target = gone[target >= 0], target[target >= 0]
    weight = np.moveaxis(np.asarray(site.weight.constant, dtype=np.float64), site.axis, 0).copy()
    factor = scale[site.channel[gone]].reshape(-1, *[1] * (weight.ndim - 1))
    np.add.at(weight, target, factor * weight[gone])
    return np.moveaxis(weight, 0, site.axis)


def ranks(channel: np.ndarray) -> np.ndarray:
    """For every position: how many positions of the same channel come before it."""
    order = np.argsort(channel, kind="stable")
    ordered = channel[order]
    first = np.r_[True, ordered[1:] != ordered[:-1]]
    start = np.maximum.accumulate(np.where(first, np.arange(len(ordered)), 0))
    result = np.empty_like(channel)
    result[order] = np.arange(len(ordered)) - start
    return result

"""Folding what removed channels carried into the kept columns of a consumer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxmerge.channels.sites import FoldSite


def fold_into_partners(
    site: FoldSite, kept: np.ndarray, partner: np.ndarray, scale: np.ndarray
) -> np.ndarray | None:
    """The consumer's weight with the columns of each removed channel added, scaled, to those of its partner.

    A channel that owns several columns (Flatten) hands each to the partner's column of the same rank.

    Args:
        kept: bool [channels].
        partner: int64 [channels], -1 for none.
        scale: float64 [channels].

    Returns:
        The weight at full size, in the precision of ``site.values``, or None where nothing changes.
    """
    target = onto_partners(site.channel, np.where(kept, -1, partner))
    gone = np.flatnonzero(target >= 0)
    if not len(gone):
        return None
    target = target[gone]
    weight = np.moveaxis(np.array(site.values), site.axis, 0)
    factor = scale[site.channel[gone]].reshape(-1, *[1] * (weight.ndim - 1))
    np.add.at(weight, target, factor * weight[gone])
    return np.moveaxis(weight, 0, site.axis)


def onto_partners(channel: np.ndarray, partner: np.ndarray) -> np.ndarray:
    """For every position on an axis the one of the same rank of its channel's partner, or -1.

    Args:
        channel: the channel at every position, int64 [positions].
        partner: of every channel, int64 [channels], -1 for none.
    """
    rank, others = ranks(channel), partner[channel]
    place = {key: i for i, key in enumerate(zip(channel.tolist(), rank.tolist(), strict=True))}
    keys = zip(others.tolist(), rank.tolist(), strict=True)
    return np.array([place.get(key, -1) for key in keys], dtype=np.int64)


def fold_combinations(
    site: FoldSite, weight: np.ndarray, gone: np.ndarray, rest: np.ndarray, coefficients: np.ndarray
) -> np.ndarray:
    """A consumer's weight with the columns of removed channels added to those of all kept ones.

    A channel that owns several columns (Flatten) hands each to the columns of the same rank.

    Args:
        weight: at full size, in the layout of the file.
        gone, rest: int64, the channels that go and those that take over.
        coefficients: float64 [gone, rest].

    Returns:
        A new weight, in the precision of ``weight``.
    """
    rank = ranks(site.channel)
    moved = np.moveaxis(np.array(weight), site.axis, 0)
    for number in range(int(rank.max(initial=-1)) + 1):
        here = np.flatnonzero(rank == number)
        place = np.full(site.channels.count, -1, dtype=np.int64)
        place[site.channel[here]] = here
        leaving, taking = place[gone], place[rest]
        read, takers = leaving >= 0, taking >= 0
        shares = coefficients[read][:, takers].T
        moved[taking[takers]] += np.tensordot(shares, moved[leaving[read]], axes=1).astype(moved.dtype)
    return np.moveaxis(moved, 0, site.axis)


def ranks(channel: np.ndarray) -> np.ndarray:
    """For every position: how many positions of the same channel come before it."""
    order = np.argsort(channel, kind="stable")
    ordered = channel[order]
    first = np.r_[True, ordered[1:] != ordered[:-1]]
    start = np.maximum.accumulate(np.where(first, np.arange(len(ordered)), 0))
    result = np.empty_like(channel)
    result[order] = np.arange(len(ordered)) - start
    return result


def fold_predictions(site: FoldSite, stays: np.ndarray, factors: Sequence[np.ndarray | None]) -> np.ndarray:
    """The consumer's weight with removed data positions replaced by linear predictions from kept ones.

    Args:
        stays: bool [data.size].
        factors: per block the coefficients, float64 [removed, kept] of its data positions; None: zeros.

    Returns:
        The weight at full size, in the precision of ``site.values``; columns of removed positions stay.
    """
    weight = np.moveaxis(np.array(site.values), site.axis, 0)
    width = len(stays) // len(factors)
    for number, factor in enumerate(factors):
        part = slice(number * width, (number + 1) * width)
        if factor is None:
            continue
        columns, stay = site.columns[part], stays[part]
        _block(site, weight, number, len(factors), width)[columns[stay]] += np.tensordot(
            factor.T, _block(site, weight, number, len(factors), width)[columns[~stay]], axes=1
        )
    return np.moveaxis(weight, 0, site.axis)


def _block(site: FoldSite, weight: np.ndarray, number: int, blocks: int, width: int) -> np.ndarray:
    """The part of a weight (contracted axis first) that reads one block of the data, as a view."""
    if blocks == 1 or site.rows is None or weight.shape[0] != width:
        return weight
    # A grouped convolution whose blocks share the columns: each has its own rows.
    rows = site.rows + (site.rows < site.axis)
    size = weight.shape[rows] // blocks
    return weight[(slice(None),) * rows + (slice(number * size, (number + 1) * size),)]


def response_to_constant(site: FoldSite, values: np.ndarray) -> np.ndarray:
    """What constant values at the data positions, float64 [data.size], add to every row, float64 [rows]."""
    assert site.rows is not None
    weight = np.moveaxis(site.values, (site.rows, site.axis), (0, 1))
    per_column = weight.reshape(weight.shape[0], weight.shape[1], -1).sum(axis=2, dtype=np.float64)
    blocks = site.contract.blocks
    parts = zip(
        np.split(per_column, blocks), np.split(site.columns, blocks), np.split(values, blocks), strict=True
    )
    return np.concatenate([rows[:, columns] @ value for rows, columns, value in parts])

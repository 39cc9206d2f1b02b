"""Which channels least squares can do without: backward elimination with exact updates.

For targets B P regressed on features P with precision H (the inverse of their covariance), taking the
features of channel j away and refitting the rest costs tr(B_j H_jj^-1 B_j'), and leaves
B - B_j H_jj^-1 H_j: and H - H_:j H_jj^-1 H_j: (the block form of the optimal brain surgeon, Hassibi and
Stork 1993, section 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg.lapack import dpotrf, dpotri

# Added to the diagonal of a covariance before it is inverted, as a share of the mean diagonal.
RIDGE = 1e-6


@dataclass(frozen=True, eq=False)
class Regression:
    """One consumer of the channels that are compared.

    Attributes:
        precision: inverse covariance of the features, float64 [F, F].
        coefficients: float64 [O, F], scaled so that squared errors of all regressions can be added.
        owner: the place of every feature's channel among the candidates, int64 [F], -1 for others.
    """

    precision: np.ndarray
    coefficients: np.ndarray
    owner: np.ndarray


def precision(gram: np.ndarray, ridge: float = RIDGE) -> np.ndarray:
    """The inverse of a covariance, lightly regularised; float64 [F, F]."""
    scale = float(np.trace(gram)) / max(len(gram), 1) or 1.0
    while True:
        factor, failed = dpotrf(gram / scale + ridge * np.eye(len(gram)), lower=1)
        if not failed:
            break
        ridge *= 10  # rounding left a negative eigenvalue beyond the ridge
    inverse = np.tril(dpotri(factor, lower=1)[0])
    return (inverse + np.tril(inverse, -1).T) / scale


def eliminate(regressions: Sequence[Regression], count: int, least: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Remove channels one by one, always the one that costs least.

    Args:
        count: number of candidates.
        least: how many stay.

    Returns:
        The order of removal, int64 [count - least], and the summed cost after each, float64 [count - least].
    """
    states = [_State(r, count) for r in regressions]
    order, costs, total = [], [], 0.0
    alive = np.ones(count, dtype=bool)
    for _ in range(count - least):
        increments = sum((s.increments() for s in states), start=np.zeros(count))
        increments[~alive] = np.inf
        worst = int(np.argmin(increments))
        alive[worst] = False
        total += max(float(increments[worst]), 0.0)
        for state in states:
            state.remove(worst)
        order.append(worst)
        costs.append(total)
    return np.array(order, dtype=np.int64), np.array(costs)


class _State:
    """One regression under elimination, features ordered by channel with as many for each."""

    def __init__(self, regression: Regression, count: int):
        owner = regression.owner
        per_channel = np.bincount(owner[owner >= 0], minlength=count)
        self._each = int(per_channel.max(initial=1))
        others = np.flatnonzero(owner < 0)
        order = [others]
        real = len(owner)
        # Channels with fewer features than others get idle ones: independent and without weight.
        idle = count * self._each - int(per_channel.sum())
        total = real + idle
        h = np.eye(total)
        h[:real, :real] = regression.precision
        b = np.zeros((len(regression.coefficients), total))
        b[:, :real] = regression.coefficients
        free = iter(range(real, total))
        by_owner = np.argsort(np.where(owner < 0, count, owner), kind="stable")
        starts = np.concatenate([[0], np.cumsum(per_channel)])
        for channel in range(count):
            mine = by_owner[starts[channel] : starts[channel + 1]].tolist()
            mine += [next(free) for _ in range(self._each - len(mine))]
            order.append(np.array(mine, dtype=np.int64))
        index = np.concatenate(order)
        self._first, self._count = len(others), count
        self._h = np.ascontiguousarray(h[np.ix_(index, index)])
        self._b = np.ascontiguousarray(b[:, index])

    def increments(self) -> np.ndarray:
        """What removing each channel would cost, float64 [count]."""
        c, t, first = self._count, self._each, self._first
        h = self._h[first:, first:].reshape(c, t, c, t)
        blocks = h[np.arange(c), :, np.arange(c), :]
        if t == 1:
            return (self._b[:, first:] ** 2).sum(axis=0) / np.maximum(blocks[:, 0, 0], 1e-300)
        b = self._b[:, first:].reshape(len(self._b), c, t)
        squares = np.einsum("oci,ocj->cij", b, b, optimize=True)
        return np.trace(np.linalg.solve(blocks, squares), axis1=1, axis2=2)

    def remove(self, channel: int) -> None:
        place = slice(self._first + channel * self._each, self._first + (channel + 1) * self._each)
        rows = self._h[place].copy()
        gain = np.linalg.solve(rows[:, place], rows)
        self._b -= self._b[:, place] @ gain
        self._h -= rows.T @ gain
        # A removed channel is independent of all others from here on.
        self._h[place, :] = 0
        self._h[:, place] = 0
        self._h[place, place] = np.eye(self._each)
        self._b[:, place] = 0

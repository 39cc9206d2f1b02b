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
from scipy.linalg.blas import dgemm
from scipy.linalg.lapack import dpotrf, dpotri

# Shares of the mean variance that are added to the variances before a covariance is inverted: so little
# where copies are looked for, and so much, and the number of features per row, where channels are compared.
TINY = 1e-6
SHRINKAGE = 0.2
# Channels that cost together less than this share of what the regression explains are copies.
FREE = 1e-5
# A covariance of fewer rows per feature than this cannot tell copies.
_ROWS_PER_FEATURE = 3
# Wide groups lose several channels between two updates, so that there are at most so many.
_MOST_STEPS = 1024


@dataclass(frozen=True, eq=False)
class Regression:
    """One consumer of the channels that are compared.

    Attributes:
        gram: covariance of the features, float64 [F, F].
        coefficients: float64 [O, F], scaled so that squared errors of all regressions can be added.
        owner: the place of every feature's channel among the candidates, int64 [F], -1 for others.
        rows: how many rows the covariance is from.
    """

    gram: np.ndarray
    coefficients: np.ndarray
    owner: np.ndarray
    rows: int

    @property
    def ridge(self) -> float:
        """How much the covariance is regularised: the more, the fewer rows there are per feature."""
        return SHRINKAGE + len(self.gram) / max(self.rows, 1)

    @property
    def explained(self) -> float:
        """The summed variance of the targets."""
        return float(np.sum((self.coefficients @ self.gram) * self.coefficients))

    def without(self, channels: Sequence[int]) -> Regression:
        """The same targets regressed on the features of the other channels."""
        if not channels:
            return self
        left = np.flatnonzero(~np.isin(self.owner, channels))
        gram = self.gram[np.ix_(left, left)]
        coefficients = (self.coefficients @ self.gram[:, left]) @ precision(gram, TINY)
        return Regression(gram, coefficients, self.owner[left], self.rows)


def precision(gram: np.ndarray, ridge: float) -> np.ndarray:
    """The inverse of a covariance with ``ridge`` times its mean variance on the diagonal; float64 [F, F]."""
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

    Copies go first, found with next to no regularisation; the others are compared with more of it.

    Args:
        count: number of candidates.
        least: how many stay.

    Returns:
        The order of removal, int64 [count - least], and the summed cost after each, float64 [count - least].
    """
    if not regressions:
        return np.arange(count - least), np.zeros(count - least)
    order: list[int] = []
    costs: list[float] = []
    if all(r.rows >= _ROWS_PER_FEATURE * len(r.gram) for r in regressions):
        states = [_State(r, count, TINY) for r in regressions]
        _remove(states, count - least, FREE * sum(r.explained for r in regressions), order, costs)
    states = [_State(left := r.without(order), count, left.ridge, order) for r in regressions]
    _remove(states, count - least, np.inf, order, costs)
    return np.array(order, dtype=np.int64), np.array(costs)


def _remove(states: list[_State], goal: int, most: float, order: list[int], costs: list[float]) -> None:
    """Go on until ``goal`` channels are gone or the cost would exceed ``most``."""
    total = costs[-1] if costs else 0.0
    together = max(states[0].total // _MOST_STEPS, 1)
    while len(order) < goal:
        increments = np.sum([s.increments() for s in states], axis=0)
        worst = [int(i) for i in np.argsort(increments, kind="stable")[: min(together, goal - len(order))]]
        if total + increments[worst].sum() > most:
            break
        for state in states:
            state.remove(worst)
        order += worst
        costs += list(total + np.cumsum(np.maximum(increments[worst], 0.0)))
        total = costs[-1]


class _State:
    """One regression under elimination: features ordered by channel, with as many for each.

    ``h`` and ``b`` are in Fortran order, so that BLAS updates them in place; the removed are squeezed
    out from time to time.
    """

    def __init__(self, regression: Regression, count: int, ridge: float, gone: Sequence[int] = ()):
        index, each, idle = _by_channel(regression.owner, count)
        real = len(regression.owner)
        h = np.eye(real + idle)
        h[:real, :real] = precision(regression.gram, ridge)
        b = np.zeros((len(regression.coefficients), real + idle))
        b[:, :real] = regression.coefficients
        if len(b) > b.shape[1]:
            # Only products of coefficients with one another count, and this has the same ones.
            b = np.asarray(np.linalg.qr(b, mode="r"))
        self._each, self.total = each, count
        self._first = len(index) - count * each
        self._h = np.asfortranarray(h[np.ix_(index, index)])
        self._b = np.asfortranarray(b[:, index])
        self._channels = np.arange(count)
        self._gone = np.isin(self._channels, gone)
        self._squeeze()

    def increments(self) -> np.ndarray:
        """What removing each channel would cost, float64 [count]; infinite for those that are gone."""
        c, t, first = len(self._channels), self._each, self._first
        result = np.full(self.total, np.inf)
        if t == 1:
            left = self._b[:, first:]
            found = np.einsum("oc,oc->c", left, left) / np.maximum(np.diagonal(self._h)[first:], 1e-300)
        else:
            blocks = self._h[first:, first:].reshape(c, t, c, t)[np.arange(c), :, np.arange(c), :]
            b = self._b[:, first:].reshape(len(self._b), c, t).transpose(1, 2, 0)
            found = np.trace(np.linalg.solve(blocks, b @ b.transpose(0, 2, 1)), axis1=1, axis2=2)
        result[self._channels[~self._gone]] = found[~self._gone]
        return result

    def remove(self, channels: Sequence[int]) -> None:
        numbers = np.searchsorted(self._channels, channels)
        starts = self._first + numbers * self._each
        place: slice | np.ndarray
        if len(numbers) == 1:
            place = slice(int(starts[0]), int(starts[0]) + self._each)
        else:
            place = (starts[:, None] + np.arange(self._each)).reshape(-1)
        rows = self._h[:, place].T.copy()
        gain = np.linalg.solve(rows[:, place], rows)
        self._b = dgemm(-1.0, self._b[:, place].copy(), gain, beta=1.0, c=self._b, overwrite_c=1)
        self._h = dgemm(-1.0, rows.T, gain, beta=1.0, c=self._h, overwrite_c=1)
        # A removed channel is independent of all others from here on.
        self._h[place, :] = 0
        self._h[:, place] = 0
        if isinstance(place, slice):
            self._h[place, place] = np.eye(self._each)
        else:
            self._h[place, place] = 1.0
        self._b[:, place] = 0
        self._gone[numbers] = True
        if self._gone.sum() > len(self._gone) // 6:
            self._squeeze()

    def _squeeze(self) -> None:
        stay = np.concatenate([np.ones(self._first, dtype=bool), np.repeat(~self._gone, self._each)])
        self._h = np.asfortranarray(self._h[np.ix_(stay, stay)])
        self._b = np.asfortranarray(self._b[:, stay])
        self._channels = self._channels[~self._gone]
        self._gone = np.zeros(len(self._channels), dtype=bool)


def _by_channel(owner: np.ndarray, count: int) -> tuple[np.ndarray, int, int]:
    """Features of no candidate first, then those of each channel; channels with fewer get idle ones.

    Idle features are independent and without weight; they stand behind the real ones.

    Returns:
        The order, how many features each channel has, and how many idle features there are.
    """
    per_channel = np.bincount(owner[owner >= 0], minlength=count)
    each = int(per_channel.max(initial=1))
    missing = each - per_channel
    idle_owner = np.repeat(np.arange(count), missing)
    index = np.argsort(np.concatenate([owner, idle_owner]), kind="stable")
    return index, each, int(missing.sum())

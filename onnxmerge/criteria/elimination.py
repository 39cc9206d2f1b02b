"""Which channels least squares can do without: backward elimination with exact updates.

For targets B P regressed on features P with precision H (the inverse of their covariance), taking the
features of channel j away and refitting the rest costs tr(B_j H_jj^-1 B_j'), and leaves
B - B_j H_jj^-1 H_j: and H - H_:j H_jj^-1 H_j: (the block form of the optimal brain surgeon, Hassibi and
Stork 1993, section 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.linalg.blas import dgemm
from scipy.linalg.lapack import dpotrf, dpotri

from onnxmerge.statistics.moments import Symmetric

# Before a covariance is inverted, this share of its mean variance is added to the diagonal while channels
# that are copies of others are looked for.
TINY = 1e-6
# While the others are compared, this share plus the number of features per row is added.
SHRINKAGE = 0.2
# Channels that together cost less than this share of the variance that the regressions explain are copies.
FREE = 1e-5
# With fewer rows per feature a covariance does not show which channels are copies.
_ROWS_PER_FEATURE = 3
# From wide groups several channels are removed between two updates: there are at most so many updates.
_MOST_STEPS = 1024
# The whole precision matrix is updated once for so many features that were removed.
_POSTPONED = 64


@dataclass(frozen=True, eq=False)
class Consumer:
    """What reads the channels that are compared, and maybe those of other groups.

    Attributes:
        covariance: of the features, [F, F].
        coefficients: float64 [O, F], scaled so that squared errors of all consumers can be added.
        rows: how many rows the covariance is from.
        group: the group of every feature's channel, int64 [F]; None: all are of one.
    """

    covariance: np.ndarray | Symmetric
    coefficients: np.ndarray
    rows: int
    group: np.ndarray | None = None

    @property
    def gram(self) -> np.ndarray:
        """The covariance as a whole; of many features it is put together whenever it is asked for."""
        whole = self.covariance
        return whole if isinstance(whole, np.ndarray) else whole.square

    @property
    def features(self) -> int:
        return len(self.covariance)

    @property
    def ridge(self) -> float:
        """How much the covariance is regularised: the more, the fewer rows there are per feature."""
        return SHRINKAGE + self.features / max(self.rows, 1)

    @cached_property
    def explained(self) -> float:
        """The summed variance of the targets."""
        return float(np.sum((self.coefficients @ self.gram) * self.coefficients))

    def precision(self, places: np.ndarray, ridge: float) -> np.ndarray:
        """Rows and columns of ``precision``, of features of one group; float64 [places, places].

        Groups are compared one after the other: what lies within the others is kept for them.
        """
        if self.group is None or not len(places):
            return precision(self.gram, ridge)[np.ix_(places, places)]
        if ridge not in self._within:
            whole, groups = precision(self.gram, ridge), np.unique(self.group)
            self._within[ridge] = {
                int(g): whole[np.ix_(at := self._places(g), at)] for g in groups[groups >= 0]
            }
        group = int(self.group[places[0]])
        here = np.searchsorted(self._places(group), places)
        return self._within[ridge][group][np.ix_(here, here)]

    def _places(self, group: int) -> np.ndarray:
        return np.flatnonzero(self.group == group)

    @cached_property
    def _within(self) -> dict[float, dict[int, np.ndarray]]:
        """By regularisation and group, its part of the precision."""
        return {}


@dataclass(frozen=True, eq=False)
class Regression:
    """A consumer of the channels that are compared.

    Attributes:
        owner: the place of every feature's channel among the candidates, int64 [F], -1 for others.
    """

    consumer: Consumer
    owner: np.ndarray

    def without(self, channels: Sequence[int]) -> Regression:
        """The same targets regressed on the features of the other channels."""
        if not channels:
            return self
        left, gram = np.flatnonzero(~np.isin(self.owner, channels)), self.consumer.gram
        rest = gram[np.ix_(left, left)]
        coefficients = (self.consumer.coefficients @ gram[:, left]) @ precision(rest, TINY)
        return Regression(Consumer(rest, coefficients, self.consumer.rows), self.owner[left])


def precision(gram: np.ndarray, ridge: float) -> np.ndarray:
    """The inverse of a covariance with ``ridge`` times its mean variance on the diagonal; float64 [F, F]."""
    scale = float(np.trace(gram)) / max(len(gram), 1) or 1.0
    # In place: with some thousand features each copy has hundreds of MB.
    while True:
        inverse: np.ndarray = np.divide(gram, scale, out=np.empty(gram.shape, order="F"), dtype=np.float64)
        np.einsum("ii->i", inverse)[:] += ridge
        inverse, failed = dpotrf(inverse, lower=1, overwrite_a=1)
        if not failed:
            break
        ridge *= 10  # rounding left a negative eigenvalue beyond the ridge
    inverse = dpotri(inverse, lower=1, overwrite_c=1)[0]
    for i in range(len(inverse)):
        inverse[i, i + 1 :] = inverse[i + 1 :, i]
    inverse /= scale
    return inverse.T


def eliminate(regressions: Sequence[Regression], count: int, least: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Remove channels one by one, always the one that costs least.

    Copies go first, found with next to no regularisation; the others are compared with more of it.

    Args:
        regressions: all consumers of the channels.
        count: number of candidates.
        least: how many stay.

    Returns:
        The order of removal, int64 [count - least], and the summed cost after each, float64 [count - least].
    """
    if not regressions:
        return np.arange(count - least), np.zeros(count - least)
    order: list[int] = []
    costs: list[float] = []
    if all(r.consumer.rows >= _ROWS_PER_FEATURE * r.consumer.features for r in regressions):
        states = [_State(r, count, TINY) for r in regressions]
        _remove(states, count - least, FREE * sum(r.consumer.explained for r in regressions), order, costs)
        del states  # each holds matrices as large as all covariances
    states = [_State(left := r.without(order), count, left.consumer.ridge, order) for r in regressions]
    del left, regressions  # where nobody else holds them
    _remove(states, count - least, np.inf, order, costs)
    return np.array(order, dtype=np.int64), np.array(costs)


def _remove(states: list[_State], goal: int, most: float, order: list[int], costs: list[float]) -> None:
    """Remove channels until ``goal`` of them are gone or the cost would exceed ``most``.

    Args:
        order: of the removals so far; it is continued.
        costs: after each of them; they are continued.
    """
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

    At each step, only those parts of the precision H and of the products B'B count that lie between
    features of one channel. These are kept up to date; H and B are updated for many removals together,
    and left by the channels that are gone at the same time.
    """

    def __init__(self, regression: Regression, count: int, ridge: float, gone: Sequence[int] = ()):
        self.total = count
        self._channels = np.setdiff1d(np.arange(count), gone)
        index = _by_channel(regression.owner, self._channels)
        self._each, features = index.shape[1], index.size
        # Channels with fewer features than others get idle ones: independent, and without weight.
        real, which = np.flatnonzero(index >= 0), index[index >= 0]
        h = np.ascontiguousarray(regression.consumer.precision(which, ridge))
        b = np.ascontiguousarray(regression.consumer.coefficients[:, which])
        if len(real) < features:
            h, some = np.eye(features), h
            h[np.ix_(real, real)] = some
            b, some = np.zeros((len(b), features)), b
            b[:, real] = some
        if len(b) > features:
            # Only products of coefficients with one another count, and this has the same ones.
            b = np.asarray(np.linalg.qr(b, mode="r"))
        # In Fortran order, which BLAS can update in place; h is symmetric.
        self._h, self._b = h.T, np.asfortranarray(b)
        self._begin(max(_POSTPONED, self._each))

    def _begin(self, room: int) -> None:
        """With nothing postponed, nothing gone, and room for so many features that go."""
        c, t = len(self._channels), self._each
        self._gone = np.zeros(c, dtype=bool)
        # Of every feature that went: its row of H, what the others take over from it, its column of B.
        self._rows, self._gains = np.empty((room, c * t)), np.empty((room, c * t))
        self._columns = np.empty((room, len(self._b)))
        self._count = 0
        between = np.arange(c)
        self._own_h = self._h.T.reshape(c, t, c, t)[between, :, between, :].copy()
        self._own_products = self._within(self._b, self._b)

    def increments(self) -> np.ndarray:
        """What removing each channel would cost, float64 [count]; infinite for those that are gone."""
        if self._each == 1:
            found = self._own_products[:, 0, 0] / np.maximum(self._own_h[:, 0, 0], 1e-300)
        else:
            found = np.trace(np.linalg.solve(self._own_h, self._own_products), axis1=1, axis2=2)
        result = np.full(self.total, np.inf)
        result[self._channels[~self._gone]] = found[~self._gone]
        return result

    def remove(self, channels: Sequence[int]) -> None:
        """Take channels out; what that changes between features of different channels is postponed."""
        t, new = self._each, len(channels) * self._each
        if self._count + new > len(self._rows):
            self._catch_up(max(_POSTPONED, new))
        numbers = np.searchsorted(self._channels, channels)
        place = (numbers[:, None] * t + np.arange(t)).reshape(-1)
        rows, gains, columns = (x[: self._count] for x in (self._rows, self._gains, self._columns))
        h = self._h[:, place].T - rows[:, place].T @ gains
        b = self._b[:, place].T - gains[:, place].T @ columns
        products = b @ self._b - (b @ columns.T) @ gains
        gain = np.linalg.solve(h[:, place], h)
        for postponed, x in zip((self._rows, self._gains, self._columns), (h, gain, b), strict=True):
            postponed[self._count : self._count + new] = x
        self._count += new
        # B loses b' gain, so B'B loses p' gain + gain' p - gain' p_j gain: two equal halves of the last.
        half = self._within(products - products[:, place] @ gain / 2, gain)
        self._own_products -= half + half.transpose(0, 2, 1)
        self._own_h -= self._within(h, gain)
        self._gone[numbers] = True
        self._own_h[self._gone], self._own_products[self._gone] = np.eye(t), 0.0

    def _within(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """The blocks of a' b that lie between features of one channel, [channels, t, t]."""
        shape = len(a), len(self._channels), self._each
        blocks: np.ndarray = a.reshape(shape).transpose(1, 2, 0) @ b.reshape(shape).transpose(1, 0, 2)
        return blocks

    def _catch_up(self, room: int) -> None:
        """Do what was postponed, and drop the channels that are gone."""
        stay = np.repeat(~self._gone, self._each)
        rows, gains = (np.asfortranarray(x[: self._count, stay].T) for x in (self._rows, self._gains))
        columns = self._columns[: self._count].T
        h, b = self._h.T[np.ix_(stay, stay)].T, np.asfortranarray(self._b[:, stay])
        self._h = dgemm(-1.0, rows, gains, beta=1.0, c=h, trans_b=1, overwrite_c=1)
        self._b = dgemm(-1.0, columns, gains, beta=1.0, c=b, trans_b=1, overwrite_c=1)
        self._channels = self._channels[~self._gone]
        self._begin(room)


def _by_channel(owner: np.ndarray, channels: np.ndarray) -> np.ndarray:
    """The features of each of some channels, int64 [channels, most]; -1 where a channel has fewer."""
    mine = np.flatnonzero(np.isin(owner, channels))
    mine = mine[np.argsort(owner[mine], kind="stable")]
    number = np.searchsorted(channels, owner[mine])
    per_channel = np.bincount(number, minlength=len(channels))
    index = np.full((len(channels), int(per_channel.max(initial=1))), -1, dtype=np.int64)
    first = np.cumsum(per_channel) - per_channel
    index[number, np.arange(len(mine)) - first[number]] = mine
    return index

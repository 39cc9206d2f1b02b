"""How well least squares can do without a channel: the default criterion where there is data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from onnxmerge.channels import Channels, Group
from onnxmerge.channels.residual import destination
from onnxmerge.channels.sensitivity import row_weights, weight_energies, weight_parts
from onnxmerge.channels.sites import FoldSite
from onnxmerge.criteria.elimination import TINY, Consumer, Regression, eliminate, precision
from onnxmerge.criteria.protocol import OpenGroup
from onnxmerge.errors import UsageError
from onnxmerge.graph import external_weights
from onnxmerge.plan import Scores
from onnxmerge.runtime.threads import one_blas_thread
from onnxmerge.statistics import Needs
from onnxmerge.statistics.dense import Statistics
from onnxmerge.statistics.moments import submatrix
from onnxmerge.statistics.paired import Paired, SplitMoments

# Wider groups whose consumers have no covariance are ranked at once: the order is the same step by step.
MOST_COMPARED = 2048
# Channels are chosen again only where there are so many rows per feature.
ROWS_TO_CHOOSE = 8


@dataclass(frozen=True)
class Reconstruction:
    """Backward elimination by the error of the consumers' outputs after a least-squares refit.

    The error of a consumer counts as a share of the variance of the tensor that its output goes to (after
    the residual sum, where there is one), its outputs weighed by the sensitivity of what reads them; a
    group's error is the sum over all of its consumers.

    Attributes:
        joined: weight of the errors of groups that sums or concats couple: what a residual stream loses
            no later layer can bring back.
    """

    joined: float = 2.0
    needs: ClassVar[Literal[Needs.DENSE]] = Needs.DENSE

    @one_blas_thread
    def __call__(self, channels: Channels, statistics: Statistics | None) -> Scores:
        """Score every channel by the error without it and all that are worth less.

        Raises:
            UsageError: there are no statistics.
        """
        if statistics is None:
            raise UsageError("the criterion 'reconstruction' needs calibration data: give some, or take l1")
        reading: dict[int, list[FoldSite]] = {}
        for site in statistics.sites:
            if site.node.index in statistics.features:
                for number in np.unique(channels.group_of[site.channel]):
                    reading.setdefault(int(number), []).append(site)
        consumers = _Consumers(channels, statistics, reading)
        values, curves, orders = {}, {}, {}
        for number, group in enumerate(channels.groups):
            mine = reading.get(number, [])
            if len(group) > MOST_COMPARED and not any(statistics.features[s.node.index].grams for s in mine):
                energy = np.sum([_energies(channels, s, group, statistics) for s in mine], axis=0)
                gone = np.argsort(energy, kind="stable")
                costs = np.cumsum(energy[gone])
            else:
                # Not held here: they are used up, and have hundreds of MB.
                gone, costs = eliminate(
                    [r for site in mine for r in consumers.regressions(site, group)], len(group), 0
                )
            external_weights.release()
            external_weights.trim(seldom=True)
            costs = costs if group.chain else self.joined * costs
            # What goes last is worth most.
            score = np.empty(len(group))
            score[gone] = costs
            values[group.name] = score
            curves[group.name] = np.concatenate([costs[::-1], [0.0]])
            orders[group.name] = gone[::-1]
        return Scores(values, curves, orders)

    def choose_again(self, sensitivity: np.ndarray, paired: Paired, group: OpenGroup) -> np.ndarray | None:
        """The channels of a group that the targets of its only consumer need most.

        Args:
            sensitivity: of the output to errors in every channel, float64 [channels.count].
            paired: statistics of the consumer.

        Returns:
            The places of those that stay, int64 [width], ascending. None where the consumer is no
            regression, or rows are few: the choice would follow their noise, and the first one, made on
            exact targets, is better.
        """
        fit = paired.fit
        moments = [block.all for block in paired.blocks if isinstance(block, SplitMoments)]
        if fit is None or not moments or moments[0].rows < ROWS_TO_CHOOSE * fit.form.features:
            return None
        form, site, count = fit.form, fit.form.site, len(group.candidates)
        place = np.full(len(group.likely), -1, dtype=np.int64)
        place[group.candidates] = np.arange(count)
        rows = group.likely[site.channels.of(form.output)]
        weight = fit.destination.scale * rows * row_weights(site, sensitivity)
        here = np.flatnonzero(group.kept[form.channel[paired.present]])
        owner = place[form.channel[paired.present[here]]]
        regressions = []
        for block, scale in zip(moments, weight.reshape(form.blocks, form.outputs), strict=True):
            # The fewer rows there are per feature, the more of what they show is noise.
            strength = TINY + max(0.0, len(here) / block.rows - 0.1)
            gram = submatrix(block.gram, here)
            coefficients = (block.cross[:, here] * scale[:, None]) @ precision(gram, strength)
            regressions.append(Regression(Consumer(gram, coefficients, block.rows), owner))
        gone, _ = eliminate(regressions, count, group.width)
        return np.setdiff1d(np.arange(count), gone)


class _Consumers:
    """What the sites make of the channels that they read, one per block, or what stands in for it.

    What reads several groups is made once, and let go with the last of them.
    """

    def __init__(
        self, channels: Channels, statistics: Statistics, reading: Mapping[int, Sequence[FoldSite]]
    ) -> None:
        self._channels, self._statistics = channels, statistics
        self._left = Counter(site.node.index for sites in reading.values() for site in sites)
        self._several = {index for index, count in self._left.items() if count > 1}
        self._made: dict[int, list[tuple[Consumer, np.ndarray]]] = {}

    def regressions(self, site: FoldSite, group: Group) -> list[Regression]:
        """Those of one group's channels."""
        index, statistics = site.node.index, self._statistics
        self._left[index] -= 1
        if not statistics.features[index].grams:
            spread = np.diag(np.sqrt(_energies(self._channels, site, group, statistics)))
            consumer = Consumer(np.eye(len(group)), spread, statistics.samples)
            return [Regression(consumer, np.arange(len(group)))]
        found = self._made.pop(index, None) or self._of(site)
        if self._left[index]:
            self._made[index] = found
        place = _places(self._channels, group)
        return [Regression(consumer, place[channel]) for consumer, channel in found]

    def _of(self, site: FoldSite) -> list[tuple[Consumer, np.ndarray]]:
        """The consumers of a site, and the channel of each of their features."""
        features = self._statistics.features[site.node.index]
        scale, factor = _scale(site, self._statistics)
        if features.form is None:
            # One feature per data position; all that the weight makes of it is the targets.
            channel = site.channel[site.columns]
            matrices = [_scaled(site, scale) * factor]
        else:
            form, channel = features.form, features.form.channel
            matrices = list(form.matrix() * (scale * factor).reshape(form.blocks, -1)[:, :, None])
        group = self._channels.group_of[channel] if site.node.index in self._several else None
        pairs = zip(features.grams, matrices, strict=False)
        return [(Consumer(gram, matrix, features.rows, group), channel) for gram, matrix in pairs]


def _places(channels: Channels, group: Group) -> np.ndarray:
    """The place of every channel within the group, -1 for others, int64 [channels.count]."""
    place = np.full(channels.count, -1, dtype=np.int64)
    place[group.channels] = np.arange(len(group))
    return place


def _scale(site: FoldSite, statistics: Statistics) -> tuple[np.ndarray, float]:
    """What weighs the site's rows, float64 [rows]; and a factor that makes errors shares of a variance."""
    if site.output is None:
        return np.ones(1), 1.0
    to, weight = destination(site), row_weights(site, statistics.sensitivity)
    variance = float((statistics.variance(to.total, to.axis) * weight**2).sum())
    return to.scale * weight, 1 / np.sqrt(max(variance, 1e-30))


def _energies(channels: Channels, site: FoldSite, group: Group, statistics: Statistics) -> np.ndarray:
    """What each channel of a group adds to the site's output, float64 [C].

    Too many positions for a covariance: all count as independent.
    """
    place = _places(channels, group)
    scale, factor = _scale(site, statistics)
    energy = weight_energies(site, scale) * factor**2 * statistics.variance(site.data.tensor, site.data.axis)
    mine = place[site.channel[site.columns]]
    return np.bincount(mine[mine >= 0], energy[mine >= 0], minlength=len(group))


def _scaled(site: FoldSite, scale: np.ndarray) -> np.ndarray:
    """The weight as [outputs and taps, data positions], its rows times what follows them."""
    return np.concatenate(list(weight_parts(site, scale)))

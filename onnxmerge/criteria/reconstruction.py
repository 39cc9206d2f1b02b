"""How well least squares can do without a channel: the default criterion where there is data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxmerge.channels import Channels, Group
from onnxmerge.channels.demand import demand, energies, parts, row_weights
from onnxmerge.channels.residual import feeds
from onnxmerge.channels.sites import FoldSite, fold_sites
from onnxmerge.criteria.elimination import Regression, eliminate
from onnxmerge.errors import UsageError
from onnxmerge.graph import external_weights
from onnxmerge.plan import Scores
from onnxmerge.runtime.threads import one_blas_thread
from onnxmerge.statistics.dense import Features, Statistics

# Wider groups without any covariance are not eliminated step by step: nothing would change on the way.
MOST_COMPARED = 2048


@dataclass(frozen=True)
class Reconstruction:
    """Backward elimination by the error of the consumers' outputs after a least-squares refit.

    The error of a consumer counts as a share of the variance of the tensor that it feeds (after the
    residual sum, where there is one), channels weighed by what is made of them; a group's error is the
    sum over all of its consumers.

    Attributes:
        joined: weight of the errors of groups that sums or concats couple: what a residual stream loses
            no later layer can bring back.
    """

    joined: float = 2.0

    @one_blas_thread
    def __call__(self, channels: Channels, statistics: Statistics | None) -> Scores:
        """Raises UsageError without statistics."""
        if statistics is None:
            raise UsageError("the criterion 'reconstruction' needs calibration data: give some, or take l1")
        everything = fold_sites(channels)
        demanded = demand(channels, everything)
        reading: dict[int, list[FoldSite]] = {}
        for site in everything:
            if site.node.index in statistics.features:
                for number in np.unique(channels.group_of[site.channel]):
                    reading.setdefault(int(number), []).append(site)
        values, curves = {}, {}
        for number, group in enumerate(channels.groups):
            mine = reading.get(number, [])
            if len(group) > MOST_COMPARED and not any(statistics.features[s.node.index].grams for s in mine):
                energy = np.sum([_energies(channels, s, group, statistics, demanded) for s in mine], axis=0)
                order = np.argsort(energy, kind="stable")
                costs = np.cumsum(energy[order])
            else:
                regressions = [
                    r for s in mine for r in _regressions(channels, s, group, statistics, demanded)
                ]
                order, costs = eliminate(regressions, len(group), 0)
            external_weights.release()
            costs = costs if group.chain else self.joined * costs
            # What goes last is worth most.
            score = np.empty(len(group))
            score[order] = costs + np.arange(1, len(costs) + 1) * 1e-30
            values[group.name] = score
            curves[group.name] = np.concatenate([costs[::-1], [0.0]])
        return Scores(values, curves)


def _regressions(
    channels: Channels, site: FoldSite, group, statistics: Statistics, demanded: np.ndarray
) -> list[Regression]:
    features: Features = statistics.features[site.node.index]
    if not features.grams:
        spread = np.diag(np.sqrt(_energies(channels, site, group, statistics, demanded)))
        return [Regression(np.eye(len(group)), spread, np.arange(len(group)), statistics.samples)]
    place = _places(channels, group)
    scale, factor = _scale(site, statistics, demanded)
    if features.form is None:
        return [_by_channel(site, features, scale, factor, place)]
    form, found = features.form, []
    matrix = form.matrix() * (scale * factor).reshape(form.blocks, -1)[:, :, None]
    for block, gram in zip(matrix, features.grams, strict=True):
        found.append(Regression(gram, block, place[form.channel], features.rows))
    return found


def _by_channel(site: FoldSite, features: Features, scale: np.ndarray, factor: float, place) -> Regression:
    """One feature per data position; all that the weight makes of it is the targets."""
    weight = _scaled(site, scale) * factor
    return Regression(features.grams[0], weight, place[site.channel[site.columns]], features.rows)


def _places(channels: Channels, group: Group) -> np.ndarray:
    """The place of every channel within the group, -1 for others, int64 [channels.count]."""
    place = np.full(channels.count, -1, dtype=np.int64)
    place[group.channels] = np.arange(len(group))
    return place


def _scale(site: FoldSite, statistics: Statistics, demanded: np.ndarray) -> tuple[np.ndarray, float]:
    """What weighs the site's rows, and what makes errors shares of the variance of what the site feeds."""
    if site.output is None:
        return np.ones(1), 1.0
    fed, weight = feeds(site), row_weights(site, demanded)
    variance = float((statistics.variance(fed.total, fed.axis) * weight**2).sum())
    return fed.scale * weight, 1 / np.sqrt(max(variance, 1e-30))


def _energies(
    channels: Channels, site: FoldSite, group: Group, statistics: Statistics, demanded: np.ndarray
) -> np.ndarray:
    """What each channel of a group adds to the site's output, float64 [C].

    Too many positions for a covariance: all count as independent.
    """
    place = _places(channels, group)
    scale, factor = _scale(site, statistics, demanded)
    energy = energies(site, scale) * factor**2 * statistics.variance(site.data.tensor, site.data.axis)
    mine = place[site.channel[site.columns]]
    return np.bincount(mine[mine >= 0], energy[mine >= 0], minlength=len(group))


def _scaled(site: FoldSite, scale: np.ndarray) -> np.ndarray:
    """The weight as [outputs and taps, data positions], its rows times what follows them."""
    return np.concatenate(list(parts(site, scale)))

"""Data-free least squares: channels behind a BatchNorm as jointly Gaussian variables.

Before its activation channel i is about N(beta_i, gamma_i^2), and two channels correlate like their
filters (times the signs of gamma). For an activation f with normalised Hermite coefficients
a_ik = E[f_i(Z) h_k(Z)] the covariance behind it is the sum over k >= 1 of rho^k a_ik a_jk (Mehler's
formula; O'Donnell, Analysis of Boolean Functions, section 11.2), so one-dimensional Gauss-Hermite
quadrature is enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from onnxmerge.channels.filters import channel_filters
from onnxmerge.channels.sites import FoldSite
from onnxmerge.compensation.folding import fold_predictions, response_to_constant
from onnxmerge.compensation.solvers import ridge
from onnxmerge.graph.extract import evaluate
from onnxmerge.graph.view import NodeView, TensorView
from onnxmerge.graph.working_graph import export_node
from onnxmerge.operators.parameters import is_elementwise, is_normalization, scale_and_shift
from onnxmerge.statistics import Needs
from onnxmerge.statistics.dense import Statistics

_POINTS = 101
_TERMS = 40


@dataclass(frozen=True)
class Gaussian:
    """Predicts removed channels from all kept ones by the statistics that BatchNorm implies.

    Sites without a BatchNorm before them, with anything but pointwise operators between, stay as they are.

    Attributes:
        strength: of the ridge, as a share of the mean variance.
    """

    strength: float = 1e-3
    needs: ClassVar[Literal[Needs.NOTHING]] = Needs.NOTHING

    def __call__(
        self, site: FoldSite, kept: np.ndarray, statistics: Statistics | None = None
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        stays = kept[site.channel[site.columns]]
        if stays.all() or site.contract.blocks > 1 or site.data.axis != 1:
            return None, None
        found = moments(site)
        if found is None:
            return None, None
        mean, covariance = found
        cross = covariance[np.ix_(~stays, stays)]
        factors = ridge(covariance[np.ix_(stays, stays)], cross, np.zeros(cross.shape), self.strength)
        weight = fold_predictions(site, stays, [factors])
        if site.rows is None:
            return weight, None
        rest = np.zeros(len(stays))
        rest[~stays] = mean[~stays] - factors @ mean[stays]
        return weight, response_to_constant(site, rest)


def moments(site: FoldSite) -> tuple[np.ndarray, np.ndarray] | None:
    """Mean [C] and covariance [C, C] of the site's data channels, or None where nothing tells."""
    norm, between = _back_to_batch_norm(site)
    if norm is None:
        return None
    correlation = _correlation(site)
    stored = scale_and_shift(norm)
    if correlation is None or stored is None:
        return None
    gamma, beta = stored
    if len(gamma) != site.data.size:
        return None
    points, weights = np.polynomial.hermite_e.hermegauss(_POINTS)
    weights = weights / weights.sum()
    values = _activated(between, norm.y[0], beta + np.abs(gamma) * points[:, None], site.data.tensor)
    if values is None or not np.isfinite(values).all():
        return None
    mean = weights @ values
    rho = correlation * np.outer(np.where(gamma < 0, -1.0, 1.0), np.where(gamma < 0, -1.0, 1.0))
    return mean, _covariance(values - mean, rho, points, weights)


def _covariance(centred: np.ndarray, rho: np.ndarray, points: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Covariance behind the activation, from centred values [points, C] and correlations [C, C]."""
    rest = weights @ centred**2
    before, now = np.ones_like(points), points
    power, result = rho.copy(), np.zeros_like(rho)
    for k in range(1, _TERMS + 1):
        coefficients = (weights * now) @ centred
        result += power * np.outer(coefficients, coefficients)
        rest = rest - coefficients**2
        before, now = now, (points * now - np.sqrt(k) * before) / np.sqrt(k + 1)
        power = power * rho
    # What the series leaves out of the variances belongs to higher powers of the correlation.
    left = np.sqrt(np.maximum(rest, 0))
    result += power * np.outer(left, left)
    return result


def _correlation(site: FoldSite) -> np.ndarray | None:
    """Cosines of the filters of the site's data channels, [C, C]; 0 where a filter is zero."""
    channels = site.channels
    of_data = channels.of(site.data)
    result = np.eye(site.data.size)
    for number in np.unique(channels.group_of[of_data]):
        if number < 0:
            continue
        group = channels.groups[number]
        filters = channel_filters(channels, group)
        place = np.full(channels.count, -1, dtype=np.int64)
        place[group.channels] = np.arange(len(group))
        here = np.flatnonzero(place[of_data] >= 0)
        if len(filters) != 1:
            return None
        vectors = filters[0].vectors[place[of_data[here]]]
        unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        result[np.ix_(here, here)] = unit @ unit.T
    np.fill_diagonal(result, 1.0)
    return np.clip(result, -1, 1)


def _back_to_batch_norm(site: FoldSite) -> tuple[NodeView | None, list[NodeView]]:
    """The BatchNormalization before a site, and the pointwise nodes between, in order."""
    view, between = site.channels.view, []
    open_names = [site.data.tensor]
    norm = None
    seen: set[int] = set()
    while open_names:
        node = view.producer(open_names.pop())
        if node is None:
            return None, []
        if node.index in seen:
            continue
        seen.add(node.index)
        if is_normalization(node):
            if norm is not None and norm is not node:
                return None, []
            norm = node
            continue
        if not is_elementwise(node):
            return None, []
        between.append(node)
        open_names += [x.name for x in node.x if x is not None and not x.is_constant]
    return norm, sorted(between, key=lambda n: n.index)


def _wide(values: np.ndarray) -> np.ndarray:
    """Constants beside float32 values: numbers of other precision become float32."""
    return np.asarray(values, np.float32) if values.dtype.kind not in "iub" else np.asarray(values)


def _activated(nodes: list[NodeView], start: TensorView, points: np.ndarray, end: str) -> np.ndarray | None:
    """What the nodes make of values [points, C] at the BatchNorm's output; None where that cannot be run."""
    values = points.reshape(*points.shape, *[1] * (start.rank - 2)).astype(np.float32)
    if not nodes:
        return points
    given = {x.name: x for n in nodes for x in n.x if x is not None and x.is_constant}
    constants = {name: x.constant for name, x in given.items() if x.constant is not None}
    if len(constants) < len(given):
        return None
    feed = {name: _wide(values) for name, values in constants.items()} | {start.name: values}
    results = evaluate([export_node(n.source) for n in nodes], feed, [end], nodes[0].opset)
    if results is None or results[0].size != points.size:  # the site stays as it is
        return None
    return results[0].reshape(points.shape).astype(np.float64)

"""Norms of the filters that make a channel, from the weights alone.

Source: Kim et al., Neuron Merging (NeurIPS 2020), section 4 and its public implementation; gm is
the geometric-median criterion of He et al. (CVPR 2019).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from onnxmerge.channels import Channels
from onnxmerge.channels.filters import channel_filters
from onnxmerge.plan import Scores


def _scores(channels: Channels, norm: Callable[[np.ndarray], np.ndarray]) -> Scores:
    """The sum over a channel's producers; groups without any score equally."""
    values = {}
    for group in channels.groups:
        filters = channel_filters(channels, group)
        values[group.name] = sum((norm(f.vectors) for f in filters), start=np.zeros(len(group)))
    return Scores(values)


@dataclass(frozen=True)
class L1Norm:
    """Sum of absolute weights, bias included where no BatchNorm follows."""

    def __call__(self, channels: Channels, statistics: object | None = None) -> Scores:
        return _scores(channels, lambda v: np.abs(v).sum(axis=1))


@dataclass(frozen=True)
class L2Norm:
    """Euclidean norm of the weights, bias included where no BatchNorm follows."""

    def __call__(self, channels: Channels, statistics: object | None = None) -> Scores:
        return _scores(channels, lambda v: np.linalg.norm(v, axis=1))


@dataclass(frozen=True)
class GeometricMedian:
    """Sum of Euclidean distances to all other filters: what lies in the middle is replaceable."""

    def __call__(self, channels: Channels, statistics: object | None = None) -> Scores:
        return _scores(channels, _distances)


def _distances(vectors: np.ndarray) -> np.ndarray:
    squares = (vectors**2).sum(axis=1)
    distances = squares[:, None] + squares[None, :] - 2 * vectors @ vectors.T
    np.fill_diagonal(distances, 0)
    return np.sqrt(np.maximum(distances, 0)).sum(axis=1)

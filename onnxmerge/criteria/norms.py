"""Norms of the filters that make a channel, from the weights alone.

Source: Kim et al., Neuron Merging (NeurIPS 2020), section 4 and its public implementation; gm is
the geometric-median criterion of He et al. (CVPR 2019).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from onnxmerge.channels import Channels
from onnxmerge.channels.filters import channel_filters
from onnxmerge.plan import Scores
from onnxmerge.statistics import Needs
from onnxmerge.statistics.dense import Statistics


def _scores(channels: Channels, norm: Callable[[np.ndarray], np.ndarray]) -> Scores:
    """The sum over a channel's producers; groups without any producer score equally.

    Args:
        norm: filters, float64 [C, n] -> float64 [C].
    """
    values = {}
    for group in channels.groups:
        filters = channel_filters(channels, group)
        values[group.name] = sum((norm(f.vectors) for f in filters), start=np.zeros(len(group)))
    return Scores(values)


@dataclass(frozen=True)
class L1Norm:
    """Sum of absolute weights, bias included where no BatchNorm follows."""

    needs: ClassVar[Literal[Needs.NOTHING]] = Needs.NOTHING

    def __call__(self, channels: Channels, statistics: Statistics | None = None) -> Scores:
        return _scores(channels, lambda v: np.abs(v).sum(axis=1))


@dataclass(frozen=True)
class L2Norm:
    """Euclidean norm of the weights, bias included where no BatchNorm follows."""

    needs: ClassVar[Literal[Needs.NOTHING]] = Needs.NOTHING

    def __call__(self, channels: Channels, statistics: Statistics | None = None) -> Scores:
        return _scores(channels, lambda v: np.linalg.norm(v, axis=1))


@dataclass(frozen=True)
class GeometricMedian:
    """Sum of Euclidean distances to all other filters: what lies in the middle is replaceable."""

    needs: ClassVar[Literal[Needs.NOTHING]] = Needs.NOTHING

    def __call__(self, channels: Channels, statistics: Statistics | None = None) -> Scores:
        return _scores(channels, _distances)


def _distances(vectors: np.ndarray) -> np.ndarray:
    """Of every filter the summed distances to all others, float64 [C]."""
    squares = (vectors**2).sum(axis=1)
    distances = squares[:, None] + squares[None, :] - 2 * vectors @ vectors.T
    np.fill_diagonal(distances, 0)
    total: np.ndarray = np.sqrt(np.maximum(distances, 0)).sum(axis=1)
    return total

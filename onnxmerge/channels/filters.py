"""The vectors by which channels are compared: what makes each of them, from the weights alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxmerge.channels.groups import Channels, Group
from onnxmerge.channels.sites import BatchNorm, Producer, producers


@dataclass(frozen=True, eq=False)
class Filters:
    """One vector per channel from one producer.

    Attributes:
        vectors: float64 [C, n]; the raw filter where a BatchNorm follows, else with its bias appended.
        batch_norm: of that BatchNorm, or None.
        convolution: whether the producer is a convolution (thresholds differ).
    """

    vectors: np.ndarray
    batch_norm: BatchNorm | None
    convolution: bool


def channel_filters(channels: Channels, group: Group) -> list[Filters]:
    """The filters of a group, one entry per producer.

    A pointwise convolution followed by depthwise ones counts as one convolution, whose filters are
    the outer products of the row and the depthwise kernels (Kim et al. 2020, section 4.3).
    """
    found = producers(channels, group)
    dense = [p for p in found if not p.depthwise]
    depthwise = [p for p in found if p.depthwise]
    if len(dense) == 1 and depthwise:
        return [_separable(dense[0], depthwise)]
    return [Filters(_vectors(p), p.batch_norm, p.is_convolution) for p in dense or depthwise]


def _vectors(producer: Producer) -> np.ndarray:
    if producer.batch_norm is not None or producer.bias is None:
        return producer.filters
    return np.concatenate([producer.filters, producer.bias], axis=1)


def _separable(dense: Producer, depthwise: list[Producer]) -> Filters:
    vectors = _vectors(dense)
    for kernel in depthwise:
        vectors = np.einsum("ci,cj->cij", vectors, kernel.filters).reshape(len(vectors), -1)
    return Filters(vectors, None, True)

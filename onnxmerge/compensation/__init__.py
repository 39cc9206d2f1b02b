"""What is done for the consumers of removed channels: one frozen dataclass per method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from onnxmerge.channels.sites import FoldSite
from onnxmerge.compensation.gaussian import Gaussian
from onnxmerge.compensation.merge import Merge
from onnxmerge.compensation.simple import MeanBias, Nothing


class Compensator(Protocol):
    """Gives a consumer its new weight (full size) and the change of its bias; None where it stays.

    Args:
        site: the consumer, with the weights of the untouched model.
        kept: bool [channels], True where a channel stays.
        statistics: the means of the data operand, float64 [data.size], or None for data-free methods.
    """

    def __call__(
        self, site: FoldSite, kept: np.ndarray, statistics: np.ndarray | None
    ) -> tuple[np.ndarray | None, np.ndarray | None]: ...


COMPENSATIONS: dict[str, Callable[..., Compensator]] = {
    "none": Nothing,
    "bias": MeanBias,
    "merge": Merge,
    "gaussian": Gaussian,
}

__all__ = ["COMPENSATIONS", "Compensator", "Gaussian", "MeanBias", "Merge", "Nothing"]

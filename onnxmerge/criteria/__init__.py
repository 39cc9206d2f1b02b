"""How much every channel matters: one frozen dataclass per criterion, named for the command line."""

from __future__ import annotations

from typing import Protocol

from onnxmerge.channels import Channels
from onnxmerge.criteria.norms import GeometricMedian, L1Norm, L2Norm
from onnxmerge.criteria.random import Random
from onnxmerge.criteria.reconstruction import Reconstruction
from onnxmerge.plan import Scores


class Criterion(Protocol):
    """Scores every channel of every group; statistics are None for criteria that need no data."""

    def __call__(self, channels: Channels, statistics: object | None) -> Scores: ...


CRITERIA = {
    "reconstruction": Reconstruction,
    "l1": L1Norm,
    "l2": L2Norm,
    "gm": GeometricMedian,
    "random": Random,
}

__all__ = ["CRITERIA", "Criterion", "GeometricMedian", "L1Norm", "L2Norm", "Random", "Reconstruction"]

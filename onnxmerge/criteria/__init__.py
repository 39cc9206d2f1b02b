"""How much every channel matters: one frozen dataclass per criterion, named in a table."""

from __future__ import annotations

from onnxmerge.criteria.norms import GeometricMedian, L1Norm, L2Norm
from onnxmerge.criteria.protocol import ChooseAgain, Criterion, OpenGroup, choosing_again
from onnxmerge.criteria.random import Random
from onnxmerge.criteria.reconstruction import Reconstruction

CRITERIA: dict[str, type[Criterion]] = {
    "reconstruction": Reconstruction,
    "l1": L1Norm,
    "l2": L2Norm,
    "gm": GeometricMedian,
    "random": Random,
}

__all__ = [
    "CRITERIA",
    "ChooseAgain",
    "Criterion",
    "GeometricMedian",
    "L1Norm",
    "L2Norm",
    "OpenGroup",
    "Random",
    "Reconstruction",
    "choosing_again",
]

"""What is done for the consumers of removed channels: one frozen dataclass per method, named in a table."""

from __future__ import annotations

from onnxmerge.compensation.gaussian import Gaussian
from onnxmerge.compensation.lbyl import LeaveBeforeYouLeave
from onnxmerge.compensation.least_squares import LeastSquares
from onnxmerge.compensation.merge import Merge
from onnxmerge.compensation.model_folding import ModelFolding
from onnxmerge.compensation.protocol import BlendingCompensation, Compensation, PairedCompensation
from onnxmerge.compensation.simple import MeanBias, Nothing

COMPENSATIONS: dict[str, type[Compensation] | type[PairedCompensation]] = {
    "lstsq": LeastSquares,
    "none": Nothing,
    "bias": MeanBias,
    "merge": Merge,
    "gaussian": Gaussian,
    "lbyl": LeaveBeforeYouLeave,
    "folding": ModelFolding,
}

__all__ = [
    "COMPENSATIONS",
    "BlendingCompensation",
    "Compensation",
    "Gaussian",
    "LeastSquares",
    "LeaveBeforeYouLeave",
    "MeanBias",
    "Merge",
    "ModelFolding",
    "Nothing",
    "PairedCompensation",
]

"""What is done for the consumers of removed channels: one frozen dataclass per method, named in a table."""

from __future__ import annotations

from onnxmerge.compensation.gaussian import Gaussian
from onnxmerge.compensation.lbyl import LeaveBeforeYouLeave
from onnxmerge.compensation.least_squares import LeastSquares
from onnxmerge.compensation.merge import Merge
from onnxmerge.compensation.protocol import Compensation, PairedCompensation
from onnxmerge.compensation.simple import MeanBias, Nothing

COMPENSATIONS: dict[str, type[Compensation] | type[PairedCompensation]] = {
    "lstsq": LeastSquares,
    "none": Nothing,
    "bias": MeanBias,
    "merge": Merge,
    "gaussian": Gaussian,
    "lbyl": LeaveBeforeYouLeave,
}

__all__ = [
    "COMPENSATIONS",
    "Compensation",
    "Gaussian",
    "LeastSquares",
    "LeaveBeforeYouLeave",
    "MeanBias",
    "Merge",
    "Nothing",
    "PairedCompensation",
]

"""What a run did, in words and in figures."""

from onnxmerge.report.comparison import Comparison, describe_comparison
from onnxmerge.report.describe import describe, describe_inspection, describe_sweep
from onnxmerge.report.document import is_page
from onnxmerge.report.report import Inspection, Report, Sweep

__all__ = [
    "Comparison",
    "Inspection",
    "Report",
    "Sweep",
    "describe",
    "describe_comparison",
    "describe_inspection",
    "describe_sweep",
    "is_page",
]

"""What a run did, in words and in figures."""

from onnxmerge.report.describe import describe, describe_inspection, describe_sweep
from onnxmerge.report.report import Inspection, Report, Sweep, is_page

__all__ = ["Inspection", "Report", "Sweep", "describe", "describe_inspection", "describe_sweep", "is_page"]

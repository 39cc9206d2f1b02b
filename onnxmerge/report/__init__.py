"""What a run did, in words and in figures."""

from onnxmerge.report.describe import Report, describe, describe_inspection, describe_sweep

__all__ = ["Report", "describe", "describe_inspection", "describe_sweep"]

"""Make trained ONNX networks smaller and faster without retraining."""

from onnxmerge.calibration import ImageOptions
from onnxmerge.config import Config
from onnxmerge.errors import OnnxMergeError
from onnxmerge.pipeline import Result, optimize
from onnxmerge.plan import Plan
from onnxmerge.report import Report

__all__ = ["Config", "ImageOptions", "OnnxMergeError", "Plan", "Report", "Result", "optimize"]
__version__ = "0.1.0"

"""A torch executor for ONNX graphs: the way from a file alone to something that can be trained."""

from onnxmerge.train.executor.module import FUNCTIONS, OnnxModule

__all__ = ["FUNCTIONS", "OnnxModule"]

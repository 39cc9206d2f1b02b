"""Data to feed a model with: read from files or arrays, or made up."""

from onnxmerge.calibration.dataset import Dataset
from onnxmerge.calibration.generic import generic_dataset
from onnxmerge.calibration.images import ImageOptions
from onnxmerge.calibration.made_up import made_up_inputs
from onnxmerge.calibration.plausible import Plausible
from onnxmerge.calibration.readers import read_calibration

__all__ = ["Dataset", "ImageOptions", "Plausible", "generic_dataset", "made_up_inputs", "read_calibration"]

"""Data to feed a model with: read from files or arrays, or made up."""

from onnxmerge.calibration.dataset import Dataset
from onnxmerge.calibration.generic import conventions_of, generic_dataset
from onnxmerge.calibration.images import ImageOptions
from onnxmerge.calibration.made_up import made_up_inputs
from onnxmerge.calibration.plausible import Plausible
from onnxmerge.calibration.readers import holds_images, read_calibration
from onnxmerge.calibration.undeclared import under_conventions, under_each

__all__ = [
    "Dataset",
    "ImageOptions",
    "Plausible",
    "conventions_of",
    "generic_dataset",
    "holds_images",
    "made_up_inputs",
    "read_calibration",
    "under_conventions",
    "under_each",
]

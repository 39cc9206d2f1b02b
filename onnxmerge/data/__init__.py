"""Data to feed a model with: read from files or arrays, photographs shipped with the package, or made up."""

from onnxmerge.data.dataset import Dataset
from onnxmerge.data.images import ImageOptions
from onnxmerge.data.readers import holds_images, read_calibration
from onnxmerge.data.synthetic import made_up_inputs

__all__ = ["Dataset", "ImageOptions", "holds_images", "made_up_inputs", "read_calibration"]

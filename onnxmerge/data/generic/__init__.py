"""Photographs of general subjects in the place of data, and the input convention that they have to follow."""

from onnxmerge.data.generic.plausible import Plausible
from onnxmerge.data.generic.stand_ins import conventions_of, generic_dataset
from onnxmerge.data.generic.undeclared import under_conventions, under_each

__all__ = ["Plausible", "conventions_of", "generic_dataset", "under_conventions", "under_each"]

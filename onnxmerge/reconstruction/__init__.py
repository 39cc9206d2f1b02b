"""The walk: consumers are refitted one after the other while the new model grows."""

from onnxmerge.reconstruction.walk import reconstruct

__all__ = ["reconstruct"]

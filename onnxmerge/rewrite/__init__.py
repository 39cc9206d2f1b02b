"""From a selection to a new graph: fold, cut, drop constants, merge scales; or mask, to compare."""

from onnxmerge.rewrite.apply import masked, pruned
from onnxmerge.rewrite.fold import Fold

__all__ = ["Fold", "masked", "pruned"]

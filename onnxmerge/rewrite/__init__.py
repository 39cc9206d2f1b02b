"""From a selection to a new graph: fold into consumers, cut, drop what is constant; or mask, to compare."""

from onnxmerge.rewrite.apply import masked, pruned
from onnxmerge.rewrite.fold import Fold

__all__ = ["Fold", "masked", "pruned"]

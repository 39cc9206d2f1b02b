"""From a selection to a new graph: fold, cut, drop constants, merge scales; or mask, to compare."""

from onnxmerge.rewrite.apply import masked, pruned
from onnxmerge.rewrite.fold import Change, Fold

__all__ = ["Change", "Fold", "masked", "pruned"]

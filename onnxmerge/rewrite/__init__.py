"""From a selection to a new graph: fold into consumers, then cut; or mask, as the reference."""

from onnxmerge.rewrite.fold import Fold, apply_folds
from onnxmerge.rewrite.mask import mask
from onnxmerge.rewrite.resize import resize
from onnxmerge.rewrite.vanish import vanish

__all__ = ["Fold", "apply_folds", "mask", "resize", "vanish"]

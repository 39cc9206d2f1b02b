"""A module without gates, for training its weights alone in the same loop."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from onnxmerge.train.masks import Masks
from onnxmerge.train.methods import HardStep


class NoMasks(Masks):
    """No gates at all: fine-tuning, distillation, and what learned masks are compared with."""

    kinds = ()

    def __init__(self, module: nn.Module):
        super().__init__(module, HardStep(), [], {}, seed=0)
        self.fixed = True

    def share(self, kind: str, opened: Sequence[Tensor] | None = None) -> float:
        return 1.0

    def costs(self, kind: str) -> list[Tensor]:
        return []

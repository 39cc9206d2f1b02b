"""One gate per weight (unstructured pruning): for compression; files shrink only where a channel dies."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from onnxmerge.errors import ModelError
from onnxmerge.train.masks import Auxiliary, Masks
from onnxmerge.train.methods import HardStep, Method


class WeightMasks(Masks):
    """The masks of a module's single weights; make them with ``wrap_weights``."""

    kinds = ("params",)

    def __init__(self, module: nn.Module, names: Sequence[str], method: Method, seed: int):
        parameters = dict(module.named_parameters())
        auxiliaries = {
            name: Auxiliary(nn.Parameter(torch.full_like(parameters[name].data, method.initial)))
            for name in names
        }
        self._total = sum(p.numel() for p in parameters.values())
        super().__init__(
            module, method, list(auxiliaries.values()), {n: (a, None) for n, a in auxiliaries.items()}, seed
        )
        self._gated = sum(p.numel() for p in self.parameters)

    def share(self, kind: str, opened: Sequence[Tensor] | None = None) -> float:
        kept = sum(int(o.sum()) for o in (self.opened if opened is None else opened))
        return (kept + self._total - self._gated) / self._total

    @property
    def compression(self) -> float:
        """Gated weights over those whose gate is open."""
        return self._gated / max(sum(int(o.sum()) for o in self.opened), 1)

    def costs(self, kind: str) -> list[Tensor]:
        return [torch.ones_like(values) for values in self.parameters]


def wrap_weights(module: nn.Module, *, method: Method | None = None, seed: int = 0) -> WeightMasks:
    """Put a gate before every single weight of a module's matrices and kernels (rank 2 and more).

    Raises:
        ModelError: the module has no such weight.
    """
    inside = {id(p) for part in module.modules() if isinstance(part, nn.RNNBase) for p in part.parameters()}
    names = [
        name
        for name, p in module.named_parameters()
        if p.ndim > 1 and p.dtype == torch.float32 and id(p) not in inside
    ]
    if not names:
        raise ModelError("the module has no float32 matrix or kernel: there is nothing to learn")
    return WeightMasks(module, names, method or HardStep(), seed)

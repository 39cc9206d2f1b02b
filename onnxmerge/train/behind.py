"""Weights behind closed gates keep their values.

Weight decay is to act on t = w * h(m), so that a gated weight does not shrink, and momentum must
not move what the loss no longer sees. Both hold for any optimizer if what is behind a closed gate
is put back after its step.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from onnxmerge.train.masks import Masks


def keep_behind_gates(optimizer: Optimizer, masks: Masks) -> None:
    """Let an optimizer's steps leave the weights behind closed gates as they are."""
    before: list[tuple[nn.Parameter, Tensor, Tensor]] = []

    def remember(*_: object) -> None:
        seen: dict[int, tuple[nn.Parameter, Tensor, Tensor]] = {}
        for place in masks.places:
            closed = place.gate.closed()
            if id(place.weight) not in seen and closed.any():
                seen[id(place.weight)] = (place.weight, closed, place.weight.detach().clone())
        before[:] = seen.values()

    @torch.no_grad()
    def put_back(*_: object) -> None:
        for weight, closed, values in before:
            weight.copy_(torch.where(closed, values, weight))
        before.clear()

    optimizer.register_step_pre_hook(remember)
    optimizer.register_step_post_hook(put_back)

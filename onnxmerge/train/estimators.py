"""Straight-through estimators: what stands in for the derivative of the hard step in the backward pass.

The forward pass is h(m) = 1[m > 0] throughout; only h'(m) differs (Xiao et al. 2019, AutoPrune,
section 3.2). The paper gives no slope for the leaky ReLU; ours is 0.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Estimator(Protocol):
    """Stands in for the derivative of the hard step."""

    def slope(self, mask: Tensor) -> Tensor:
        """h'(m), of the shape and type of ``mask``."""
        ...


@dataclass(frozen=True)
class Softplus:
    """h' = sigmoid(m): channels that are far below zero hardly move, so pruning becomes definite."""

    def slope(self, mask: Tensor) -> Tensor:
        return torch.sigmoid(mask)


@dataclass(frozen=True)
class LeakyRelu:
    """h' = 1 above zero, ``negative`` below."""

    negative: float = 0.1

    def slope(self, mask: Tensor) -> Tensor:
        return torch.where(mask > 0, 1.0, self.negative).to(mask.dtype)


@dataclass(frozen=True)
class Linear:
    """h' = 1 everywhere."""

    def slope(self, mask: Tensor) -> Tensor:
        return torch.ones_like(mask)

"""Two ways to learn gates, behind one interface: AutoPrune's hard step and the hard-concrete L0 gate.

A method says how a weight is gated, which gates are open, and what the regulariser is. Its
auxiliary parameters are plain tensors, one number per channel or per weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from onnxmerge.train.estimators import Estimator, Softplus


class Method(Protocol):
    """How auxiliary parameters become gates.

    Attributes:
        initial: the value that they start from.
        threshold: a gate is open where its parameter is above this.
        random: whether ``gate`` wants noise while the masks are being learned.
        decoupled: whether the masks' gradient has lost the weights' magnitude, by sgn(w).
    """

    @property
    def initial(self) -> float: ...

    @property
    def threshold(self) -> float: ...

    @property
    def random(self) -> bool: ...

    @property
    def decoupled(self) -> bool: ...

    def gate(self, weight: Tensor, mask: Tensor, index: Tensor | None, noise: Tensor | None) -> Tensor:
        """The gated weight t.

        Args:
            weight: float, any shape.
            mask: the auxiliary parameters, float [K], or of the weight's shape where ``index`` is None.
            index: int64, broadcasts against the weight: which parameter gates an element, K for none.
            noise: uniform in (0, 1), of the shape of ``mask``; None for the deterministic gate.
        """
        ...

    def penalty(self, mask: Tensor, cost: Tensor, norm: str) -> Tensor:
        """The regulariser R, a scalar with a gradient: ``norm`` is l1 or l2, ``cost`` weighs the gates."""
        ...


@dataclass(frozen=True)
class HardStep:
    """t = w * 1[m > 0] with a straight-through estimator (Xiao et al. 2019, AutoPrune).

    The gradient of m is the sum over its weights of dL/dt * sgn(w) * h'(m), where sgn decouples the
    mask from the weights' magnitude; it is not the true gradient. Initial m is ours: 1.

    Attributes:
        decoupled: False for the plain gradient, with w in the place of sgn(w).
    """

    estimator: Estimator = field(default_factory=Softplus)
    decoupled: bool = True
    initial: float = 1.0
    threshold: float = 0.0
    random: bool = False

    def gate(self, weight: Tensor, mask: Tensor, index: Tensor | None, noise: Tensor | None) -> Tensor:
        return _Gated.apply(weight, mask, index, self)

    def penalty(self, mask: Tensor, cost: Tensor, norm: str) -> Tensor:
        """Sum of cost * h (l1: h is never negative, and its slope is 1 at h = 0 too) or cost * h^2 (l2).

        With l1 closed gates are pulled further down, by h'(m), and decisions become definite; with l2
        they are left alone.
        """
        opened = _Step.apply(mask, self)
        return (cost * (opened if norm == "l1" else opened.square())).sum()


class _Step(Function):
    """The hard step alone, for the regulariser."""

    @staticmethod
    def forward(ctx: Any, mask: Tensor, method: HardStep) -> Tensor:
        ctx.save_for_backward(mask)
        ctx.method = method
        return (mask > method.threshold).to(mask.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return gradient * ctx.method.estimator.slope(mask), None


class _Gated(Function):
    """A weight behind its gates."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, mask: Tensor, index: Tensor | None, method: HardStep) -> Tensor:
        ctx.save_for_backward(weight, mask, index)
        ctx.method = method
        return weight * spread(mask > method.threshold, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        weight, mask, index = ctx.saved_tensors
        opened = spread(mask > ctx.method.threshold, index)
        each = gradient * (weight.sign() if ctx.method.decoupled else weight)
        if index is not None:
            total = mask.new_zeros(len(mask) + 1)
            each = total.index_add(0, index.reshape(-1), each.sum_to_size(index.shape).reshape(-1))[:-1]
        return gradient * opened, each * ctx.method.estimator.slope(mask), None, None


def spread(gates: Tensor, index: Tensor | None) -> Tensor:
    """Gates by element of a weight: ``gates[index]``, with a gate that is always open at the end."""
    if index is None:
        return gates
    return torch.cat([gates, gates.new_ones(1)])[index]


@dataclass(frozen=True)
class HardConcrete:
    """L0 regularisation with the hard-concrete distribution (Louizos, Welling, Kingma 2018).

    Parameters are log alpha; beta, gamma (``low``) and zeta (``high``) are those of the paper's
    section 4; log alpha starts where a gate is open with probability 0.9. Gates are fractions, which
    export folds into the weights. ``norm`` has no meaning here: the penalty is the expected L0.
    """

    beta: float = 2 / 3
    low: float = -0.1
    high: float = 1.1
    initial: float = math.log(0.9 / 0.1)
    random: bool = True
    decoupled: bool = False

    @property
    def threshold(self) -> float:
        return math.log(-self.low / self.high)

    def gate(self, weight: Tensor, mask: Tensor, index: Tensor | None, noise: Tensor | None) -> Tensor:
        return weight * spread(self.values(mask, noise), index)

    def values(self, mask: Tensor, noise: Tensor | None) -> Tensor:
        """z in [0, 1]: equation 10 with noise, equation 13 without."""
        logits = mask if noise is None else (noise.logit() + mask) / self.beta
        return (torch.sigmoid(logits) * (self.high - self.low) + self.low).clamp(0, 1)

    def penalty(self, mask: Tensor, cost: Tensor, norm: str) -> Tensor:
        """Equation 12: the sum of cost * P(z != 0)."""
        return (cost * torch.sigmoid(mask - self.beta * self.threshold)).sum()

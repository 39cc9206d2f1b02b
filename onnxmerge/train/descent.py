"""Steps of gradient descent on a student's weights, their average, and the way back to where they were."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from onnxmerge.train.executor import OnnxModule
from onnxmerge.train.samples import Feed
from onnxmerge.train.targets import Errors

# Of Adam (Kingma and Ba 2015); the second moment forgets sooner than usual, for runs are short.
_BETAS = (0.9, 0.99)
_TINY = 1e-12
# Of the exponential average of the weights: about the last twenty steps.
_AVERAGE = 0.95
# A gradient is shortened to this multiple of its usual length.
_CLIP = 2.0
# The smallest size of a tensor that a rate refers to, as a share of the typical one: biases may be zero.
_LEAST_SIZE = 0.05

Weights = list[Tensor]


class Descent:
    """Adam in units of each tensor's own size, with clipped gradients, and an average over the last steps.

    A step changes a weight by about ``rate`` times the root mean square of its tensor (as LAMB and Adafactor
    do it), so that one rate suits layers whose weights differ by orders of magnitude.

    Args:
        inner: the weight of the inner tensors in the loss.

    Attributes:
        average: the averaged weights, in the order of ``parameters``.
    """

    def __init__(self, student: OnnxModule, names: list[str], errors: Errors, inner: float):
        self._student, self._names, self._errors, self._inner = student, names, errors, inner
        self.parameters: Weights = [p for p in student.parameters() if p.requires_grad]
        self.restart(self.weights())

    def weights(self) -> Weights:
        """A copy of the weights as they are now."""
        return [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def put(self, weights: Weights) -> None:
        for parameter, values in zip(self.parameters, weights, strict=True):
            parameter.copy_(values)

    def restart(self, weights: Weights) -> None:
        """Go on from these weights, with moments and average as at the beginning."""
        self.put(weights)
        self.average = self.weights()
        self._count = 0
        self._first, self._second = (
            [torch.zeros_like(p, memory_format=torch.preserve_format) for p in self.parameters]
            for _ in range(2)
        )
        self._usual: float | None = None
        sizes = torch.stack([p.detach().square().mean().sqrt() for p in self.parameters])
        self._sizes = sizes.clamp(min=float(_LEAST_SIZE * sizes.median()) or 1.0).tolist()

    def step(self, feeds: Iterable[tuple[Feed, Mapping[str, Tensor], float]], rate: float) -> float:
        """One update of all weights; returns the loss, which is not finite where the step was not taken."""
        for parameter in self.parameters:
            parameter.grad = None
        total = 0.0
        for feed, expected, share in feeds:
            with torch.autocast("cuda", torch.bfloat16, enabled=self.parameters[0].is_cuda):
                found = dict(zip(self._names, self._student.run(feed, self._names), strict=True))
            loss = self._errors.loss(found, expected, self._inner) * share
            loss.backward()
            total += float(loss.detach())
        with torch.no_grad():
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
            length = float(torch.stack(torch._foreach_norm(gradients)).norm())
            if not (total < float("inf") and length < float("inf")):
                return float("nan")
            self._clip(gradients, length)
            self._update(gradients, rate)
        return total

    def _clip(self, gradients: Weights, length: float) -> None:
        usual = length if self._usual is None else self._usual
        if length > _CLIP * usual:
            torch._foreach_mul_(gradients, _CLIP * usual / length)
            length = _CLIP * usual
        self._usual = 0.9 * usual + 0.1 * length

    def _update(self, gradients: Weights, rate: float) -> None:
        self._count += 1
        first, second = _BETAS
        torch._foreach_lerp_(self._first, gradients, 1 - first)
        torch._foreach_mul_(self._second, second)
        torch._foreach_addcmul_(self._second, gradients, gradients, 1 - second)
        scales = torch._foreach_sqrt(self._second)
        torch._foreach_div_(scales, (1 - second**self._count) ** 0.5)
        torch._foreach_add_(scales, _TINY)
        moves = list(torch._foreach_div(self._first, scales))
        torch._foreach_mul_(moves, [-rate * size / (1 - first**self._count) for size in self._sizes])
        torch._foreach_add_(self.parameters, moves)
        # While there are few steps, over all of them.
        torch._foreach_lerp_(self.average, self.parameters, max(1 - _AVERAGE, 1 / (1 + self._count / 2)))

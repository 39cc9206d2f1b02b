"""What a smaller model is taught: which of the original's tensors, and how far it is from them.

Two kinds of tensors are matched, each in units of its own variance over the data:

- the *answers*: the outputs or, where these are decoded from others (by a Softmax, an ArgMax, arithmetic with
  stored numbers), what they are made of, see ``train.answers``. Of class scores the
  numbers themselves are matched, not the softened distribution (Hinton et al. 2015): on 448 training images
  of a ResNet-20 at half its MACs the error of the scores fell from 0.130 to 0.101 of their variance with the
  numbers, and rose to 0.146 with cross-entropy at a temperature of 2, after 150 steps at the same rate.
- the *inner tensors*: the residual sums that both models have in one shape or, where there are none, what
  convolutions and matrix products give. They say more than the answers that are made of them, a map having
  thousands of numbers where there are ten scores, and they say to every block what it is to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from onnxmerge.errors import ModelError
from onnxmerge.operators.table import is_contraction
from onnxmerge.train.answers import answers_of
from onnxmerge.train.executor import OnnxModule

# A tensor that varies by less than this, as a share of its mean square, is taken for a constant.
_CONSTANT = 1e-12


@dataclass(frozen=True)
class Targets:
    """Names of tensors that both models compute.

    Attributes:
        answers: what stands for the outputs.
        inner: others, in the graph's order.
        outputs: the outputs themselves, as far as they are floats and stand still.
    """

    answers: tuple[str, ...]
    inner: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def judged(self) -> list[str]:
        """The answers and the outputs, each once."""
        return list(dict.fromkeys((*self.answers, *self.outputs)))

    @property
    def names(self) -> list[str]:
        """All of them, each once."""
        return list(dict.fromkeys((*self.judged, *self.inner)))


def find_targets(teacher: OnnxModule, student: OnnxModule, feed: Mapping[str, Tensor]) -> Targets:
    """What can be taught, as one feed shows it.

    A tensor is matched if both models have it in one shape, as floats, if the original computes the same
    twice (there are random operators), and if the student's depends on weights.

    Raises:
        ModelError: the models do not belong together, or nothing can be taught.
    """
    if (teacher.inputs, teacher.outputs) != (student.inputs, student.outputs):
        raise ModelError(
            "the two models have different inputs or outputs: a student has to have its teacher's"
        )
    made = set(student.made)
    common = [name for name in teacher.made if name in made]
    with torch.no_grad():
        first, second = (dict(zip(common, teacher.run(feed, common), strict=True)) for _ in range(2))
    found = dict(zip(common, student.run(feed, common), strict=True))
    fits = {
        name
        for name in common
        if first[name].is_floating_point()
        and first[name].shape == found[name].shape
        and torch.equal(first[name].nan_to_num(), second[name].nan_to_num())
        and found[name].requires_grad
    }
    makers, sums = teacher.makers, set(teacher.sums)
    answers, follow = answers_of(teacher, student, found, fits)
    if not answers:
        raise ModelError("nothing can be taught: no output is made of floats that weights have a part in")
    open_ones = [name for name in common if name in fits and name not in answers and name not in follow]
    inner = [name for name in open_ones if name in sums] or [
        name for name in open_ones if is_contraction(makers[name].op)
    ]
    return Targets(
        tuple(answers),
        tuple(inner),
        tuple(name for name in teacher.outputs if name in fits),
    )


class Errors:
    """Squared differences in units of the variance that the original's tensors have over the data.

    Args:
        expected: the original's tensors over the data, feed by feed.

    Raises:
        ModelError: no answer varies.
    """

    def __init__(self, targets: Targets, expected: Iterable[Mapping[str, Tensor]]):
        self._spreads = _spreads(targets.names, expected)
        self._answers, self._outputs, self._inner = (
            [name for name in names if name in self._spreads]
            for names in (targets.answers, targets.outputs, targets.inner)
        )
        if not self._answers:
            raise ModelError("nothing can be taught: the original answers the same to all inputs")

    def loss(self, found: Mapping[str, Tensor], expected: Mapping[str, Tensor], inner: float) -> Tensor:
        """The mean over the answers, plus ``inner`` times the mean over the inner tensors; a scalar."""
        total = torch.stack([self._mean(name, found, expected) for name in self._answers]).mean()
        if inner and self._inner:
            others = [self._mean(name, found, expected) for name in self._inner]
            total = total + inner * torch.stack(others).mean()
        return total

    def of_samples(
        self, found: Mapping[str, Tensor], expected: Mapping[str, Tensor], rows: int
    ) -> tuple[Tensor, Tensor]:
        """The errors of the answers, and of the outputs themselves; float64 [rows] each.

        Where a tensor's first axis is not that of the samples, all have the mean over the feed.
        """
        return tuple(  # type: ignore[return-value]
            torch.stack([_by_sample(self._error(name, found, expected), rows) for name in names]).mean(0)
            for names in (self._answers, self._outputs or self._answers)
        )

    def _mean(self, name: str, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Tensor:
        spread, a, b = self._spreads[name], found[name], expected[name]
        if spread.finite and a.shape == b.shape:
            return _mean_square(a.float(), b.float()) / spread.variance
        return self._error(name, found, expected).mean()

    def _error(self, name: str, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Tensor:
        """Of every element; what is not finite in the original (masked scores) is left out."""
        a, b = found[name].float(), expected[name].float()
        if a.shape != b.shape:
            raise ModelError(f"'{name}' has another shape than the original's for some inputs")
        difference = a - b
        if not self._spreads[name].finite:
            difference = torch.where(torch.isfinite(b), difference, 0.0)
        return difference.square() / self._spreads[name].variance


class _MeanSquare(torch.autograd.Function):
    """The mean of (a - b)^2: ``mse_loss``, whose way back fills a map with zeros first, in half the time.

    Of no numbers it is 0.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        difference = a - b
        ctx.save_for_backward(difference)
        return torch.linalg.vector_norm(difference).square() / max(difference.numel(), 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (difference,) = ctx.saved_tensors
        return difference * (gradient * (2 / max(difference.numel(), 1))), None


def _mean_square(a: Tensor, b: Tensor) -> Tensor:
    found: Tensor = _MeanSquare.apply(a, b)
    return found


def _by_sample(error: Tensor, rows: int) -> Tensor:
    if error.ndim and len(error) == rows:
        return error.double().reshape(rows, -1).mean(1)
    return error.double().mean().expand(rows)


@dataclass(frozen=True)
class _Spread:
    """Of a tensor's elements over all feeds: their variance, and whether all of them are finite."""

    variance: float
    finite: bool


def _spreads(names: Sequence[str], expected: Iterable[Mapping[str, Tensor]]) -> dict[str, _Spread]:
    """By name; tensors that do not vary are left out."""
    # Elements, finite ones, and of these sum and sum of squares.
    sums = {name: torch.zeros(4, dtype=torch.float64) for name in names}
    for feed in expected:
        for name in names:
            every = feed[name]
            known = every[torch.isfinite(every)].double()
            counted = [every.numel(), known.numel(), float(known.sum()), float(known.square().sum())]
            sums[name] += torch.tensor(counted, dtype=torch.float64)
    found = {}
    for name, (elements, count, total, squares) in ((n, s.tolist()) for n, s in sums.items()):
        mean_square = squares / max(count, 1.0)
        variance = mean_square - (total / max(count, 1.0)) ** 2
        if variance > _CONSTANT * mean_square:
            found[name] = _Spread(variance, elements == count)
    return found

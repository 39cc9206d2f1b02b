"""The size of a mask's step: loss per cost, so that gates of different layers compete on equal terms.

The published update adds dL/dt * sgn(w) over a gate's weights and says nothing about its size, which
differs between the layers of a net by orders of magnitude, as the costs do: in LeNet-5 a filter of
the first convolution costs a hundred times what a neuron costs, so the penalty closed its gates a
hundred times sooner, long before a neuron's had moved. Ours multiplies the loss's part of every step by
positive factors, so its sign stays the paper's. Dividing by the cost concerns the penalty too and leaves
where the two balance: it changes how fast a gate gets there. The magnitude weighs the widths' losses
against one another.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from onnxmerge.train.masks import Auxiliary, Masks

# Of the mean cost: what is next to free must not dwarf the steps of all other gates.
_LEAST_COST = 1e-3


class Scales:
    """Makes steps comparable; keeps the running mean square of the gradient of all gates.

    Attributes:
        mean_square: of the loss's gradient, in units of loss per mean cost; 0 before the first step.
    """

    def __init__(self) -> None:
        self.mean_square = 0.0

    def apply(self, masks: Masks, costs: Sequence[Tensor]) -> list[Tensor]:
        """Scale the gradients that the loss left in the masks, in place, and return the scaled costs.

        A gate's gradient is multiplied by the mean magnitude of the open weights of its width, which
        gives back the unit that sgn(w) took away, then divided by its cost, and by the running root
        mean square over all gates, so that ``lr`` and ``mu`` mean the same in every model.

        Args:
            costs: float, as ``Masks.costs`` returns them.
        """
        rates = [1 / cost.clamp(min=_LEAST_COST) for cost in costs]
        for auxiliary, rate in zip(masks.auxiliaries, rates, strict=True):
            if auxiliary.values.grad is not None:
                auxiliary.values.grad.mul_(rate)
                if masks.method.decoupled:
                    auxiliary.values.grad.mul_(magnitudes(masks, auxiliary))
        self._divide_by_size([p.grad for p in masks.parameters if p.grad is not None])
        return [cost * rate for cost, rate in zip(costs, rates, strict=True)]

    def _divide_by_size(self, gradients: list[Tensor]) -> None:
        count = sum(g.numel() for g in gradients)
        square = sum(float(g.double().square().sum()) for g in gradients) / max(count, 1)
        if not 0 < square < float("inf"):
            return
        self.mean_square = 0.95 * self.mean_square + 0.05 * square if self.mean_square else square
        for gradient in gradients:
            gradient.div_(self.mean_square**0.5)


@torch.no_grad()
def magnitudes(masks: Masks, auxiliary: Auxiliary) -> Tensor:
    """For every gate the mean |w| over all weights behind open gates of its width.

    Float, of the shape of ``auxiliary.values``. A width without open gates counts with all its weights.
    """
    values = auxiliary.values
    total, count = values.new_zeros((2, values.numel() + 1))
    for place in masks.places:
        if place.gate.auxiliary is not auxiliary:
            continue
        weight, index = place.weight.abs(), place.gate.index
        if index is None:
            total[:-1] += weight.flatten()
            count[:-1] += 1
        else:
            each = torch.full_like(index, weight.numel() // index.numel(), dtype=count.dtype)
            total.index_add_(0, index.flatten(), weight.sum_to_size(index.shape).flatten())
            count.index_add_(0, index.flatten(), each.flatten())
    opened = (values > masks.method.threshold).flatten()
    width = auxiliary.width
    if width is None:
        width = torch.zeros(values.numel(), dtype=torch.int64, device=values.device)
    sums = values.new_zeros((2, 2, int(width.max()) + 1))
    for i, part in enumerate((opened, torch.ones_like(opened))):
        sums[i, 0].index_add_(0, width, total[:-1] * part)
        sums[i, 1].index_add_(0, width, count[:-1] * part)
    # Over all of a width where none is open: a factor of 0 would keep it closed for ever.
    chosen = torch.where(sums[0, 1] > 0, sums[0], sums[1])
    return (chosen[0] / chosen[1].clamp(min=1))[width].view_as(values)

"""Batches by number: any batch of a run can be made again, so that a run can go on in the middle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from onnxmerge.errors import CalibrationError

Augment = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True, eq=False)
class Batches:
    """Shuffled batches of samples that lie in memory, without end.

    Attributes:
        tensors: inputs and, where there are any, targets; [N, ...] each.
        size: samples in a batch, over all processes.
        seed: of the order (new in every epoch) and of the augmentation.
        augment: called with (inputs [size, ...], generator).

    Raises:
        CalibrationError: there are fewer samples than one batch needs.
    """

    tensors: tuple[Tensor, ...]
    size: int
    seed: int = 0
    augment: Augment | None = None
    _order: dict[int, Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if len(self.tensors[0]) < self.size:
            raise CalibrationError(f"{len(self.tensors[0])} samples do not fill one batch of {self.size}")

    def __len__(self) -> int:
        """Whole batches in an epoch; what is left over waits for the next order."""
        return len(self.tensors[0]) // self.size

    def batch(self, number: int, rank: int = 0, world: int = 1) -> tuple[Tensor, ...]:
        """The part of batch ``number`` (0, 1, ...) that is for one of ``world`` processes."""
        epoch, place = divmod(number, len(self))
        if epoch not in self._order:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self._order.clear()
            self._order[epoch] = torch.randperm(len(self.tensors[0]), generator=generator)
        chosen = self._order[epoch][place * self.size : (place + 1) * self.size]
        inputs, *targets = (t[chosen] for t in self.tensors)
        if self.augment is not None:
            # The whole batch is augmented in every process: the result does not depend on their number.
            inputs = self.augment(inputs, torch.Generator().manual_seed(self.seed * 1_000_003 + number + 1))
        return tuple(t[rank::world] for t in (inputs, *targets))

    def parts(self, share: float) -> tuple[Batches, Batches]:
        """Two disjoint parts, the first with ``share`` of the samples: for weights and for masks."""
        order = torch.randperm(len(self.tensors[0]), generator=torch.Generator().manual_seed(self.seed))
        cut = round(share * len(order))
        first, second = (tuple(t[part] for t in self.tensors) for part in (order[:cut], order[cut:]))
        return (
            Batches(first, self.size, self.seed, self.augment),
            Batches(second, self.size, self.seed + 1, self.augment),
        )


def shift_and_flip(pixels: int = 4, flip: bool = True) -> Augment:
    """Random shifts of up to ``pixels`` (zeros move in) and mirror images, for inputs [N, C, H, W]."""

    def augment(inputs: Tensor, generator: torch.Generator) -> Tensor:
        count, _, height, width = inputs.shape
        padded = torch.nn.functional.pad(inputs, (pixels,) * 4)
        places = torch.randint(0, 2 * pixels + 1, (2, count, 1), generator=generator)
        rows = places[0] + torch.arange(height)
        columns = places[1] + torch.arange(width)
        if flip:
            mirrored = torch.rand(count, 1, generator=generator) < 0.5
            columns = torch.where(mirrored, columns.flip(1), columns)
        samples = torch.arange(count)[:, None, None]
        return padded.permute(0, 2, 3, 1)[samples, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)

    return augment

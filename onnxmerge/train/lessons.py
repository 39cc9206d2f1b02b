"""What a step is taught on: inputs, and the original's answers to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from onnxmerge.train.augmentation import Augmentation
from onnxmerge.train.executor import OnnxModule
from onnxmerge.train.samples import Feed, Samples

# The answers that are kept to be used again, in bytes.
_MOST_KEPT = 1 << 30


class Lessons:
    """Feeds with the original's values of the tensors that are matched.

    Where nothing changes the inputs each is answered once, and the answers are kept as far as memory allows.

    Args:
        teacher: the original, frozen, in evaluation mode.
        names: the tensors whose values are asked for.
        most: samples in a feed, where their number is free.
        augmentation: changes inputs, differently in every step; None: nothing does.
    """

    def __init__(
        self,
        teacher: OnnxModule,
        samples: Samples,
        names: Sequence[str],
        most: int,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ):
        self.samples = samples
        self._teacher, self._names, self._most = teacher, list(names), most
        self._augmentation, self._seed = augmentation or Augmentation({}), seed
        self._kept: dict[int, dict[str, Tensor]] = {}
        self._bytes = 0

    def all(self) -> Iterator[tuple[Feed, dict[str, Tensor], int]]:
        """Every sample as it is, in order: feeds, answers, and the number of samples in each."""
        for rows in self.samples.pieces(self._most):
            feed = self.samples.feed(rows)
            yield feed, self._answers(feed, rows), len(rows)

    def step(self, number: int, batch: int) -> Iterator[tuple[Feed, dict[str, Tensor], float]]:
        """The feeds of step ``number`` (0, 1, ...), answers, and the share of the step that each is."""
        parts = self.samples.step(number, batch, self._most, self._seed)
        total = sum(len(rows) for rows in parts)
        for part, rows in enumerate(parts):
            feed = self.samples.feed(rows)
            if self._augmentation:
                state = np.random.SeedSequence((self._seed, number, part)).generate_state(1)
                feed = self._augmentation(feed, torch.Generator().manual_seed(int(state[0])))
                yield feed, self._asked(feed), len(rows) / total
            else:
                yield feed, self._answers(feed, rows), len(rows) / total

    @torch.no_grad()
    def _asked(self, feed: Feed) -> dict[str, Tensor]:
        return dict(zip(self._names, self._teacher.run(feed, self._names), strict=True))

    def _answers(self, feed: Feed, rows: np.ndarray) -> dict[str, Tensor]:
        """The answers to samples as they are, from memory where they are known."""
        numbers = [int(row) for row in rows]
        if all(number in self._kept for number in numbers):
            kept = [self._kept[number] for number in numbers]
            if len(kept) == 1:
                return kept[0]
            return {name: torch.cat([one[name] for one in kept]) for name in self._names}
        found = self._asked(feed)
        self._keep(numbers, found)
        return found

    def _keep(self, numbers: list[int], found: dict[str, Tensor]) -> None:
        alone = len(numbers) == 1
        if not alone and any(v.ndim == 0 or len(v) != len(numbers) for v in found.values()):
            return  # no axis of samples: what belongs to which is not known
        size = sum(v.numel() * v.element_size() for v in found.values())
        if self._bytes + size > _MOST_KEPT:
            return
        self._bytes += size
        for i, number in enumerate(numbers):
            self._kept[number] = found if alone else {name: v[i : i + 1] for name, v in found.items()}

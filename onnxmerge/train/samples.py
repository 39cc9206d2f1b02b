"""The inputs of a Dataset as torch tensors, in shuffled batches that can be made again by number."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from onnxmerge.data import Dataset
from onnxmerge.data.columns import Column
from onnxmerge.errors import ModelError

Feed = dict[str, Tensor]


class Samples:
    """Rows of a Dataset, or its ready-made feeds, as feeds of tensors.

    A model with a fixed batch gets feeds of that size, and data that are ready-made feeds come one by one: a
    step then adds up the gradients of several feeds. No feed holds samples of two conventions.

    Attributes:
        dataset: where the numbers are.
        unit: samples in a feed where that is fixed; None where any number runs.
    """

    def __init__(self, dataset: Dataset, device: torch.device):
        self.dataset = dataset
        self.unit = 1 if dataset.ready is not None else dataset.batch
        self._device = device
        number = dataset.convention_of
        rows = np.arange(len(dataset))
        self._groups = [rows]
        if number is not None and dataset.mixed:
            self._groups = [np.flatnonzero(number == n) for n in np.unique(number)]
        # What is cut into whole units only; a short rest would not run.
        unit = self.unit or 1
        self._groups = [kept for group in self._groups if len(kept := group[: len(group) // unit * unit])]

    def __len__(self) -> int:
        return sum(len(group) for group in self._groups)

    def feed(self, rows: np.ndarray) -> Feed:
        """These samples, int64 [n]; of ready-made feeds exactly one.

        Raises:
            ModelError: an input has a type that torch lacks (texts).
        """
        dataset = self.dataset
        if dataset.ready is not None:
            chosen = dict(dataset.ready[int(rows[0])])
        else:
            assert dataset.arrays is not None
            chosen = {n: a[rows] if isinstance(a, Column) else a for n, a in dataset.arrays.items()}
        return {name: self._tensor(name, np.asarray(value)) for name, value in chosen.items()}

    def part(self, feed: Feed, places: list[int]) -> Feed:
        """Some of the samples of a feed, by their places in it."""
        return {n: v if n in self.dataset.shared else v[places] for n, v in feed.items()}

    def pieces(self, most: int) -> list[np.ndarray]:
        """All samples in order, in rows for feeds of at most ``most`` (of ``unit`` where that is fixed)."""
        return [rows for group in self._groups for rows in self._cut(group, most)]

    def step(self, number: int, batch: int, most: int, seed: int) -> list[np.ndarray]:
        """The rows of the feeds of step ``number`` (0, 1, ...): about ``batch`` samples in all.

        Every sample comes once before any comes again, but for those that do not fill a last batch and wait
        for the next order.

        Args:
            most: samples in a feed, where their number is free.
        """
        # By turns, so that steps weigh conventions alike.
        group = self._groups[number % len(self._groups)]
        unit = self.unit or 1
        size = max(min(batch, len(group)) // unit, 1) * unit
        epoch, place = divmod(number // len(self._groups), len(group) // size)
        order = np.random.default_rng((seed, epoch)).permutation(len(group))
        return self._cut(group[order[place * size : (place + 1) * size]], most)

    def _cut(self, rows: np.ndarray, most: int) -> list[np.ndarray]:
        count = -(-len(rows) // (self.unit or most))
        # Feeds of nearly equal size: they weigh alike in the memory that a step takes.
        return np.array_split(rows, count)

    def _tensor(self, name: str, value: np.ndarray) -> Tensor:
        try:
            tensor = torch.from_numpy(np.array(value, order="C")).to(self._device)
        except TypeError as error:
            raise ModelError(f"input '{name}' holds {value.dtype}, which cannot be trained on") from error
        return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor

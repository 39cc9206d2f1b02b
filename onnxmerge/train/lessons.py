"""What a step is taught on: inputs, and the original's answers to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from onnxmerge.train.augmentation import VERSIONS, Augmentation
from onnxmerge.train.executor import OnnxModule
from onnxmerge.train.samples import Feed, Samples

# The answers that are kept to be used again, in bytes.
_MOST_KEPT = 1 << 30
# Beyond the versions of a sample: the number of the sample as it is.
_AS_IT_IS = VERSIONS


class Lessons:
    """Feeds with the original's values of the tensors that are matched.

    Every version of an input is answered once, and the answers are kept as far as memory allows.

    Args:
        teacher: the original, frozen, in evaluation mode.
        names: the tensors whose values are asked for.
        most: samples in a feed, where their number is free.
        layouts: of the inputs that are images and are changed from step to step; see ``Augmentation``.
    """

    def __init__(
        self,
        teacher: OnnxModule,
        samples: Samples,
        names: Sequence[str],
        most: int,
        layouts: Mapping[str, str] | None = None,
        seed: int = 0,
    ):
        self.samples = samples
        self._teacher, self._names, self._most, self._seed = teacher, list(names), most, seed
        self._augmentation = Augmentation(layouts or {}, len(samples.dataset), seed)
        self._kept: dict[int, dict[str, Tensor]] = {}
        self._bytes = 0

    def all(self) -> Iterator[tuple[Feed, dict[str, Tensor], int]]:
        """Every sample as it is, in order: feeds, answers, and the number of samples in each."""
        for rows in self.samples.pieces(self._most):
            feed = self.samples.feed(rows)
            yield feed, self._answers(feed, rows, np.full(len(rows), _AS_IT_IS)), len(rows)

    def step(self, number: int, batch: int) -> Iterator[tuple[Feed, dict[str, Tensor], float]]:
        """The feeds of step ``number`` (0, 1, ...), answers, and the share of the step that each is."""
        parts = self.samples.step(number, batch, self._most, self._seed)
        total = sum(len(rows) for rows in parts)
        for part, rows in enumerate(parts):
            feed = self.samples.feed(rows)
            versions = np.full(len(rows), _AS_IT_IS)
            if self._augmentation:
                rng = np.random.default_rng((self._seed, number, part))
                versions = rng.integers(0, VERSIONS, len(rows))
                feed = self._augmentation(feed, rows, versions)
            yield feed, self._answers(feed, rows, versions), len(rows) / total

    @torch.no_grad()
    def _asked(self, feed: Feed) -> dict[str, Tensor]:
        return dict(zip(self._names, self._teacher.run(feed, self._names), strict=True))

    def _answers(self, feed: Feed, rows: np.ndarray, versions: np.ndarray) -> dict[str, Tensor]:
        """The answers to these versions of these samples, from memory where they are known."""
        keys = [int(key) for key in rows * (VERSIONS + 1) + versions]
        missing = [i for i, key in enumerate(keys) if key not in self._kept]
        if not missing:
            return self._together([self._kept[key] for key in keys])
        if len(missing) == len(keys) or self.samples.unit is not None:
            found = self._asked(feed)
            apart = _by_sample(found, len(keys))
            if apart is not None:
                self._keep(keys, apart)
            return found
        found = self._asked(self.samples.part(feed, missing))
        apart = _by_sample(found, len(missing))
        if apart is None:  # as many answers as samples were chance before
            return self._asked(feed)
        new = dict(zip((keys[i] for i in missing), apart, strict=True))
        together = self._together([new[key] if key in new else self._kept[key] for key in keys])
        self._keep(list(new), apart)
        return together

    def _together(self, apart: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        if len(apart) == 1:
            return apart[0]
        return {name: torch.cat([one[name] for one in apart]) for name in self._names}

    def _keep(self, keys: list[int], apart: list[dict[str, Tensor]]) -> None:
        for key, values in zip(keys, apart, strict=True):
            size = sum(v.numel() * v.element_size() for v in values.values())
            if self._bytes + size > _MOST_KEPT:
                return
            if key not in self._kept:
                self._bytes += size
                # A view would keep all of its feed alive.
                self._kept[key] = {name: v.clone() for name, v in values.items()}


def _by_sample(found: dict[str, Tensor], count: int) -> list[dict[str, Tensor]] | None:
    """The values of every sample, [1, ...] each; None where no axis of samples tells them apart."""
    if count == 1:
        return [found]
    if any(v.ndim == 0 or len(v) != count for v in found.values()):
        return None
    return [{name: v[i : i + 1] for name, v in found.items()} for i in range(count)]

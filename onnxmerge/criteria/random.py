"""A seeded random order: the baseline that every criterion must beat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxmerge.channels import Channels
from onnxmerge.plan import Scores


@dataclass(frozen=True)
class Random:
    """Uniform random scores, reproducible by ``seed``."""

    seed: int = 0

    def __call__(self, channels: Channels, statistics: object | None = None) -> Scores:
        generator = np.random.default_rng(self.seed)
        return Scores({group.name: generator.random(len(group)) for group in channels.groups})

"""A seeded random order: the baseline that every criterion must beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from onnxmerge.channels import Channels
from onnxmerge.plan import Scores
from onnxmerge.statistics import Needs
from onnxmerge.statistics.dense import Statistics


@dataclass(frozen=True)
class Random:
    """Uniform random scores.

    Attributes:
        seed: the same one gives the same scores.
    """

    seed: int = 0
    needs: ClassVar[Literal[Needs.NOTHING]] = Needs.NOTHING

    def __call__(self, channels: Channels, statistics: Statistics | None = None) -> Scores:
        generator = np.random.default_rng(self.seed)
        return Scores({group.name: generator.random(len(group)) for group in channels.groups})

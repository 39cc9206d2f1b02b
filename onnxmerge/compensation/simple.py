"""Plain removal, and removal with the mean carried by the bias."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from onnxmerge.channels.sites import FoldSite
from onnxmerge.compensation.folding import response_to_constant
from onnxmerge.statistics import Needs
from onnxmerge.statistics.dense import Statistics


@dataclass(frozen=True)
class Nothing:
    """Removed channels count as zero: plain pruning."""

    needs: ClassVar[Literal[Needs.NOTHING]] = Needs.NOTHING

    def __call__(
        self, site: FoldSite, kept: np.ndarray, statistics: Statistics | None = None
    ) -> tuple[None, None]:
        return None, None


@dataclass(frozen=True)
class MeanBias:
    """Removed channels are replaced by their mean, which goes into the consumer's bias."""

    needs: ClassVar[Literal[Needs.DENSE]] = Needs.DENSE

    def __call__(
        self, site: FoldSite, kept: np.ndarray, statistics: Statistics | None
    ) -> tuple[None, np.ndarray | None]:
        gone = ~kept[site.channel[site.columns]]
        if statistics is None or site.rows is None or not gone.any():
            return None, None
        return None, response_to_constant(site, np.where(gone, statistics.mean(site), 0.0))

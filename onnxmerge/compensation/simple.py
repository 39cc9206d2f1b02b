"""Plain removal, and removal with the mean carried by the bias."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxmerge.channels.sites import FoldSite
from onnxmerge.compensation.mixing import through_weight


@dataclass(frozen=True)
class Nothing:
    """Removed channels count as zero: plain pruning."""

    def __call__(self, site: FoldSite, kept: np.ndarray, statistics: np.ndarray | None) -> tuple[None, None]:
        return None, None


@dataclass(frozen=True)
class MeanBias:
    """Removed channels are replaced by their mean, which goes into the consumer's bias."""

    def __call__(
        self, site: FoldSite, kept: np.ndarray, statistics: np.ndarray | None
    ) -> tuple[None, np.ndarray | None]:
        if statistics is None or site.rows is None:
            return None, None
        gone = ~kept[site.channel[site.columns]]
        return None, through_weight(site, np.where(gone, statistics, 0.0)) if gone.any() else None

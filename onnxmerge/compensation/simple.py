"""Plain removal, and removal with the mean carried by the bias."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxmerge.channels.sites import FoldSite


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
        channel = site.channel[site.columns]
        removed = np.flatnonzero(~kept[channel])
        if not len(removed):
            return None, None
        weight = np.moveaxis(np.asarray(site.weight.constant, dtype=np.float64), (site.rows, site.axis), (0, 1))
        per_column = weight.reshape(weight.shape[0], weight.shape[1], -1).sum(axis=2)
        blocks = site.contract.blocks
        if blocks == 1:
            return None, per_column[:, site.columns[removed]] @ statistics[removed]
        change = np.zeros(len(per_column))
        rows, width = len(per_column) // blocks, len(channel) // blocks
        for block in range(blocks):
            inside = removed[removed // width == block]
            part = slice(block * rows, (block + 1) * rows)
            change[part] = per_column[part][:, site.columns[inside]] @ statistics[inside]
        return None, change

"""Which widths a group may have, so that no allocation chooses one that the hardware would pad."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd

import numpy as np

from onnxmerge.channels import Channels

# A group that is narrower than this many steps moves in smaller ones: coarse steps would cost more
# accuracy than they save time.
_FEWEST_STEPS = 4


@dataclass(frozen=True)
class Extent:
    """The extent of the channels of one group.

    Attributes:
        positions: the fewest positions that a channel has on any axis that a linear layer reads or writes:
            1 for a convolution's channel, also where it becomes a block of a flattened axis; the head size
            for an attention head, and the size of a group for those that a normalisation keeps together.
            On the axes of a grouped convolution those of one of its groups are counted.
        grouped: whether the channels enter or leave a grouped convolution (not a depthwise one).
    """

    positions: int
    grouped: bool


@dataclass(frozen=True)
class Alignment:
    """Widths are multiples of ``step`` where a group is that wide.

    Attributes:
        step: counted in positions of an axis, per group of a grouped convolution.
        least: below one step, and in groups of fewer than four steps that no grouped convolution
            touches, ``step`` is halved, down to this; None: it never is.
    """

    step: int = 1
    least: int | None = None

    def ladders(self, channels: Channels) -> Mapping[str, np.ndarray]:
        """The widths that every group may have, int64, ascending; the last is all of its channels."""
        found = extents(channels)
        return {group.name: self.ladder(len(group), found[group.name]) for group in channels.groups}

    def ladder(self, count: int, extent: Extent) -> np.ndarray:
        """The allowed numbers of channels of a group of ``count``."""
        least = self.step if self.least is None else min(self.least, self.step)
        step = self.step
        while not extent.grouped and step > least and _FEWEST_STEPS * step > count * extent.positions:
            step = max(step // 2, least)
        rungs = [np.arange(_channels(step, extent), count + 1, _channels(step, extent))]
        while step > least:
            step = max(step // 2, least)
            rungs.append(np.array([_channels(step, extent)]))
        allowed = np.unique(np.append(np.concatenate(rungs), count))
        return allowed[allowed <= count]


def _channels(step: int, extent: Extent) -> int:
    """The fewest channels whose positions are a multiple of ``step``."""
    return step // gcd(step, extent.positions)


def extents(channels: Channels) -> Mapping[str, Extent]:
    """The extent of every group, by its name."""
    blocks, linear = _blocks(channels)
    classes = channels.classes
    ids = np.arange(classes.total)
    pairs, counts = np.unique(np.stack([channels.label, classes.class_of(ids)]), axis=1, return_counts=True)
    # A channel that no linear layer reads or writes is as wide as it is.
    touched = np.zeros(channels.count, dtype=bool)
    np.logical_or.at(touched, pairs[0], linear[pairs[1]])
    counted = linear[pairs[1]] | ~touched[pairs[0]]
    pairs, counts = pairs[:, counted], counts[counted]
    per_block = np.maximum(counts // blocks[pairs[1]], 1)
    fewest = np.full(channels.count, np.iinfo(np.int64).max)
    np.minimum.at(fewest, pairs[0], per_block)
    grouped = np.zeros(channels.count, dtype=bool)
    np.logical_or.at(grouped, pairs[0], blocks[pairs[1]] > 1)
    return {
        group.name: Extent(int(fewest[group.channels].min()), bool(grouped[group.channels].any()))
        for group in channels.groups
    }


def _blocks(channels: Channels) -> tuple[np.ndarray, np.ndarray]:
    """Per axis class the groups of the grouped convolutions that read or write it, int64.

    And whether any linear layer reads or writes it, bool.
    """
    blocks = np.ones(len(channels.classes.size), dtype=np.int64)
    linear = np.zeros(len(blocks), dtype=bool)
    for node, contract in channels.contracts():
        linear[[channels.classes.number[axis] for axis in (contract.data, *node.y[0].axes)]] = True
        if contract.blocks > 1:
            for axis in (contract.data, node.y[0][1]):
                number = channels.classes.number[axis]
                blocks[number] = max(blocks[number], contract.blocks)
    return blocks, linear

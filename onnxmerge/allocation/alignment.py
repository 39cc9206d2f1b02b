"""Which widths a group may have, so that no allocation chooses one that the hardware would pad."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd

import numpy as np

from onnxmerge.channels import Channels
from onnxmerge.channels.spans import Span, spans

# A group that is narrower than this many steps moves in smaller ones: coarse steps would cost more
# accuracy than they save time.
_FEWEST_STEPS = 4


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
        found = spans(channels)
        return {group.name: self.ladder(len(group), found[group.name]) for group in channels.groups}

    def ladder(self, count: int, span: Span) -> np.ndarray:
        """The allowed numbers of channels of a group of ``count``."""
        least = self.step if self.least is None else min(self.least, self.step)
        step = self.step
        while not span.grouped and step > least and _FEWEST_STEPS * step > count * span.positions:
            step = max(step // 2, least)
        rungs = [np.arange(_channels(step, span), count + 1, _channels(step, span))]
        while step > least:
            step = max(step // 2, least)
            rungs.append(np.array([_channels(step, span)]))
        allowed = np.unique(np.append(np.concatenate(rungs), count))
        return allowed[allowed <= count]


def _channels(step: int, span: Span) -> int:
    """The fewest channels whose positions are a multiple of ``step``."""
    return step // gcd(step, span.positions)

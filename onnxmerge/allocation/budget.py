"""What may remain of a model, and what widths cost of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from onnxmerge.channels.depth import Depth


@dataclass(frozen=True)
class Budget:
    """What may remain.

    Attributes:
        kind: ``ratio`` (share of channels removed per group), ``macs``, ``params`` or ``latency``
            (share of the model's total that is kept).
        value: the share, 0..1.
        share: but for a ratio, what remains as a share of the input model, at the lengths of all axis
            classes: [..., classes] -> float64 [...].
        depth: which groups may be left without a channel; None: every group keeps one.
    """

    kind: str
    value: float
    share: Callable[[np.ndarray], np.ndarray] | None = None
    depth: Depth | None = None

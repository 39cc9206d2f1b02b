"""Paired statistics of one site: features from the new model, targets from the untouched one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxmerge.statistics.moments import Moments, pooled
from onnxmerge.statistics.requests import Fit


@dataclass(frozen=True, eq=False)
class Rows:
    """Features and targets themselves, centred: float32 [n, F] and [n, O], with their means, float64."""

    features: np.ndarray
    targets: np.ndarray
    feature_mean: np.ndarray
    target_mean: np.ndarray


@dataclass(frozen=True, eq=False)
class Split:
    """Moments of three quarters of the samples, of the others, and of all."""

    fit: Moments
    held_out: Moments | None
    all: Moments

    def of_targets(self, part: slice) -> Split:
        """The same features with some of the targets, as views."""
        held_out = None if self.held_out is None else self.held_out.of_targets(part)
        return Split(self.fit.of_targets(part), held_out, self.all.of_targets(part))


@dataclass(frozen=True, eq=False)
class Mixing:
    """Data positions of one block: those that may stay, of the new model, and those that may go, of the old.

    Attributes:
        split: moments of the former as features and the latter as targets.
        stay, go: which positions these are, int64.
    """

    split: Split
    stay: np.ndarray
    go: np.ndarray


@dataclass(frozen=True, eq=False)
class Paired:
    """What one pass of the data tells about a site.

    Attributes:
        present: the features of a block that may stay, int64, places in ``form.channel``.
        blocks: per block the moments of these features (new model) and targets (old model), or their rows.
        mixing: per block what predicts positions that go; empty where none may, or there are too many.
        fit: the site's, or None where the old model's values do not confirm the regression.
    """

    present: np.ndarray
    blocks: tuple[Split | Rows, ...]
    mixing: tuple[Mixing, ...]
    fit: Fit | None


def pool(splits: Sequence[Split]) -> Split:
    """One regression over the rows of several sites; means are those of the first."""
    held = [s.held_out for s in splits]
    return Split(
        pooled([s.fit for s in splits]),
        None if any(h is None for h in held) else pooled([h for h in held if h is not None]),
        pooled([s.all for s in splits]),
    )

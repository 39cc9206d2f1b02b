"""What the data tell of the activations: moments, and regressions of what contractions compute."""

from __future__ import annotations

from enum import Enum


class Needs(Enum):
    """What a criterion or a compensation has to know of the activations.

    Attributes:
        NOTHING: the weights are enough.
        DENSE: ``dense.Statistics``, of the untouched model.
        PAIRED: ``paired.Paired``, of the untouched model beside the smaller one, site by site.
    """

    NOTHING = "nothing"
    DENSE = "dense"
    PAIRED = "paired"


__all__ = ["Needs"]

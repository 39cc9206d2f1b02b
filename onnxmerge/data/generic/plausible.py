"""How plausible each convention is for a model: a probability from what the model does under all of them.

The log-odds of a convention are those of how common it is, and a weighted sum of what was seen under it. The
weights were fitted to models whose convention is known (``tools/conventions.py``, which also judges them on
families of models that they were not fitted to); what is not seen counts for nothing, so that a model that
shows little leaves much plausible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxmerge.data.conventions import Convention
from onnxmerge.data.generic.evidence import Evidence

# Below this probability a convention is left out, and above this one it stands alone.
LEAST, CLEAR = 0.02, 0.95
# More of them would share the samples too thinly.
MOST = 8
# Weights of the features, in their order.
WEIGHTS = (1.5, 0.55, 1.4, 1.8, 1.6)
# Images of at most so many pixels a side come from data sets like CIFAR, whose statistics are their own.
SMALL = 64
# What photographs show about a model of grey images: few of those are trained on photographs.
GREY = 0.25
# Below this information in nats answers hardly depend on the picture, and below this consistency they are
# as arbitrary as a classifier of digits is on photographs.
INFORMATIVE, CONSISTENT = 0.15, 0.8


@dataclass(frozen=True)
class Plausible:
    """The conventions that a model may have been trained under.

    Attributes:
        conventions: the most probable first.
        probabilities: of each; they sum to 1.
        meaningful: whether the model's class scores make sense of photographs; None where it has none.
    """

    conventions: tuple[Convention, ...]
    probabilities: tuple[float, ...]
    meaningful: bool | None = None

    @property
    def clear(self) -> bool:
        """Whether there is only one."""
        return len(self.conventions) == 1


def features(evidence: Evidence) -> np.ndarray:
    """What is weighed of one convention, float64 [5]; zeros for what was not seen.

    In this order: early and overall divergence from BatchNorm statistics, pixels washed out, biases drowned,
    information in the answers. Larger is more plausible.
    """
    e = evidence
    return np.array([
        0.0 if e.divergence is None else -np.log(0.02 + e.divergence),
        0.0 if e.divergence_all is None else -np.log(0.02 + e.divergence_all),
        0.0 if e.bias is None else -float(np.clip(e.bias - 1, 0, 4)),
        0.0 if e.bias is None else -float(np.clip(-1 - e.bias, 0, 2)),
        0.0 if e.information is None else np.log(max(e.information, 0.0) + 0.02),
    ])  # fmt: skip


def prior(convention: Convention, smallest_side: int) -> float:
    """How common a convention is among models with inputs of this size, relative to the others."""
    own = convention.name.startswith("CIFAR"), convention.name.startswith("ImageNet")
    small = smallest_side <= SMALL
    return convention.prior * (0.1 if own[0] and not small else 0.6 if own[1] and small else 1.0)


def probabilities(
    conventions: Sequence[Convention],
    table: np.ndarray,
    smallest_side: int,
    weights: Sequence[float] = WEIGHTS,
) -> np.ndarray:
    """The probability of every convention, float64 [conventions].

    Args:
        table: features of every convention, float64 [conventions, 5].
        smallest_side: shorter side of the input in pixels.
    """
    believed = GREY if conventions[0].order == "grey" else 1.0
    odds = believed * (table @ np.asarray(weights))
    odds = odds + np.log([prior(c, smallest_side) for c in conventions])
    found = np.exp(odds - odds.max())
    return found / found.sum()


def plausible(seen: Mapping[Convention, Evidence], smallest_side: int) -> Plausible:
    """The conventions that what was seen leaves plausible."""
    conventions = list(seen)
    table = np.array([features(e) for e in seen.values()])
    p = probabilities(conventions, table, smallest_side)
    places = chosen(p)
    share = p[places] / p[places].sum()
    kept = tuple(conventions[i] for i in places)
    return Plausible(kept, tuple(float(s) for s in share), _meaningful({c: seen[c] for c in kept}))


def chosen(p: np.ndarray) -> list[int]:
    """Which conventions of these probabilities are plausible, the most probable first."""
    order = np.argsort(-p, kind="stable")
    if p[order[0]] >= CLEAR:
        return [int(order[0])]
    return [int(i) for i in order if p[i] >= LEAST][:MOST]


def assumed(conventions: Sequence[Convention], smallest_side: int) -> Plausible:
    """What is common, where a model shows nothing."""
    return replace(plausible(dict.fromkeys(conventions, Evidence()), smallest_side), meaningful=None)


def _meaningful(seen: Mapping[Convention, Evidence]) -> bool | None:
    told = [e for e in seen.values() if e.information is not None]
    if not told:
        return None
    # Classifiers of grey images are made for digits, letters, X-rays: anything but photographs.
    if any(c.order == "grey" for c in seen):
        return False
    return any(
        e.information >= INFORMATIVE and e.consistency >= CONSISTENT
        for e in told
        if e.information is not None and e.consistency is not None
    )

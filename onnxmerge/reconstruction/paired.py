"""Paired statistics of one site: features from the new model, targets from the untouched one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from onnxmerge.calibration.forms import LinearForm
from onnxmerge.calibration.moments import Accumulator, Moments
from onnxmerge.reconstruction.requests import Request

Values = dict[str, np.ndarray]

# More features than this are kept as rows instead of as a covariance.
MOST_FEATURES = 5120
# How many rows are kept then.
_MOST_ROWS = 2048
# A regression whose targets differ by more than this share is not what the operator computes.
_FORM_TOLERANCE = 0.02


@dataclass(frozen=True, eq=False)
class Rows:
    """Features and targets themselves, centred: float32 [n, F] and [n, O], with their means, float64."""

    features: np.ndarray
    targets: np.ndarray
    feature_mean: np.ndarray
    target_mean: np.ndarray


@dataclass(frozen=True, eq=False)
class Paired:
    """What one pass of the data tells about a site.

    Attributes:
        blocks: per block the moments of features (new model) and targets (old model), or their rows.
        mixing: per block the moments of the data positions: features from the new, targets from the
            old model; None where there are too many positions.
        trusted: whether the old model's values confirm the regression.
    """

    blocks: tuple[Moments | Rows, ...]
    mixing: tuple[Moments | None, ...]
    trusted: bool


def gather(
    request: Request, batches: Iterable[tuple[Values, Values]], rows: int, rng: np.random.Generator
) -> Paired:
    """Collect paired statistics.

    Args:
        batches: the values of ``request.old_names`` and ``request.new_names``, batch by batch.
        rows: at most this many rows of each batch, chosen at random.
    """
    form, site = request.form, request.site
    count = form.blocks if form is not None else site.contract.blocks
    wide = form is not None and form.features > MOST_FEATURES
    moments = [Accumulator() for _ in range(count)]
    stored: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in range(count)]
    mixing = [Accumulator() for _ in range(count)]
    trusted = form is not None
    for number, (old, new) in enumerate(batches):
        if form is not None:
            target = request.target(old, new)
            chosen = choose(form.count(target), rows, rng)
            features, targets = (
                form.rows(new[site.data.tensor], target.shape, chosen),
                form.targets(target, chosen),
            )
            if number == 0 and not request.repairs:
                trusted = _confirmed(request, form, old, chosen, targets)
            for block in range(count):
                if wide:
                    stored[block].append((features[block], targets[block]))
                else:
                    moments[block].add(features[block], targets[block])
        if site.data.size <= MOST_FEATURES:
            pairs = _positions(request, old, new, rows, rng, count)
            for accumulator, (now, before) in zip(mixing, pairs, strict=True):
                accumulator.add(now, before)
    means = tuple(m.moments() if site.data.size <= MOST_FEATURES else None for m in mixing)
    if form is None:
        return Paired((), means, False)
    return Paired(
        tuple(_rows(s) for s in stored) if wide else tuple(m.moments() for m in moments), means, trusted
    )


def choose(count: int, most: int, rng: np.random.Generator) -> np.ndarray:
    """At most ``most`` of ``count`` indices, ascending."""
    return np.arange(count) if count <= most else np.sort(rng.choice(count, most, replace=False))


def _positions(request: Request, old: Values, new: Values, rows: int, rng, count: int):
    """The data positions, per block: [(new, old)], float32 [n, size / blocks] each."""
    site = request.site
    x, before = (np.moveaxis(v[site.data.tensor], site.data.axis, -1) for v in (new, old))
    index = np.unravel_index(choose(x.size // x.shape[-1], rows, rng), x.shape[:-1])
    split = [np.split(v[index].astype(np.float32, copy=False), count, axis=1) for v in (x, before)]
    return list(zip(*split, strict=True))


def _confirmed(
    request: Request, form: LinearForm, old: Values, chosen: np.ndarray, targets: np.ndarray
) -> bool:
    shape = old[request.site.node.y[0].name].shape
    features = form.rows(old[request.site.data.tensor], shape, chosen)
    bias = request.bias.reshape(form.blocks, 1, form.outputs)
    difference = features @ form.matrix().transpose(0, 2, 1) + bias - targets
    return bool(np.linalg.norm(difference) <= _FORM_TOLERANCE * max(float(np.linalg.norm(targets)), 1e-6))


def _rows(stored: list[tuple[np.ndarray, np.ndarray]]) -> Rows:
    features = np.concatenate([f for f, _ in stored])[:_MOST_ROWS]
    targets = np.concatenate([t for _, t in stored])[:_MOST_ROWS]
    means = [v.mean(axis=0, dtype=np.float64) for v in (features, targets)]
    return Rows(
        features - means[0].astype(np.float32), targets - means[1].astype(np.float32), means[0], means[1]
    )

"""Paired statistics of one site: features from the new model, targets from the untouched one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from onnxmerge.calibration.moments import Accumulator, Moments, merged, pooled
from onnxmerge.reconstruction.requests import Fit, Request

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
        fit: the site's, or None where the old model's values do not confirm the regression.
    """

    blocks: tuple[Split | Rows, ...]
    mixing: tuple[Split | None, ...]
    fit: Fit | None


@dataclass(frozen=True, eq=False)
class Split:
    """Moments of three quarters of the samples, of the others, and of all."""

    fit: Moments
    held_out: Moments | None
    all: Moments


class _Splitter:
    """Sorts rows into two accumulators by their sample: every fourth sample is held out."""

    def __init__(self) -> None:
        self._parts = Accumulator(), Accumulator()

    def add(self, features: np.ndarray, targets: np.ndarray, sample: np.ndarray) -> None:
        held = sample % 4 == 3
        for part, which in zip(self._parts, (~held, held), strict=True):
            if which.all():
                part.add(features, targets)
            elif which.any():
                part.add(features[which], targets[which])

    def split(self) -> Split:
        fit, held = self._parts
        if not held.rows or not fit.rows:
            only = (fit if fit.rows else held).moments()
            return Split(only, None, only)
        parts = fit.moments(), held.moments()
        return Split(*parts, merged(parts))


def gather(
    request: Request, batches: Iterable[tuple[Values, Values]], rows: int, rng: np.random.Generator
) -> Paired:
    """Collect paired statistics.

    Args:
        batches: the values of ``request.old_names`` and ``request.new_names``, batch by batch.
        rows: at most this many rows of each batch, chosen at random.
    """
    fit, site = request.fit, request.site
    form = fit.form if fit is not None else None
    count = form.blocks if form is not None else site.contract.blocks
    wide = form is not None and form.features > MOST_FEATURES
    moments = [_Splitter() for _ in range(count)]
    stored: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in range(count)]
    mixing = [_Splitter() for _ in range(count)]
    seen = 0
    trusted = True
    for number, (old, new) in enumerate(batches):
        if fit is not None and form is not None:
            target = fit.target(old, new)
            chosen = choose(form.count(target), rows, rng)
            features, targets = (
                form.rows(new[site.data.tensor], target.shape, chosen),
                form.targets(target, chosen),
            )
            sample = seen + chosen // max(form.count(target) // target.shape[0], 1)
            if number == 0 and fit.other is None:
                trusted = _confirmed(site.data.tensor, fit, old, chosen, targets)
            for block in range(count):
                if wide:
                    stored[block].append((features[block], targets[block]))
                else:
                    moments[block].add(features[block], targets[block], sample)
        if site.data.size <= MOST_FEATURES:
            sample, pairs = _positions(request, old, new, rows, rng, count)
            for splitter, (now, before) in zip(mixing, pairs, strict=True):
                splitter.add(now, before, seen + sample)
        seen += len(new[site.data.tensor])
    means = tuple(m.split() if site.data.size <= MOST_FEATURES else None for m in mixing)
    if form is None:
        return Paired((), means, None)
    blocks = tuple(_rows(s) for s in stored) if wide else tuple(m.split() for m in moments)
    return Paired(blocks, means, fit if trusted else None)


def choose(count: int, most: int, rng: np.random.Generator) -> np.ndarray:
    """At most ``most`` of ``count`` indices, ascending."""
    return np.arange(count) if count <= most else np.sort(rng.choice(count, most, replace=False))


def _positions(request: Request, old: Values, new: Values, rows: int, rng, count: int):
    """The sample of every row, int64 [n], and per block (new, old) values, float32 [n, size / blocks]."""
    site = request.site
    x, before = (np.moveaxis(v[site.data.tensor], site.data.axis, -1) for v in (new, old))
    index = np.unravel_index(choose(x.size // x.shape[-1], rows, rng), x.shape[:-1])
    split = [np.split(v[index].astype(np.float32, copy=False), count, axis=1) for v in (x, before)]
    return index[0], list(zip(*split, strict=True))


def _confirmed(data: str, fit: Fit, old: Values, chosen: np.ndarray, targets: np.ndarray) -> bool:
    features = fit.form.rows(old[data], old[fit.output].shape, chosen)
    bias = fit.bias.reshape(fit.form.blocks, 1, fit.form.outputs)
    difference = features @ fit.form.matrix().transpose(0, 2, 1) + bias - targets
    return bool(np.linalg.norm(difference) <= _FORM_TOLERANCE * max(float(np.linalg.norm(targets)), 1e-6))


def _rows(stored: list[tuple[np.ndarray, np.ndarray]]) -> Rows:
    features = np.concatenate([f for f, _ in stored])[:_MOST_ROWS]
    targets = np.concatenate([t for _, t in stored])[:_MOST_ROWS]
    means = [v.mean(axis=0, dtype=np.float64) for v in (features, targets)]
    return Rows(
        features - means[0].astype(np.float32), targets - means[1].astype(np.float32), means[0], means[1]
    )


def pool(splits: Sequence[Split]) -> Split:
    """One regression over the rows of several sites; means are those of the first."""
    held = [s.held_out for s in splits]
    return Split(
        pooled([s.fit for s in splits]),
        None if any(h is None for h in held) else pooled([h for h in held if h is not None]),
        pooled([s.all for s in splits]),
    )

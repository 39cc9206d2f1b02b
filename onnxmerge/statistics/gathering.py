"""One pass of the data for one site: many batches at a time, each piece by piece, summed in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import ceil, prod

import numpy as np

from onnxmerge.runtime.threads import in_order
from onnxmerge.statistics.moments import Accumulator, Products, first_means, merged, products
from onnxmerge.statistics.paired import Fit, Paired, PositionMoments, Request, Rows, SplitMoments
from onnxmerge.statistics.pieces import Assembled, Picked, Piece, RowSample

# About how many rows are kept where there are more features than a covariance is worth.
_MOST_ROWS = 2048
# Where the targets differ by more than this share from what the regression gives, the operator computes
# something else, and is not refitted.
_FORM_TOLERANCE = 0.02
# How many rows that is tested on.
_ROWS_TO_CONFIRM = 512


class _SplitAccumulator:
    """Sums products of rows in two parts by their sample: every fourth sample is held out."""

    def __init__(self) -> None:
        self._parts = Accumulator(), Accumulator()
        self._shift: tuple[np.ndarray, np.ndarray] | None = None

    def products(
        self, features: np.ndarray, targets: np.ndarray, cut: int, weight: float
    ) -> tuple[Products | None, ...]:
        """Of a batch whose rows from ``cut`` on are held out; the first batch comes before all others."""
        if self._shift is None:
            self._shift = first_means(features, targets)
        parts = slice(cut), slice(cut, None)
        return tuple(
            products(features[p], targets[p], self._shift, weight) if len(features[p]) else None
            for p in parts
        )

    def add(self, parts: Sequence[Products | None]) -> None:
        for accumulator, found in zip(self._parts, parts, strict=True):
            if found is not None:
                accumulator.add(found)

    def moments(self) -> SplitMoments:
        fit, held = self._parts
        if not held.rows or not fit.rows:
            only = (fit if fit.rows else held).moments()
            return SplitMoments(only, None, only)
        parts = fit.moments(), held.moments()
        return SplitMoments(*parts, merged(parts))


@dataclass(frozen=True, eq=False)
class _Found:
    """What one batch gives, per block.

    Attributes:
        products: of features and targets, fitted and held out.
        rows: features, targets and their weight, where these are kept instead.
        positions: products of data positions that stay and of those that go.
    """

    products: list[tuple[Products | None, ...]]
    rows: list[tuple[np.ndarray, np.ndarray, float]]
    positions: list[tuple[Products | None, ...]]


def gather(
    request: Request,
    pieces: Callable[[int], Iterable[Piece]],
    batches: int,
    sample: RowSample,
    kept: np.ndarray,
    open_channels: np.ndarray,
    workers: int = 1,
) -> Paired:
    """Collect the paired statistics of one site.

    Args:
        request: the site, and what it is refitted to.
        pieces: those of a batch in their order, with the values of ``request.old_names`` and of
            ``request.new_names``, for any thread.
        batches: how many there are.
        sample: the rows that are looked at.
        kept: bool [channels], those that may stay.
        open_channels: bool [channels], those among them that may go.
        workers: how many batches are worked on at a time.
    """
    collector = _Collector(request, sample, kept, ~kept | open_channels)
    for found in in_order(lambda batch: collector.look(batch, pieces(batch)), range(batches), workers):
        collector.add(found)
    return collector.paired()


class _Collector:
    """Paired statistics of one site in the making; ``look`` is for any thread, ``add`` for one."""

    def __init__(self, request: Request, sample: RowSample, stays: np.ndarray, goes: np.ndarray):
        self._request, self._sample = request, sample
        fit, site = request.fit, request.site
        self._form = form = fit.form if fit is not None else None
        count = form.blocks if form is not None else site.contract.blocks
        channel = site.channel[site.columns]
        self._staying, self._going = stays[channel], goes[channel]
        self._places = [
            (np.flatnonzero(s), np.flatnonzero(g))
            for s, g in zip(np.split(self._staying, count), np.split(self._going, count), strict=True)
        ]
        self._present = np.flatnonzero(stays[form.channel]) if form is not None else np.zeros(0, np.int64)
        shapes = site.channels.view.shapes
        self._each = (
            prod(shapes[site.node.y[0].name]) // (form.blocks * form.outputs) if form is not None else 0
        )
        self._wide = not sample.supports_covariance(len(self._present), self._each)
        if self._wide:
            self._sample = replace(sample, per_batch=min(sample.per_batch, ceil(_MOST_ROWS / sample.batches)))
        self._each_position = prod(shapes[site.data.tensor]) // site.data.size
        # What goes is predicted from what may stay; where nothing stays, the bias carries its mean.
        some = bool(self._going.any() and self._staying.any())
        self._predicts = some and sample.supports_covariance(site.data.size, self._each_position)
        # Of one tap, features are data positions: rows and products serve both regressions, the positions
        # that may go as further targets.
        self._joint = self._predicts and form is not None and form.taps == 1 and not self._wide
        self._of_features = [_SplitAccumulator() for _ in range(count)]
        self._of_positions = [_SplitAccumulator() for _ in range(count)]
        self._stored: list[list[tuple[np.ndarray, np.ndarray, float]]] = [[] for _ in range(count)]
        self._trusted = True

    def look(self, batch: int, pieces: Iterable[Piece]) -> _Found:
        """The work on one batch; batch 0 comes before all others."""
        rows, cut, position_cut = self._assembled(batch, pieces)
        found = _Found([], [], [])
        if self._form is not None:
            self._regression(rows, cut, found)
        if "now" in rows:
            now, before = rows.take("now")[0], rows.take("before")[0]
            width = now.shape[-1] // len(self._places)
            for b, (stay, go) in enumerate(self._places):
                x, t = now[:, b * width + stay], before[:, b * width + go]
                weight = self._sample.weight(t)
                found.positions.append(self._of_positions[b].products(x, t, position_cut, weight))
        return found

    def _assembled(self, batch: int, pieces: Iterable[Piece]) -> tuple[Assembled, int, int]:
        """The rows of a batch; and how many of the regression's and of the positions' are not held out."""
        fit, form, data = self._request.fit, self._form, self._request.site.data
        rows, cut, position_cut = Assembled(), 0, 0
        picked: Picked | None = None
        positions: Picked | None = None
        for piece in pieces:
            old, new = piece.old, piece.new
            if fit is not None and form is not None:
                y = old[fit.target_name].shape
                if picked is None:
                    picked, cut = Picked.of(self._sample, y, form.output.axis, self._each, batch, piece)
                here, chosen = picked.inside(piece)
                rows.put("features", here, form.rows(new[data.tensor], y, chosen, self._staying))
                rows.put("targets", here, fit.targets(old, new, chosen))
                if self._joint:
                    rows.put("going", here, form.rows(old[data.tensor], y, chosen, self._going))
                if batch == 0 and fit.other is None:
                    some, few = picked.every(_step(len(picked.chosen))).inside(piece)
                    rows.put("untouched", some, form.rows(old[data.tensor], old[fit.output].shape, few))
            if self._predicts and not self._joint:
                now, before = (np.moveaxis(v[data.tensor], data.axis, -1) for v in (new, old))
                if positions is None:
                    positions, position_cut = Picked.of(
                        self._sample, now.shape, -1, self._each_position, batch, piece
                    )
                here, chosen = positions.inside(piece)
                index = np.unravel_index(chosen, now.shape[:-1])
                rows.put("now", here, now[index].astype(np.float32, copy=False)[None])
                rows.put("before", here, before[index].astype(np.float32, copy=False)[None])
        return rows, cut, position_cut

    def _regression(self, rows: Assembled, cut: int, found: _Found) -> None:
        features, targets = rows.take("features"), rows.take("targets")
        if "untouched" in rows and self._request.fit is not None:
            some = targets[:, :: _step(targets.shape[1])]
            self._trusted = _confirmed(self._request.fit, rows.take("untouched"), some)
        weight = self._sample.weight(targets)
        if self._wide:
            found.rows.extend((f, t, weight) for f, t in zip(features, targets, strict=True))
            return
        if self._joint:
            targets = np.concatenate([targets, rows.take("going")], axis=2)
        for accumulator, f, t in zip(self._of_features, features, targets, strict=True):
            found.products.append(accumulator.products(f, t, cut, weight))

    def add(self, found: _Found) -> None:
        """Take in what a batch gave, in the order of the batches."""
        for stored, rows in zip(self._stored, found.rows, strict=False):
            stored.append(rows)
        for accumulator, parts in zip(self._of_features, found.products, strict=False):
            accumulator.add(parts)
        for accumulator, parts in zip(self._of_positions, found.positions, strict=False):
            accumulator.add(parts)

    def paired(self) -> Paired:
        """What all batches gave together."""
        fit = self._request.fit if self._trusted else None
        blocks: Sequence[SplitMoments | Rows] = ()
        if self._wide:
            blocks = [_rows(stored) for stored in self._stored]
        elif self._form is not None:
            blocks = [accumulator.moments() for accumulator in self._of_features]
        positions: Sequence[SplitMoments] = ()
        if self._joint and self._form is not None:
            cut = self._form.outputs
            positions = [b.of_targets(slice(cut, None)) for b in blocks if isinstance(b, SplitMoments)]
            blocks = [b.of_targets(slice(cut)) for b in blocks if isinstance(b, SplitMoments)]
        elif self._predicts:
            positions = [accumulator.moments() for accumulator in self._of_positions]
        found = [PositionMoments(m, *places) for m, places in zip(positions, self._places, strict=False)]
        return Paired(self._present, tuple(blocks), tuple(found), fit)


def _step(rows: int) -> int:
    """Of so many rows one is enough to confirm a regression on."""
    return max(rows // _ROWS_TO_CONFIRM, 1)


def _confirmed(fit: Fit, features: np.ndarray, targets: np.ndarray) -> bool:
    bias = fit.bias.reshape(fit.form.blocks, 1, fit.form.outputs)
    difference = features @ fit.form.matrix().transpose(0, 2, 1) + bias - targets
    size = max(float(np.linalg.norm(targets)), 1e-6)
    return bool(np.linalg.norm(difference) <= _FORM_TOLERANCE * size)


def _rows(stored: list[tuple[np.ndarray, np.ndarray, float]]) -> Rows:
    features, targets = (np.concatenate([found[part] for found in stored]) for part in (0, 1))
    weight = np.repeat([w for _, _, w in stored], [len(f) for f, _, _ in stored])
    weight = weight if weight.any() else np.ones(len(features))
    means = [np.average(v, axis=0, weights=weight) for v in (features, targets)]
    factor = np.sqrt(weight / weight.mean()).astype(np.float32)[:, None]
    centred = [(v - m.astype(np.float32)) * factor for v, m in zip((features, targets), means, strict=True)]
    return Rows(*centred, *means)

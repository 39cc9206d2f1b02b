"""One pass of the data for one site: many batches at a time, each piece by piece, summed in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import ceil, prod

import numpy as np

from onnxmerge.runtime.threads import in_order
from onnxmerge.statistics.emphasis import Emphasis, drawn
from onnxmerge.statistics.moments import (
    Accumulator,
    Products,
    equalising_weight,
    first_means,
    merged,
    products,
)
from onnxmerge.statistics.paired import Fit, Paired, PositionMoments, Request, Rows, SplitMoments

Values = dict[str, np.ndarray]

# With more features than this, rows are kept instead of a covariance.
MOST_FEATURES = 5120
# With more features than this, rows are kept, too, where there are less than half as many of them: a
# covariance would take hundreds of MB and minutes, and hold nothing more.
_CHEAP_FEATURES = 1536
# About how many rows are kept then.
_MOST_ROWS = 2048
# Where the targets differ by more than this share from what the regression gives, the operator computes
# something else, and is not refitted.
_FORM_TOLERANCE = 0.02
# How many rows that is tested on.
_ROWS_TO_CONFIRM = 512


@dataclass(frozen=True, eq=False)
class RowSample:
    """Which rows of every batch are looked at.

    Attributes:
        per_batch: at most so many of each batch, chosen at random.
        batches: how many there are.
        samples: how often the shapes of the analysis fit into the data.
        seed: of the choice, which does not depend on the order in which batches are worked on.
        equal: whether every batch counts alike, whatever the size of its values.
        emphasis: what the places of the samples count; None: all alike.
    """

    per_batch: int
    batches: int
    samples: int
    seed: tuple[int, ...]
    equal: bool = False
    emphasis: Emphasis | None = None

    def weight(self, targets: np.ndarray) -> float:
        """What each row of a batch with these targets, [..., n, O], weighs."""
        return equalising_weight(targets) if self.equal else 1.0

    def supports_covariance(self, features: int, each: int) -> bool:
        """Whether a covariance of so many features is worth its size, with ``each`` rows per sample."""
        rows = min(self.samples * each, self.batches * self.per_batch)
        return features <= _CHEAP_FEATURES or features <= min(MOST_FEATURES, 2 * rows)

    def of(self, samples: int, grid: tuple[int, ...], batch: int) -> tuple[np.ndarray, int]:
        """The rows of a batch that are looked at.

        Args:
            samples: of the batch; where it is one, every fourth batch is held out.
            grid: the rows of a sample, as they lie.
            batch: its number.

        Returns:
            The chosen rows, int64, in their order but for those of every fourth sample, which are held out
            and come last; and how many are not held out.
        """
        each = prod(grid)
        counts = None if self.emphasis is None else self.emphasis.rows(batch, samples, grid)
        chosen = drawn(counts, samples * each, self.per_batch, np.random.default_rng((*self.seed, batch)))
        held = (chosen // max(each, 1) + batch) % 4 == 3
        return np.concatenate([chosen[~held], chosen[held]]), int(np.count_nonzero(~held))


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
class Piece:
    """What both models compute of some samples of a batch: a whole one would have hundreds of MB.

    Attributes:
        old, new: values of the untouched model and of the new one, by name.
        begin, end: which samples of the batch.
        of: how many the batch has.
    """

    old: Values
    new: Values
    begin: int
    end: int
    of: int


class _Picked:
    """Rows of a batch, and where they lie in its pieces."""

    def __init__(self, chosen: np.ndarray, each: int | None):
        """Row numbers within the batch, int64; the rows of a sample, or None: every piece has the same."""
        self.chosen, self._each = chosen, each

    @staticmethod
    def of(
        sample: RowSample, shape: tuple[int, ...], axis: int, one: int, batch: int, piece: Piece
    ) -> tuple[_Picked, int]:
        """What is looked at of a tensor, and how many rows are not held out.

        Args:
            shape: of the tensor in a piece.
            axis: the one that rows lie along.
            one: the rows of one sample.
        """
        samples, grid = _grid(shape, axis)
        here, rows = piece.end - piece.begin, samples * prod(grid)
        each: int | None = one
        if here < piece.of and rows == one:  # it does not depend on the samples
            each = None
        elif here < piece.of:
            samples, grid = piece.of, grid if samples == here else (one,)
        else:
            each = None
        chosen, cut = sample.of(samples, grid, batch)
        return _Picked(chosen, each), cut

    def every(self, step: int) -> _Picked:
        """Some of them, evenly spread."""
        return _Picked(self.chosen[::step], self._each)

    def inside(self, piece: Piece) -> tuple[np.ndarray, np.ndarray]:
        """Which of them lie in a piece, bool; and their numbers there, int64."""
        if self._each is None:
            here = np.full(len(self.chosen), piece.begin == 0)
            return here, self.chosen[here]
        begin, end = piece.begin * self._each, piece.end * self._each
        here = (begin <= self.chosen) & (self.chosen < end)
        return here, self.chosen[here] - begin


class _Assembled(dict[str, np.ndarray]):
    """Rows of a batch, float32 [blocks, rows, n] by what they are of, put together piece by piece."""

    def put(self, name: str, here: np.ndarray, found: np.ndarray) -> None:
        """Enter those of a piece, which are at these places (bool)."""
        if here.all():
            self[name] = found
            return
        if name not in self:
            # Laid out as they come: how BLAS rounds depends on it.
            self[name] = np.empty_like(found, shape=(found.shape[0], len(here), found.shape[2]))
        self[name][:, here] = found


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
            now, before = rows["now"][0], rows["before"][0]
            width = now.shape[-1] // len(self._places)
            for b, (stay, go) in enumerate(self._places):
                x, t = now[:, b * width + stay], before[:, b * width + go]
                weight = self._sample.weight(t)
                found.positions.append(self._of_positions[b].products(x, t, position_cut, weight))
        return found

    def _assembled(self, batch: int, pieces: Iterable[Piece]) -> tuple[_Assembled, int, int]:
        """The rows of a batch; and how many of the regression's and of the positions' are not held out."""
        fit, form, data = self._request.fit, self._form, self._request.site.data
        rows, cut, position_cut = _Assembled(), 0, 0
        picked: _Picked | None = None
        positions: _Picked | None = None
        for piece in pieces:
            old, new = piece.old, piece.new
            if fit is not None and form is not None:
                y = old[fit.target_name].shape
                if picked is None:
                    picked, cut = _Picked.of(self._sample, y, form.output.axis, self._each, batch, piece)
                here, chosen = picked.inside(piece)
                rows.put("features", here, form.rows(new[data.tensor], y, chosen, self._staying))
                rows.put("targets", here, fit.targets(old, new, chosen))
                if self._joint:
                    rows.put("going", here, form.rows(old[data.tensor], y, chosen, self._going))
                if batch == 0 and fit.other is None:
                    some, few = picked.every(_step(picked)).inside(piece)
                    rows.put("untouched", some, form.rows(old[data.tensor], old[fit.output].shape, few))
            if self._predicts and not self._joint:
                now, before = (np.moveaxis(v[data.tensor], data.axis, -1) for v in (new, old))
                if positions is None:
                    positions, position_cut = _Picked.of(
                        self._sample, now.shape, -1, self._each_position, batch, piece
                    )
                here, chosen = positions.inside(piece)
                index = np.unravel_index(chosen, now.shape[:-1])
                rows.put("now", here, now[index].astype(np.float32, copy=False)[None])
                rows.put("before", here, before[index].astype(np.float32, copy=False)[None])
        if picked is not None and "untouched" in rows and fit is not None:
            self._trusted = _confirmed(fit, rows["untouched"], rows["targets"][:, :: _step(picked)])
        return rows, cut, position_cut

    def _regression(self, rows: _Assembled, cut: int, found: _Found) -> None:
        features, targets = rows["features"], rows["targets"]
        weight = self._sample.weight(targets)
        if self._wide:
            found.rows.extend((f, t, weight) for f, t in zip(features, targets, strict=True))
            return
        if self._joint:
            targets = np.concatenate([targets, rows["going"]], axis=2)
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


def _grid(shape: tuple[int, ...], axis: int) -> tuple[int, tuple[int, ...]]:
    """The samples of a tensor, and the positions of one of them beside those of an axis."""
    if len(shape) == 1:
        return 1, ()
    rest = [size for i, size in enumerate(shape) if i != axis % len(shape)]
    return rest[0], tuple(rest[1:])


def _step(picked: _Picked) -> int:
    """Of so many rows one is enough to confirm a regression on."""
    return max(len(picked.chosen) // _ROWS_TO_CONFIRM, 1)


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

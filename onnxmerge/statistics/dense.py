"""Dense statistics: what one pass of the data through the untouched model tells about every fold site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, prod

import numpy as np
import onnx

from onnxmerge import limits
from onnxmerge.channels import Channels
from onnxmerge.channels.residual import feeds
from onnxmerge.channels.sites import FoldSite
from onnxmerge.data.dataset import Dataset, Feed
from onnxmerge.graph import external_weights
from onnxmerge.progress import Progress
from onnxmerge.runtime import Runtime, Session
from onnxmerge.runtime.model_bytes import opened, patch
from onnxmerge.runtime.threads import in_order, one_blas_thread, side_by_side
from onnxmerge.statistics.moments import Accumulator, Products, first_means, products
from onnxmerge.statistics.regression import LinearForm, linear_form

Key = tuple[str, int]

# Receptive fields with more features than this are described channel by channel instead.
MOST_FEATURES = 1536
# Covariances of more positions than this do not fit.
_MOST_POSITIONS = 4096


@dataclass(frozen=True, eq=False)
class Features:
    """The covariance of what a site reads.

    Attributes:
        form: the regression, or None where positions of the data axis stand for themselves.
        grams: one per block, float64 [F, F]; F = ``form.features``, or data positions without a form.
            Empty where there are too many positions.
        rows: how many rows they are from.
    """

    form: LinearForm | None
    grams: tuple[np.ndarray, ...]
    rows: int


@dataclass(frozen=True)
class Statistics:
    """Statistics of the untouched model over a calibration set.

    Attributes:
        means: mean of every position of an axis of a tensor, float64 [size], by (tensor, axis).
        variances: variance of every position, likewise.
        features: by the index of a site's node.
        samples: how many samples were seen.
    """

    means: Mapping[Key, np.ndarray]
    variances: Mapping[Key, np.ndarray]
    features: Mapping[int, Features]
    samples: int

    def mean(self, site: FoldSite) -> np.ndarray:
        """The mean of every position of the site's data, over samples and all other axes, float64 [size]."""
        return self.means[site.data.tensor, site.data.axis]

    def variance(self, tensor: str, axis: int) -> np.ndarray:
        """The variance of every position of an axis, over samples and all other axes, float64 [size]."""
        return self.variances[tensor, axis]


@one_blas_thread
def collect(
    channels: Channels,
    sites: Sequence[FoldSite],
    model: onnx.ModelProto,
    dataset: Dataset,
    runtime: Runtime,
    progress: Progress | None = None,
    *,
    patches: int = 20000,
    seed: int = 0,
) -> Statistics:
    """Run the data through the model once and gather what the sites read and feed.

    Args:
        model: the canonical model that ``channels`` belongs to.
        patches: rows per site for covariances, spread over the samples.

    Raises:
        ModelError: the model does not run on the data.
    """
    inputs = {(s.data.tensor, s.data.axis) for s in sites}
    totals = {(f.total, f.axis) for s in sites if s.output is not None for f in [feeds(s)]}
    forms = {s.node.index: _form(s) for s in sites if (channels.group_of[s.channel] >= 0).any()}
    names = sorted({name for name, _ in inputs | totals} | {s.node.y[0].name for s in sites})
    per_sample = sum(prod(channels.view.shapes[name]) for name in names) * 4
    feed_list = list(dataset.feeds(int(min(max(limits.LIMITS.observed_batch // max(per_sample, 1), 1), 64))))
    watched = {
        s.node.index: s
        for s in sites
        if s.node.index in forms
        and (forms[s.node.index] is not None or _tellable(channels, s, patches, len(dataset)))
    }
    at_work = 2 * per_sample * ceil(len(dataset) / (dataset.batch or 1) / len(feed_list))
    at_work += 4 * sum(_size(s, forms[i]) ** 2 for i, s in watched.items())
    workers = side_by_side(min(runtime.threads, len(feed_list)), at_work)
    session = _with_outputs(model, names, replace(runtime, threads=runtime.threads // workers))
    share = ceil(patches / len(feed_list))
    sums = {key: _Sums() for key in inputs | totals}
    grams = {i: _Grams(s, forms[i]) for i, s in watched.items()}

    def look(item: tuple[int, Feed]) -> tuple[list[_Sums], list[list[Products]]]:
        number, feed = item
        values = session.run(feed, [n for n in names if n not in feed]) | dict(feed)
        rng = np.random.default_rng((seed, number))
        parts = [_Sums.of(np.asarray(values[name]), axis, equal=dataset.mixed) for name, axis in sums]
        weight = dict(zip(sums, (part.weight for part in parts), strict=True))
        return parts, [gram.look(values, share, rng, weight[gram.fed]) for gram in grams.values()]

    for done, (parts, found) in enumerate(in_order(look, enumerate(feed_list), workers)):
        if progress is not None:
            progress("statistics", done, len(feed_list))
        for total, part in zip(sums.values(), parts, strict=True):
            total.add(part)
        for gram, blocks in zip(grams.values(), found, strict=True):
            gram.add(blocks)
    external_weights.release()
    return Statistics(
        {key: s.mean for key, s in sums.items()},
        {key: s.variance for key, s in sums.items()},
        {i: grams[i].features() if i in grams else Features(form, (), 0) for i, form in forms.items()},
        len(dataset),
    )


def _form(site: FoldSite) -> LinearForm | None:
    form = linear_form(site)
    return form if form is not None and form.features <= MOST_FEATURES else None


def _tellable(channels: Channels, site: FoldSite, patches: int, samples: int) -> bool:
    """Whether there is room for a covariance of the site's positions; a big one takes rows to be worth it."""
    size = site.data.size
    rows = min(samples * prod(channels.view.shapes[site.data.tensor]) // size, patches)
    return size <= MOST_FEATURES or (size <= _MOST_POSITIONS and 2 * rows >= size)


def _size(site: FoldSite, form: LinearForm | None) -> int:
    return site.data.size if form is None else form.features


class _Grams:
    """The covariances of what one site reads, in the making; ``look`` is for any thread, ``add`` for one.

    ``fed`` is the tensor, and its axis, that errors of the site are a share of.
    """

    def __init__(self, site: FoldSite, form: LinearForm | None):
        self._site, self._form = site, form
        self.fed = (site.data.tensor, site.data.axis)
        if site.output is not None:
            self.fed = (feeds(site).total, feeds(site).axis)
        self._blocks = [Accumulator() for _ in range(form.blocks if form is not None else 1)]
        self._shifts: list[tuple[np.ndarray, np.ndarray]] = []

    def look(
        self, values: Mapping[str, np.ndarray], share: int, rng: np.random.Generator, weight: float
    ) -> list[Products]:
        """The products of some rows of a batch; the first batch comes before all others."""
        site, form = self._site, self._form
        x = values[site.data.tensor]
        if form is None:
            last = np.moveaxis(x, site.data.axis, -1)
            rows = last.reshape(-1, last.shape[-1])
            features = rows[_choose(len(rows), share, rng)].astype(np.float32, copy=False)[None]
        else:
            y = values[site.node.y[0].name]
            features = form.rows(x, y.shape, _choose(form.count(y), share, rng))
        nothing = np.zeros((features.shape[1], 0), np.float32)
        if not self._shifts:
            self._shifts = [first_means(block, nothing) for block in features]
        pairs = zip(features, self._shifts, strict=True)
        return [products(block, nothing, shift, weight) for block, shift in pairs]

    def add(self, found: Sequence[Products]) -> None:
        for accumulator, products_ in zip(self._blocks, found, strict=True):
            accumulator.add(products_)

    def features(self) -> Features:
        rows = self._blocks[0].rows
        return Features(self._form, tuple(a.moments().gram for a in self._blocks) if rows else (), rows)


def _choose(count: int, most: int, rng: np.random.Generator) -> np.ndarray:
    return np.arange(count) if count <= most else np.sort(rng.choice(count, most, replace=False))


@dataclass
class _Sums:
    """Count, sum and sum of squares per position of one axis; of a batch also its weight."""

    count: float = 0
    sum: np.ndarray | float = 0.0
    squares: np.ndarray | float = 0.0
    weight: float = 1.0

    @classmethod
    def of(cls, values: np.ndarray, axis: int, *, equal: bool = False) -> _Sums:
        """The sums over one batch; with ``equal`` all batches weigh alike, however large their values."""
        axis %= values.ndim
        size = values.shape[axis]
        x = values if values.dtype == np.float32 else values.astype(np.float32)
        x = x.reshape(prod(values.shape[:axis]), size, prod(values.shape[axis + 1 :]))
        # Single precision along one row at a time, double between rows.
        sums, squares = (x, np.square(x)) if x.shape[2] == 1 else (x.sum(2), np.einsum("oci,oci->oc", x, x))
        sums, squares = (v.reshape(len(x), size).sum(0, dtype=np.float64) for v in (sums, squares))
        found = cls(values.size // max(size, 1), sums, squares)
        if equal:
            spread = float(found.variance.sum())
            found.weight = 1.0 / spread if spread > 1e-30 else 0.0
        return found

    def add(self, other: _Sums) -> None:
        self.count += other.weight * other.count
        self.sum = self.sum + other.weight * other.sum
        self.squares = self.squares + other.weight * other.squares

    @property
    def mean(self) -> np.ndarray:
        return np.asarray(self.sum) / (self.count or 1)

    @property
    def variance(self) -> np.ndarray:
        return np.maximum(np.asarray(self.squares) / (self.count or 1) - self.mean**2, 0)


def _with_outputs(model: onnx.ModelProto, names: Sequence[str], runtime: Runtime) -> Session:
    proto, source = opened(model)
    present = {value.name for value in (*proto.graph.output, *proto.graph.input)}
    return runtime.session(source + patch(proto, [], [name for name in names if name not in present]))

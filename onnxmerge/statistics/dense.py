"""Dense statistics: means, variances and covariances at the fold sites of the untouched model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil, prod

import numpy as np
import onnx

from onnxmerge import limits
from onnxmerge.channels import Channels
from onnxmerge.channels.residual import destination
from onnxmerge.channels.sites import FoldSite
from onnxmerge.data.columns import read
from onnxmerge.data.dataset import Dataset
from onnxmerge.graph import external_weights
from onnxmerge.progress import Progress
from onnxmerge.runtime import Runtime, Session
from onnxmerge.runtime.model_bytes import opened, patch
from onnxmerge.runtime.threads import in_order, one_blas_thread, side_by_side
from onnxmerge.statistics.moments import Accumulator, AxisSums, Products, Symmetric, first_means, products
from onnxmerge.statistics.regression import LinearForm, linear_form

Key = tuple[str, int]

# Receptive fields with more features than this are described channel by channel instead.
MOST_FEATURES = 1536
# Covariances of more positions than this do not fit into memory.
MOST_POSITIONS = 4096


@dataclass(frozen=True, eq=False)
class Features:
    """The covariance of what a site reads.

    Attributes:
        form: the regression, or None where positions of the data axis stand for themselves.
        grams: one per block, float64 [F, F], or float32 where all together would be large; F =
            ``form.features``, or data positions without a form. Empty where there are too many positions. Of
            all sites together they may be as large as the model.
        rows: how many rows they are from.
    """

    form: LinearForm | None
    grams: tuple[Symmetric, ...]
    rows: int


@dataclass(frozen=True, eq=False)
class Statistics:
    """Statistics of the untouched model over a calibration set.

    Attributes:
        sites: all fold sites of the model.
        sensitivity: of the output to errors in every channel, float64 [channels.count], see
            ``channels.sensitivity``.
        means: mean of every position of an axis of a tensor, float64 [size], by (tensor, axis).
        variances: variance of every position, likewise.
        features: by the index of a site's node.
        samples: how many samples were seen.
    """

    sites: Sequence[FoldSite]
    sensitivity: np.ndarray
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
    sensitivity: np.ndarray,
    model: onnx.ModelProto,
    dataset: Dataset,
    runtime: Runtime,
    progress: Progress | None = None,
    *,
    patches: int = 20_000,
    seed: int = 0,
) -> Statistics:
    """Run the data through the model once and gather what the sites read and feed.

    Args:
        sites: all fold sites of the model.
        sensitivity: of the output to errors in every channel, float64 [channels.count].
        model: the canonical model that ``channels`` belongs to.
        patches: rows per site for covariances, spread over the samples.

    Raises:
        ModelError: the model does not run on the data.
    """
    inputs = {(s.data.tensor, s.data.axis) for s in sites}
    totals = {(to.total, to.axis) for s in sites if s.output is not None for to in [destination(s)]}
    forms = {s.node.index: _form(s) for s in sites if (channels.group_of[s.channel] >= 0).any()}
    names = sorted({name for name, _ in inputs | totals} | {s.node.y[0].name for s in sites})
    per_sample = sum(prod(channels.view.shapes[name]) for name in names) * 4
    batches = dataset.batches(int(min(max(limits.LIMITS.observed_batch // max(per_sample, 1), 1), 64)))
    watched = {
        s.node.index: s
        for s in sites
        if s.node.index in forms
        and (forms[s.node.index] is not None or _worth_a_covariance(channels, s, patches, len(dataset)))
    }
    session = _with_outputs(model, names, runtime)
    share = ceil(patches / len(batches))
    sums = {key: AxisSums() for key in inputs | totals}
    single = sum(_bytes(s, forms[i]) for i, s in watched.items()) > limits.LIMITS.covariances
    grams = {i: _Grams(s, forms[i], single=single) for i, s in watched.items()}
    # Side by side are the sites of one batch, not batches: of each site the products take memory once.
    widest = max((_size(s, forms[i]) for i, s in watched.items()), default=0)
    workers = side_by_side(min(runtime.threads, len(grams)), 4 * widest * (widest + 2 * share))
    for done, feed in enumerate(map(read, batches)):
        if progress is not None:
            progress("statistics", done, len(batches))
        values = session.run(feed, [n for n in names if n not in feed], shrink=True) | feed
        external_weights.release()
        rng = np.random.default_rng((seed, done))
        weight = {}
        for key, total in sums.items():
            part = AxisSums.of(np.asarray(values[key[0]]), key[1], equal=dataset.mixed)
            weight[key] = part.weight
            total.add(part)
        looks = [
            partial(gram.look, values, gram.rows(values, share, rng), weight[gram.destination])
            for gram in grams.values()
        ]
        for gram, found in zip(grams.values(), in_order(_called, looks, workers), strict=True):
            gram.add(found)
        del feed, values, looks
    return Statistics(
        sites,
        sensitivity,
        {key: s.mean for key, s in sums.items()},
        {key: s.variance for key, s in sums.items()},
        {i: grams[i].features() if i in grams else Features(form, (), 0) for i, form in forms.items()},
        len(dataset),
    )


def _form(site: FoldSite) -> LinearForm | None:
    form = linear_form(site)
    return form if form is not None and form.features <= MOST_FEATURES else None


def _worth_a_covariance(channels: Channels, site: FoldSite, patches: int, samples: int) -> bool:
    """Whether a covariance of the site's positions fits; a big one also needs rows enough to be worth it."""
    size = site.data.size
    rows = min(samples * prod(channels.view.shapes[site.data.tensor]) // size, patches)
    return size <= MOST_FEATURES or (size <= MOST_POSITIONS and 2 * rows >= size)


def _size(site: FoldSite, form: LinearForm | None) -> int:
    return site.data.size if form is None else form.features


def _bytes(site: FoldSite, form: LinearForm | None) -> int:
    """Of one triangle of a site's covariances in double precision."""
    return 4 * (1 if form is None else form.blocks) * _size(site, form) ** 2


class _Grams:
    """The covariances of what one site reads, in the making; ``look`` is for any thread, ``add`` for one.

    ``destination`` is the tensor, and its axis, that errors of the site are a share of.
    """

    def __init__(self, site: FoldSite, form: LinearForm | None, *, single: bool):
        self._site, self._form = site, form
        self.destination = (site.data.tensor, site.data.axis)
        if site.output is not None:
            to = destination(site)
            self.destination = (to.total, to.axis)
        self._blocks = [Accumulator(single=single) for _ in range(form.blocks if form is not None else 1)]
        self._shifts: list[tuple[np.ndarray, np.ndarray]] = []

    def rows(self, values: Mapping[str, np.ndarray], most: int, rng: np.random.Generator) -> np.ndarray:
        """Which rows of a batch are looked at, int64."""
        site, form = self._site, self._form
        x = values[site.data.tensor]
        count = x.size // site.data.size if form is None else form.count(values[site.node.y[0].name])
        return _choose(count, most, rng)

    def look(self, values: Mapping[str, np.ndarray], chosen: np.ndarray, weight: float) -> list[Products]:
        """The products of these rows of a batch; the first batch comes before all others."""
        site, form = self._site, self._form
        x = values[site.data.tensor]
        if form is None:
            last = np.moveaxis(x, site.data.axis, -1)
            rows = last.reshape(-1, last.shape[-1])
            features = rows[chosen].astype(np.float32, copy=False)[None]
        else:
            features = form.rows(x, values[site.node.y[0].name].shape, chosen)
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
        return Features(self._form, tuple(a.covariance() for a in self._blocks) if rows else (), rows)


def _called(look: Callable[[], list[Products]]) -> list[Products]:
    return look()


def _choose(count: int, most: int, rng: np.random.Generator) -> np.ndarray:
    return np.arange(count) if count <= most else np.sort(rng.choice(count, most, replace=False))


def _with_outputs(model: onnx.ModelProto, names: Sequence[str], runtime: Runtime) -> Session:
    proto, source = opened(model)
    present = {value.name for value in (*proto.graph.output, *proto.graph.input)}
    return runtime.session(source + patch(proto, [], [name for name in names if name not in present]))

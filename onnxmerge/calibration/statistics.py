"""Dense statistics: what one pass of the data through the untouched model tells about every fold site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, prod

import numpy as np
import onnx

from onnxmerge.calibration.dataset import Dataset
from onnxmerge.calibration.forms import LinearForm, linear_form
from onnxmerge.calibration.moments import Accumulator
from onnxmerge.calibration.threads import ahead, one_blas_thread
from onnxmerge.channels import Channels
from onnxmerge.channels.residual import feeds
from onnxmerge.channels.sites import FoldSite
from onnxmerge.clock import Progress
from onnxmerge.graph import weights
from onnxmerge.runtime import Runtime, Session
from onnxmerge.runtime_bytes import opened, patch

Key = tuple[str, int]

# Receptive fields with more features than this are described channel by channel instead.
MOST_FEATURES = 1536
# Covariances of more positions than this do not fit.
_MOST_POSITIONS = 4096
# Activations of one batch that may be alive at once, in bytes.
_MOST_BYTES = 192 << 20


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
    session = _with_outputs(model, names, runtime)
    per_sample = sum(prod(channels.view.shapes[name]) for name in names) * 4
    feed_list = list(dataset.feeds(int(min(max(_MOST_BYTES // max(per_sample, 1), 1), 64))))
    share = ceil(patches / len(feed_list))
    rng = np.random.default_rng(seed)
    sums = {key: _Sums() for key in inputs | totals}
    grams = {
        s.node.index: [Accumulator() for _ in range(form.blocks if form is not None else 1)]
        for s in sites
        if s.node.index in forms
        if (form := forms[s.node.index]) is not None or s.data.size <= _MOST_POSITIONS
    }
    fetched = (session.run(feed, [n for n in names if n not in feed]) | dict(feed) for feed in feed_list)
    for done, values in enumerate(ahead(fetched)):
        if progress is not None:
            progress("statistics", done, len(feed_list))
        for (name, axis), sum_ in sums.items():
            sum_.add(np.asarray(values[name]), axis)
        for site in sites:
            if site.node.index in grams:
                x, y = values[site.data.tensor], values[site.node.y[0].name]
                _add(site, forms[site.node.index], grams[site.node.index], x, y, share, rng)
    weights.release()
    return Statistics(
        {key: s.mean for key, s in sums.items()},
        {key: s.variance for key, s in sums.items()},
        {i: _features(form, grams.get(i, ())) for i, form in forms.items()},
        len(dataset),
    )


def _features(form: LinearForm | None, found: Sequence[Accumulator]) -> Features:
    return Features(form, tuple(a.moments().gram for a in found), found[0].rows if found else 0)


def _form(site: FoldSite) -> LinearForm | None:
    form = linear_form(site)
    return form if form is not None and form.features <= MOST_FEATURES else None


def _add(site, form, accumulators, x, y, share, rng) -> None:
    """One batch's rows for one site."""
    if form is None:
        last = np.moveaxis(x, site.data.axis, -1)
        rows = last.reshape(-1, last.shape[-1])
        features = rows[_choose(len(rows), share, rng)][None]
    else:
        features = form.rows(x, y.shape, _choose(form.count(y), share, rng))
    for accumulator, block in zip(accumulators, features, strict=True):
        accumulator.add(np.ascontiguousarray(block, dtype=np.float32), np.zeros((len(block), 0), np.float32))


def _choose(count: int, most: int, rng: np.random.Generator) -> np.ndarray:
    return np.arange(count) if count <= most else np.sort(rng.choice(count, most, replace=False))


class _Sums:
    """Mean and variance per position of one axis."""

    def __init__(self) -> None:
        self._count, self._sum, self._squares = 0, 0.0, 0.0

    def add(self, values: np.ndarray, axis: int) -> None:
        others = tuple(i for i in range(values.ndim) if i != axis % values.ndim)
        wide = values if values.dtype.kind == "f" else values.astype(np.float32)
        self._count += values.size // max(values.shape[axis], 1)
        self._sum = self._sum + wide.sum(axis=others, dtype=np.float64)
        self._squares = self._squares + np.square(wide, dtype=np.float32).sum(axis=others, dtype=np.float64)

    @property
    def mean(self) -> np.ndarray:
        return np.asarray(self._sum / max(self._count, 1))

    @property
    def variance(self) -> np.ndarray:
        return np.maximum(np.asarray(self._squares) / max(self._count, 1) - self.mean**2, 0)


def _with_outputs(model: onnx.ModelProto, names: Sequence[str], runtime: Runtime) -> Session:
    proto, source = opened(model)
    present = {value.name for value in (*proto.graph.output, *proto.graph.input)}
    return runtime.session(source + patch(proto, [], [name for name in names if name not in present]))

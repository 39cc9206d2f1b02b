"""Dense statistics: what one pass of the data through the untouched model tells about every fold site."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnxmerge.calibration.dataset import Dataset
from onnxmerge.channels import Channels
from onnxmerge.channels.sites import FoldSite
from onnxmerge.runtime import Runtime
from onnxmerge.runtime_bytes import opened, patch

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Statistics:
    """Statistics of the untouched model over a calibration set.

    Attributes:
        means: per data tensor and axis of a fold site the mean of every position, float64 [size].
    """

    means: Mapping[tuple[str, int], np.ndarray]

    def mean(self, site: FoldSite) -> np.ndarray:
        """The mean of every position of the site's data, over samples and all other axes, float64 [size]."""
        return self.means[site.data.tensor, site.data.axis]


def collect(
    channels: Channels,
    sites: Sequence[FoldSite],
    model: onnx.ModelProto,
    dataset: Dataset,
    runtime: Runtime,
    progress: Progress | None = None,
) -> Statistics:
    """Run the data through the model once and gather what the sites' inputs look like.

    Args:
        model: the canonical model that ``channels`` belongs to.

    Raises:
        ModelError: the model does not run on the data.
    """
    wanted = sorted({(site.data.tensor, site.data.axis) for site in sites})
    names = sorted({name for name, _ in wanted})
    session = _with_outputs(model, names, runtime)
    sums = {key: 0.0 for key in wanted}
    counts = dict.fromkeys(wanted, 0)
    for done, feed in enumerate(dataset.feeds()):
        if progress is not None:
            progress("statistics", done, 0)
        values = session.run(feed, [name for name in names if name not in feed]) | dict(feed)
        for name, axis in wanted:
            value = np.moveaxis(np.asarray(values[name]), axis, -1)
            rows = value.reshape(-1, value.shape[-1])
            sums[name, axis] = sums[name, axis] + rows.sum(axis=0, dtype=np.float64)
            counts[name, axis] += len(rows)
    return Statistics({key: np.asarray(sums[key]) / max(counts[key], 1) for key in wanted})


def _with_outputs(model: onnx.ModelProto, names: Sequence[str], runtime: Runtime):
    proto, data, _ = opened(model)
    present = {value.name for value in (*proto.graph.output, *proto.graph.input)}
    return runtime.session(data + patch(proto, [], [name for name in names if name not in present]))

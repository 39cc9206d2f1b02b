"""Both models under execution: a pass of the data through them gives the paired statistics of one site."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from math import ceil, prod

import numpy as np
import onnx

from onnxmerge.channels import Channels
from onnxmerge.data.batching import batches_of
from onnxmerge.data.columns import part, read
from onnxmerge.data.dataset import Dataset
from onnxmerge.graph.external_weights import Scratch
from onnxmerge.runtime import Runtime
from onnxmerge.runtime.partial import Segments
from onnxmerge.runtime.threads import side_by_side
from onnxmerge.statistics.emphasis import CountPlaces, Emphasis
from onnxmerge.statistics.gathering import gather
from onnxmerge.statistics.paired import Paired, Request
from onnxmerge.statistics.pieces import Piece, RowSample

# While the two models run, they hold about so many tensors as large as the largest one.
_ALIVE = 4


class TwoModels:
    """The untouched model and the one that is rewritten on the way.

    Args:
        channels: the analysis of the untouched model.
        model: the canonical model that ``channels`` belongs to.
        dataset: what both models run on.
        requests: every site that will be asked for, in this order.
        patches: rows per site, spread over the samples.
        scratch: where activations wait in files; None: in memory.
        places: what the places of samples count, see ``Emphasis``; None: all count alike.

    Attributes:
        new: the model that is rewritten.
    """

    def __init__(
        self,
        channels: Channels,
        model: onnx.ModelProto,
        dataset: Dataset,
        runtime: Runtime,
        requests: Sequence[Request],
        patches: int,
        scratch: Scratch | None,
        places: CountPlaces | None = None,
    ):
        self._channels, self._runtime = channels, runtime
        self._model, batches, self._spans = batches_of(model, dataset, runtime, channels.view.shapes)
        self._pieces = [
            part(batch, *span) for batch, spans in zip(batches, self._spans, strict=True) for span in spans
        ]
        # Shapes of the analysis are those of one sample, or of one batch where the file fixes its size.
        self._samples = len(dataset) // (dataset.batch or 1)
        self._mixed = dataset.mixed
        self._rows = ceil(patches / len(batches))
        self._scratch = scratch
        self._emphasis = None if places is None else Emphasis.of(places(map(read, batches), dataset.batch))
        self._old = self._segments([name for r in requests for name in r.old_names])
        self.new = self._segments([name for r in requests for name in r.new_names])

    def _segments(self, names: Sequence[str]) -> Segments:
        return Segments(self._model, self._pieces, self._runtime, names, scratch=self._scratch)

    def gather(
        self, request: Request, kept: np.ndarray, open_channels: np.ndarray, seed: int, *, dense: bool = False
    ) -> Paired:
        """Paired statistics of a site, see ``gathering.gather``.

        Args:
            kept: bool [channels], those that may stay.
            open_channels: bool [channels], those among them that may go.
            seed: of the choice of rows.
            dense: for a site that is not reached yet: features come from the untouched model, too.
        """
        old, new = self._old, self.new
        if dense:
            old, new = self._segments(request.old_names), self._segments(request.new_names)
        batches = len(self._spans)
        workers = side_by_side(min(self._runtime.threads, batches), self._bytes_at_work(request))
        threads = self._runtime.threads // workers
        sample = RowSample(
            self._rows, batches, self._samples, (seed, request.site.node.index), self._mixed, self._emphasis
        )
        with old.read(request.old_names, threads) as before, new.read(request.new_names, threads) as after:

            def pieces(batch: int) -> Iterator[Piece]:
                spans, first = self._spans[batch], sum(map(len, self._spans[:batch]))
                for number, (begin, end) in enumerate(spans, first):
                    yield Piece(before(number), after(number), begin, end, spans[-1][1])

            return gather(request, pieces, batches, sample, kept, open_channels, workers)

    @cached_property
    def _largest(self) -> int:
        """The elements of the largest tensor that a node computes first, for one sample."""
        view = self._channels.view
        return max(prod(view.shapes[node.y[0].name]) for node in view if node.y[0] is not None)

    def _bytes_at_work(self, request: Request) -> int:
        """About how many bytes one batch takes: tensors that are read or alive, rows, and their products."""
        view = self._channels.view
        read = sum(prod(view.shapes[name]) for name in (*request.old_names, *request.new_names))
        tensors = (read + _ALIVE * self._largest) * ceil(self._samples / len(self._pieces))
        features, outputs = request.site.data.size, 0
        if request.fit is not None:
            features, outputs = request.fit.form.features, request.fit.form.outputs
        return 4 * (tensors + 3 * self._rows * (features + outputs) + features * (features + outputs))

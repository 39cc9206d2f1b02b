"""What the original answers to some samples: what it shows of how its outputs are to be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxmerge.data.dataset import Dataset
from onnxmerge.graph import external_weights
from onnxmerge.runtime import Session
from onnxmerge.validation.parity import rows_of

# So many samples tell how outputs are to be read (of large models fewer, one by one), and no more than so
# many bytes of them are held.
SAMPLES, OF_LARGE, BYTES = 32, 4, 1 << 28


@dataclass(frozen=True, eq=False)
class Answers:
    """Outputs of the first samples of a data set.

    Attributes:
        feeds: arrays by output, feed by feed; outputs that are no arrays of numbers are left out.
        rows: the samples of every feed.
        image: height and width of the pictures that were fed; None where none were.
        fed_numbers: whether no input is of whole numbers, as tokens are.
        made_up: whether the data are invented.
    """

    feeds: tuple[Mapping[str, np.ndarray], ...]
    rows: tuple[int, ...]
    image: tuple[int, int] | None
    fed_numbers: bool
    made_up: bool

    @staticmethod
    def of(session: Session, data: Dataset, names: Sequence[str]) -> Answers:
        """Run the first samples. Raises ModelError if the model does not run."""
        feeds, rows, held = [], [], 0
        image: tuple[int, int] | None = None
        numbers = True
        most, batch = (OF_LARGE, 1) if session.mapped else (SAMPLES, None)
        for feed in data.feeds(batch):
            image = image or picture(feed)
            numbers &= all(value.dtype.kind not in "iu" or value.ndim > 2 for value in feed.values())
            found = session.run(feed, names, shrink=True)
            kept = {n: v for n, v in found.items() if isinstance(v, np.ndarray) and v.dtype.kind in "fiub"}
            feeds.append(kept)
            rows.append(1 if data.ready is not None else rows_of(feed, data.shared))
            held += sum(value.nbytes for value in kept.values())
            if sum(rows) >= most or held >= BYTES:
                break
        if session.mapped:
            external_weights.release()
        return Answers(tuple(feeds), tuple(rows), image, numbers, data.made_up)

    @property
    def samples(self) -> int:
        return sum(self.rows)

    @property
    def names(self) -> list[str]:
        """The outputs that are there for every feed, of the same rank."""
        first = self.feeds[0]
        return [n for n in first if all(n in f and f[n].ndim == first[n].ndim for f in self.feeds)]

    def of_output(self, name: str) -> list[np.ndarray]:
        """The arrays of an output, one for every feed."""
        return [feed[name] for feed in self.feeds]

    def batched(self, name: str) -> bool:
        """Whether axis 0 of an output is that of the samples."""
        return all(
            v.ndim > 0 and len(v) == rows for v, rows in zip(self.of_output(name), self.rows, strict=True)
        )

    def lengths(self, name: str, axis: int) -> set[int]:
        """The lengths that an axis has over the feeds."""
        return {v.shape[axis] for v in self.of_output(name)}


def picture(feed: Mapping[str, np.ndarray]) -> tuple[int, int] | None:
    """The size of what looks like pictures."""
    for value in feed.values():
        if value.ndim == 4 and value.shape[1] in (1, 3, 4):
            return value.shape[2], value.shape[3]
        if value.ndim == 4 and value.shape[3] in (1, 3, 4):
            return value.shape[1], value.shape[2]
    return None

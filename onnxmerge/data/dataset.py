"""The data that a model is fed with, cut into feeds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

import numpy as np

from onnxmerge.arguments import whole
from onnxmerge.data.columns import Batch, Column, Part, folder_for, read
from onnxmerge.errors import CalibrationError, UsageError
from onnxmerge.runtime.session import Feed

# The most samples in a feed, and about the most bytes where a sample is smaller: activations grow with both.
_MOST_PER_FEED, _BYTES_PER_FEED = 32, 4 << 20


@dataclass(frozen=True)
class Dataset:
    """N samples for the inputs of a model; immutable, and no subset of it copies values.

    It holds either columns or ready-made feeds. Where it is not known which numbers the model expects, it is
    a mixture: the same kind of data under each of several conventions; no feed holds samples of two.

    Attributes:
        source: describes the data in reports.
        arrays: one per input, stacked on axis 0; columns, but for shared inputs.
        ready: feeds that are used as they are; every feed counts as one sample.
        batch: the model's fixed batch size, or None if any size runs; samples that do not fill a fixed batch
            are not used.
        shared: inputs without a batch axis, which are fed whole every time.
        made_up: whether the data is invented.
        conventions: what the numbers of a mixture follow, in words.
        convention_of: the number of the convention of every sample, int64 [samples], ascending.

    Raises:
        CalibrationError: the inputs have different numbers of samples, or too few to run once.
    """

    source: str
    arrays: Mapping[str, np.ndarray | Column] | None = None
    ready: tuple[Feed, ...] | None = None
    batch: int | None = None
    shared: frozenset[str] = frozenset()
    made_up: bool = False
    conventions: tuple[str, ...] = ()
    convention_of: np.ndarray | None = None

    def __post_init__(self) -> None:
        if (self.arrays is None) == (self.ready is None):
            raise ValueError("a Dataset has either arrays or ready feeds")
        if self.arrays is not None:
            counts = {name: len(a) for name, a in self.arrays.items() if name not in self.shared}
            if len(set(counts.values())) > 1:
                raise CalibrationError(f"the inputs have different numbers of samples: {_listed(counts)}")
            columns = {n: a if n in self.shared else Column.of(a) for n, a in self.arrays.items()}
            object.__setattr__(self, "arrays", columns)
        if self._count == 0:
            raise CalibrationError("the calibration data has no samples")
        if len(self) == 0:
            raise CalibrationError(
                f"the model takes batches of {self.batch}, and the data has only {self._count} samples"
            )

    def __len__(self) -> int:
        """The number of samples that are fed (of feeds, if they are ready-made)."""
        return self._count // self._unit * self._unit

    def feeds(self, batch: int | None = None) -> Iterator[Feed]:
        """Feeds by input name, in order.

        Args:
            batch: bounds the samples per feed where the model leaves their number open; None: at most 32, and
                of large samples fewer.
        """
        yield from map(read, self.batches(batch))

    def batches(self, batch: int | None = None) -> list[Batch]:
        """The same feeds, whose values are still to be read."""
        if batch is not None and batch < 1:
            raise UsageError(f"a batch has at least 1 sample, not {batch}")
        if self.mixed:
            return _in_turn([part.batches(batch) for part in self.parts()])
        if self.ready is not None:
            return list(self.ready)
        count = len(self)
        # Feeds of nearly equal size: a short last one would weigh its samples differently in every mean.
        parts = math.ceil(count / (batch or self._affordable))
        step = self.batch or math.ceil(count / parts)
        return [
            {
                name: a if isinstance(a, np.ndarray) else Part(a, start, min(start + step, count))
                for name, a in (self.arrays or {}).items()
            }
            for start in range(0, count, step)
        ]

    @property
    def _affordable(self) -> int:
        """How many samples are fed at a time where nobody says it."""
        arrays = [a for name, a in (self.arrays or {}).items() if name not in self.shared]
        size = sum(a.nbytes // max(len(a), 1) for a in arrays)
        return min(max(_BYTES_PER_FEED // max(size, 1), 1), _MOST_PER_FEED)

    @property
    def mixed(self) -> bool:
        """Whether the samples follow several conventions."""
        return len(self.conventions) > 1

    def parts(self) -> list[Dataset]:
        """The samples of each convention by themselves; this Dataset where there is no more than one."""
        if self.convention_of is None or not self.mixed:
            return [self]
        found = []
        for number, convention in enumerate(self.conventions):
            rows = np.flatnonzero(self.convention_of == number)
            if len(rows):
                part = self.rows(rows)
                found.append(replace(part, conventions=(convention,), convention_of=None))
        return found

    def take(self, samples: int, seed: int) -> Dataset:
        """At most so many samples, chosen by the seed, in their order; whole batches, at least one."""
        samples = whole("samples", samples, 1)
        if samples >= len(self):
            return self
        order = np.random.default_rng(seed).permutation(len(self))
        return self.rows(np.sort(order[: self._whole(samples)]))

    def split(
        self, fraction: float = 0.25, least: int = 64, most: float = 0.5, seed: int = 0
    ) -> tuple[Dataset, Dataset]:
        """Samples to fit to, and others that are held out.

        A set that cannot be cut in two (one sample, or less than two whole batches, of any convention of a
        mixture) is returned twice. Of a mixture every convention is cut alike.

        Args:
            fraction: the share that is held out.
            least: the fewest samples that are.
            most: the largest share that is, whatever ``least`` says.
        """
        if self.mixed:
            parts = self.parts()
            pairs = [part.split(fraction, -(-least // len(parts)), most, seed) for part in parts]
            if any(fit is held for fit, held in pairs):
                return self, self
            return mixture([fit for fit, _ in pairs]), mixture([held for _, held in pairs])
        count = len(self)
        if count < 2 * self._unit:
            return self, self
        held = self._whole(min(max(math.ceil(count * fraction), least), int(count * most)))
        order = np.random.default_rng(seed).permutation(count)
        return self.rows(np.sort(order[held:])), self.rows(np.sort(order[:held]))

    @property
    def _count(self) -> int:
        if self.ready is not None:
            return len(self.ready)
        assert self.arrays is not None
        return next((len(a) for name, a in self.arrays.items() if name not in self.shared), 1)

    @property
    def _unit(self) -> int:
        """The number of samples comes in multiples of this."""
        return self.batch or 1 if self.ready is None else 1

    def _whole(self, samples: int) -> int:
        return max(samples // self._unit, 1) * self._unit

    def rows(self, rows: np.ndarray) -> Dataset:
        """Some of the samples (of ready feeds: some feeds), int64, in this order."""
        number = None if self.convention_of is None else self.convention_of[rows]
        if self.ready is not None:
            return replace(self, ready=tuple(self.ready[i] for i in rows), convention_of=number)
        assert self.arrays is not None
        chosen = {n: a.rows(rows) if isinstance(a, Column) else a for n, a in self.arrays.items()}
        return replace(self, arrays=chosen, convention_of=number)

    def in_files(self) -> Dataset:
        """The same with its columns in files, if they are big."""
        columns = [a for a in (self.arrays or {}).values() if isinstance(a, Column)]
        folder = folder_for(sum(column.nbytes for column in columns))
        if folder is None or self.arrays is None:
            return self
        stored = {
            n: Column.gathered(a.pieces(), folder) if isinstance(a, Column) else a
            for n, a in self.arrays.items()
        }
        return replace(self, arrays=stored)


def mixture(parts: Sequence[Dataset]) -> Dataset:
    """One Dataset of the same inputs under different conventions, one part for each."""
    first = parts[0]
    if len(parts) == 1:
        return first
    conventions = tuple(convention for part in parts for convention in part.conventions)
    number = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    if first.ready is not None:
        ready = tuple(feed for part in parts for feed in part.ready or ())
        return replace(first, ready=ready, conventions=conventions, convention_of=number)
    arrays = {}
    for name, array in (first.arrays or {}).items():
        several = [(part.arrays[name], len(part)) for part in parts if part.arrays is not None]
        columns = [column.rows(np.arange(n)) for column, n in several if isinstance(column, Column)]
        arrays[name] = array if name in first.shared else Column.joined(columns)
    return replace(first, arrays=arrays, conventions=conventions, convention_of=number)


def _in_turn(several: Sequence[list[Batch]]) -> list[Batch]:
    """One batch of each by turns, so that the first ones and the last ones are of all."""
    turns = zip_longest(*several)
    return [batch for turn in turns for batch in turn if batch is not None]


def stack(feeds: Sequence[Feed], source: str, batch: int | None, made_up: bool = False) -> Dataset:
    """One Dataset of several feeds: stacked on axis 0 where their shapes allow, else ready-made feeds.

    Feeds stack if every input has a batch axis of the same length within a feed and equal further axes
    over the feeds; ``batch`` is the model's fixed batch size or None.
    """
    ready = Dataset(source, ready=tuple(feeds), made_up=made_up)
    if not all(
        all(np.ndim(a) > 0 for a in feed.values()) and len({len(a) for a in feed.values()}) == 1
        for feed in feeds
    ):
        return ready
    if len({tuple((name, a.shape[1:]) for name, a in sorted(feed.items())) for feed in feeds}) > 1:
        return ready
    joined = {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}
    if batch is not None and len(next(iter(joined.values()))) % batch:
        return ready
    return Dataset(source, arrays=joined, batch=batch, made_up=made_up)


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())

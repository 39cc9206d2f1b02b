"""Values of an input for many samples: in memory where they are few, else in files until they are fed.

Hundreds of images have hundreds of MB, and a run looks at each of them a few times. What is held of a
subset of them, or of several sets one behind the other, is where their values lie.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from onnxmerge import limits
from onnxmerge.graph.external_weights import Scratch, Stored, Waiting
from onnxmerge.runtime.session import Feed

# About how many bytes of samples are made, or changed, at a time.
PIECE = 8 << 20
# A feed whose values are still to be read.
Batch = Mapping[str, np.ndarray | Waiting]


class Column:
    """The values of one input, row by row; immutable, and no subset of it copies values.

    Attributes:
        shape: (samples, ...).
        dtype: of the values.
    """

    def __init__(self, stores: Sequence[np.ndarray | Stored], store: np.ndarray, row: np.ndarray) -> None:
        """Row ``row[i]`` of ``stores[store[i]]`` for sample i; int64 [samples] each."""
        self._stores, self._store, self._row = tuple(stores), store, row
        self.shape: tuple[int, ...] = (len(row), *self._stores[0].shape[1:])
        self.dtype: np.dtype = self._stores[0].dtype

    @staticmethod
    def of(values: np.ndarray | Stored | Column) -> Column:
        """All rows of an array."""
        if isinstance(values, Column):
            return values
        count = values.shape[0]
        return Column([values], np.zeros(count, np.int64), np.arange(count))

    @staticmethod
    def gathered(pieces: Iterable[np.ndarray], folder: Scratch | None) -> Column:
        """Pieces that are made one by one, one behind the other; in memory where there is no folder."""
        if folder is None:
            return Column.of(np.concatenate(list(pieces)))
        return Column.joined([Column.of(kept(piece, folder)) for piece in pieces])

    @staticmethod
    def joined(columns: Sequence[Column]) -> Column:
        """The samples of several columns, one behind the other."""
        begin = np.cumsum([0, *(len(column._stores) for column in columns)])
        numbers = [column._store + first for column, first in zip(columns, begin, strict=False)]
        stores = [store for column in columns for store in column._stores]
        return Column(stores, np.concatenate(numbers), np.concatenate([column._row for column in columns]))

    def __len__(self) -> int:
        return len(self._row)

    @property
    def nbytes(self) -> int:
        """The size of all values."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def rows(self, rows: np.ndarray) -> Column:
        """Some of the samples, int64, in this order."""
        return Column(self._stores, self._store[rows], self._row[rows])

    def pieces(self) -> Iterator[np.ndarray]:
        """All values, a few samples at a time."""
        step = max(PIECE * len(self) // max(self.nbytes, 1), 1)
        return (self[start : start + step] for start in range(0, len(self), step))

    def __getitem__(self, rows: int | slice | np.ndarray) -> np.ndarray:
        """The values of one sample, or of some; those that lie together in memory as a view."""
        if isinstance(rows, int | np.integer):
            one = range(len(self))[rows]
            return np.asarray(self[one : one + 1][0])
        store, row = self._store[rows], self._row[rows]
        ends = [*np.flatnonzero((np.diff(store) != 0) | (np.diff(row) != 1)) + 1, len(row)]
        only = self._stores[0]
        if len(self._stores) == 1 and len(ends) > 1 and isinstance(only, np.ndarray):
            return only[row]
        parts = [
            _rows(self._stores[store[begin]], int(row[begin]), int(row[begin]) + end - begin)
            for begin, end in zip([0, *ends], ends, strict=False)
            if end > begin
        ]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.empty((0, *self.shape[1:]), self.dtype)

    def __reduce__(self) -> tuple[object, ...]:
        """A copy, in another process too, holds its values: files go with those that made them."""
        return Column.of, (self[:],)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        """All values, for numpy."""
        return np.array(self[:], dtype, copy=copy)


def _rows(values: np.ndarray | Stored, begin: int, end: int) -> np.ndarray:
    return values[begin:end] if isinstance(values, np.ndarray) else values.rows(begin, end)


@dataclass(frozen=True, eq=False)
class Part:
    """Neighbouring samples of a column, read when they are asked for."""

    column: Column
    begin: int
    end: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.end - self.begin, *self.column.shape[1:])

    @property
    def dtype(self) -> np.dtype:
        return self.column.dtype

    def values(self) -> np.ndarray:
        """The samples, in memory."""
        return self.column[self.begin : self.end]

    def part(self, begin: int, end: int) -> Part:
        """Some of them."""
        return Part(self.column, self.begin + begin, self.begin + end)


def read(batch: Batch) -> Feed:
    """The values of a batch, in memory."""
    return {name: v.values() if isinstance(v, Waiting) else v for name, v in batch.items()}


def part(batch: Batch, begin: int, end: int) -> Batch:
    """Some samples of a batch; what no sample has of its own stays whole."""
    return {name: v.part(begin, end) if isinstance(v, Part) else v for name, v in batch.items()}


def samples_of(batch: Batch) -> int:
    """How many samples a batch of columns has."""
    return next((v.shape[0] for v in batch.values() if isinstance(v, Part)), 1)


def folder_for(size: int) -> Scratch | None:
    """A new folder for data of so many bytes; None where they are held in memory."""
    return Scratch() if size > limits.LIMITS.data else None


def kept(values: np.ndarray, folder: Scratch | None) -> np.ndarray | Stored:
    """Values where they are held: in a file of a folder, or as they are."""
    return values if folder is None or values.dtype.hasobject else folder.put(values)

"""Feeds from whatever gives inputs one after another: loaders, data sets, readers, generators, lists.

Nothing is imported for them. A loader is what can be iterated, a tensor what has ``numpy()`` or
``__array__``, a data set what has a length and items; what an item holds decides how it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from onnxmerge.data.dataset import Dataset, stack
from onnxmerge.data.files import ensure_fits
from onnxmerge.data.model_inputs import fit_array, fit_names, fixed_batch
from onnxmerge.errors import CalibrationError, ModelError
from onnxmerge.runtime.session import Feed
from onnxmerge.runtime.tensor_info import TensorInfo

# Runs the model on a feed; raises ModelError where it does not run.
Run = Callable[[Feed], Mapping[str, Any]]
# How far the answer to a sample by itself may be from that to the same sample among others.
_SAME = 1e-3
# Not worth naming in a report.
_PLAIN = ("list", "tuple", "generator", "map", "filter", "zip")


def is_given_by_items(what: Any) -> bool:
    """Whether data come as items: what is iterable, and what has a length and items by number."""
    return isinstance(what, Iterable) or (hasattr(what, "__len__") and hasattr(what, "__getitem__"))


def read_items(
    what: Any,
    inputs: Sequence[TensorInfo],
    samples: int | None,
    seed: int,
    run: Run | None = None,
    source: str | None = None,
    labels: Sequence[str] | None = None,
) -> Dataset:
    """The data of items, each of which is what the model takes once.

    An item is a mapping by input name (entries that are no inputs are not used: labels, texts), a tuple with
    the inputs in their order (what follows them is not used), a pair of a mapping and labels, or, for a model
    with one input, the input itself. Values are arrays, tensors, or nested lists of numbers. A value with one
    axis less than the model declares is a sample without its batch axis, and gets it.

    Items whose shapes allow it are cut into samples. Where lengths differ from item to item, samples stay
    apart and are fed one by one. Where the answers to the rows of an item depend on one another (the steps
    of a sequence that has no batch axis), an item is one sample.

    Args:
        samples: about as many are read, chosen by ``seed`` where items have numbers, else the first ones.
        run: runs the model; None: rows are taken to be samples.
        source: what the data are called in reports, and ``labels`` the items in messages.

    Raises:
        CalibrationError: an item does not fit the model.
    """
    source = source or _named(what)
    reader = _Reader(inputs, source, run, labels)
    found: list[tuple[int, Feed]] = []
    size = rows = 0
    for number, item in _in_order(what, seed if samples is not None else None):
        feed = reader.feed(item, number)
        if feed is None:
            continue
        found.append((number, feed))
        size += sum(a.nbytes for a in feed.values())
        ensure_fits(size, source)
        rows += reader.rows(feed)
        if samples is not None and rows >= max(samples, 1):
            break
    if not found:
        raise CalibrationError(f"{source} gave no feeds" + (" with anything in them" if reader.empty else ""))
    feeds = [feed for _, feed in sorted(found, key=lambda pair: pair[0])]
    return reader.joined(feeds, source + reader.unused)


def as_array(value: Any, where: str, *, copy: bool = False) -> np.ndarray:
    """An array of whatever holds numbers: an array, a tensor on any device, nested lists.

    Raises:
        CalibrationError: lists of different lengths, and what is no array at all.
    """
    for step in ("detach", "cpu"):  # tensors that are trained, or on a device
        value = getattr(value, step)() if hasattr(value, step) else value
    try:
        if hasattr(value, "numpy"):
            try:
                value = value.numpy()
            except TypeError:  # bfloat16, which numpy lacks
                value = value.float().numpy()
        return np.array(value) if copy else np.asarray(value)
    except ValueError as error:
        raise CalibrationError(
            f"{where} holds rows of different lengths: pad them, or give one sample at a time"
        ) from error
    except (TypeError, AttributeError, RuntimeError) as error:
        raise CalibrationError(f"{where} is a {type(value).__name__}, which is no array: {error}") from error


class _Reader:
    """Reads items; what it learns from the first ones holds for all."""

    def __init__(
        self, inputs: Sequence[TensorInfo], source: str, run: Run | None, labels: Sequence[str] | None
    ) -> None:
        self.unused = ""
        self.empty = 0
        self._inputs, self._source, self._run, self._labels = tuple(inputs), source, run, labels
        self._batch = fixed_batch(inputs)
        self._rows_are_samples: bool | None = None

    def feed(self, item: Any, number: int) -> Feed | None:
        """The feed of an item; None where an input is empty, as the past of a first step is."""
        label = f"{self._source}, feed {number}" if self._labels is None else self._labels[number]
        values = self._values(item, label)
        feed, empty = {}, False
        for info in self._inputs:
            array = as_array(values[info.name], f"{label}, input {info.name!r}", copy=True)
            if info.shape is not None and array.ndim == len(info.shape) - 1:
                array = array[None]
            empty = empty or not array.size
            feed[info.name] = array
        if empty:
            self.empty += 1
            return None
        return {info.name: fit_array(feed[info.name], info, label) for info in self._inputs}

    def rows(self, feed: Feed) -> int:
        """How many samples a feed holds."""
        count = _common_length(feed)
        if count is None or count == 1:
            return 1
        if self._rows_are_samples is None:
            self._rows_are_samples = _rows_are_samples(feed, count, self._batch, self._run)
        return count if self._rows_are_samples else 1

    def joined(self, feeds: list[Feed], source: str) -> Dataset:
        """The feeds as samples."""
        if self.empty:
            source += f" ({self.empty} feeds with an empty input left out)"
        counts = [_common_length(feed) for feed in feeds]
        if self._rows_are_samples is False:
            return Dataset(source, ready=tuple(feeds))
        shapes = {tuple((name, a.shape[1:]) for name, a in feed.items()) for feed in feeds}
        if len(shapes) == 1 or None in counts or self._batch not in (None, 1):
            return stack(feeds, source, self._batch)
        ready = [
            {name: a[row : row + 1] for name, a in feed.items()}
            for feed, count in zip(feeds, counts, strict=True)
            for row in range(count or 1)
        ]
        return Dataset(source, ready=tuple(ready))

    def _values(self, item: Any, label: str) -> Mapping[str, Any]:
        """What an item holds, by input name."""
        names = [info.name for info in self._inputs]
        if isinstance(item, tuple | list) and item and isinstance(item[0], Mapping):
            item = item[0]
        if isinstance(item, Mapping):
            rest = [str(key) for key in item if key not in names]
            if len(item) - len(rest) < len(names):
                fit_names(item, self._inputs, label)
            if rest:
                self.unused = f" (without {', '.join(rest)})"
            return item
        if isinstance(item, tuple) or (isinstance(item, list) and _holds_inputs(item, len(names))):
            if len(item) < len(names):
                raise CalibrationError(
                    f"{label} has {len(item)} entries, and the model has {len(names)} inputs: "
                    f"{', '.join(names)}"
                )
            if len(item) > len(names):
                self.unused = f" (the first {len(names)} of {len(item)} entries)"
            return dict(zip(names, item, strict=False))
        if len(names) == 1 and (_is_array(item) or isinstance(item, list)):
            return {names[0]: item}
        raise CalibrationError(
            f"{label} is a {type(item).__name__}, not a dict of arrays by input name"
            + (f" or a tuple of {', '.join(names)}" if len(names) > 1 else ", a tuple or an array")
        )


def _in_order(what: Any, seed: int | None) -> Iterator[tuple[int, Any]]:
    """Items with their numbers; those that can be taken by number in an order drawn by the seed."""
    numbered = hasattr(what, "__len__") and hasattr(what, "__getitem__")
    count = len(what) if numbered else 0
    if count and hasattr(what, "__iter__"):
        try:
            what[0]
        except NotImplementedError:  # what torch's data sets that can only be iterated inherit
            numbered = False
    if not numbered:
        yield from enumerate(what)
        return
    order = range(count) if seed is None else np.random.default_rng(seed).permutation(count).tolist()
    for number in order:
        yield number, what[number]


def _rows_are_samples(feed: Feed, count: int, batch: int | None, run: Run | None) -> bool:
    """Whether the first axis that all inputs share is that of samples: each is answered by itself."""
    # A model of one long row, a sound for example, has no batch axis at all.
    usual = any(a.ndim > 1 for a in feed.values()) or len(feed) > 1
    if batch is not None or run is None:
        return usual
    try:
        alone = run({name: a[:1] for name, a in feed.items()})
    except ModelError:
        return False
    try:
        together = run(feed)
    except ModelError:  # the graph fixes a batch of one
        return True
    told = [_told(together[name], alone[name], count) for name in together]
    if False in told or True in told:
        return False not in told
    return usual


def _told(together: Any, alone: Any, count: int) -> bool | None:
    """What one output says of it; None: nothing."""
    if not isinstance(together, np.ndarray) or not isinstance(alone, np.ndarray) or not together.ndim:
        return None
    if together.shape == alone.shape:
        return False
    if len(together) != count or alone.shape[:1] != (1,) or together.shape[1:] != alone.shape[1:]:
        return None
    if together.dtype.kind != "f":
        return bool(np.array_equal(together[:1], alone))
    difference = np.linalg.norm((together[:1] - alone).astype(np.float64))
    return bool(difference <= _SAME * np.linalg.norm(alone.astype(np.float64)) + 1e-12)


def _common_length(feed: Feed) -> int | None:
    """The length of the first axis that all inputs share; None where they share none."""
    lengths = {len(a) if a.ndim else None for a in feed.values()}
    return lengths.pop() if len(lengths) == 1 else None


def _holds_inputs(item: list[Any], inputs: int) -> bool:
    """Whether a list holds inputs, as loaders make of tuples, and not the numbers of a single one."""
    if not item or inputs > 1:
        return bool(item)
    return _is_array(item[0]) and getattr(item[0], "ndim", 1) > 0


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__") or hasattr(value, "numpy")


def _named(what: Any) -> str:
    kind = type(what).__name__
    return "feeds" if kind in _PLAIN else f"{'an' if kind[:1] in 'AEIOU' else 'a'} {kind}"

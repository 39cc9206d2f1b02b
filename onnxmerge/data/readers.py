"""Calibration data from whatever the user has: files, folders, arrays, feeds, a CalibrationDataReader."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxmerge.data.dataset import Dataset, stack
from onnxmerge.data.files import ensure_fits, read_npy, read_npz
from onnxmerge.data.images import SUFFIXES, ImageOptions, find_images, load_images
from onnxmerge.data.model_inputs import fit_array, fit_names, fixed_batch
from onnxmerge.errors import CalibrationError
from onnxmerge.runtime.session import Feed
from onnxmerge.runtime.tensor_info import TensorInfo


def read_calibration(
    what: Any,
    session_inputs: Sequence[TensorInfo],
    images: ImageOptions | None = None,
    samples: int | None = None,
    seed: int = 0,
) -> Dataset:
    """The data for these inputs, checked and cast to their types.

    ``what`` is a path (.npz, .npy, an image, a folder of any one of these), an array for a model with one
    input, a mapping of arrays by input name, an iterable of such mappings (feeds), or an object with
    onnxruntime's ``get_next``. Every array has its batch axis. At most ``samples`` samples are used: chosen
    by ``seed``, or the first ones where the data comes as an iterator.

    Raises:
        CalibrationError: anything does not fit the model, in one sentence.
    """
    inputs = tuple(session_inputs)
    options = images or ImageOptions()
    if isinstance(what, str | os.PathLike):
        data = _from_path(Path(what), inputs, options, samples, seed)
    elif hasattr(what, "get_next"):
        data = _from_feeds(iter(what.get_next, None), inputs, "a CalibrationDataReader", samples)
    elif isinstance(what, Mapping):
        data = _from_arrays(what, inputs, "arrays", samples, seed)
    elif hasattr(what, "__array__"):
        data = _from_arrays(_one(np.asarray(what), inputs, "the array"), inputs, "an array", samples, seed)
    elif isinstance(what, Iterable):
        data = _from_feeds(iter(what), inputs, "feeds", samples)
    else:
        raise CalibrationError(
            f"calibration data is a path, an array, a dict of arrays or an iterable of dicts, "
            f"not {type(what)}"
        )
    return data if samples is None else data.take(samples, seed)


def holds_images(what: Any) -> bool:
    """Whether calibration data is an image, or a folder of images."""
    if not isinstance(what, str | os.PathLike):
        return False
    path = Path(what)
    if path.is_dir():
        return not _array_files(path) and bool(find_images(path))
    return path.suffix.lower() in SUFFIXES


def _array_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in (".npy", ".npz"))


def _from_path(
    path: Path, inputs: Sequence[TensorInfo], options: ImageOptions, samples: int | None, seed: int
) -> Dataset:
    suffix = path.suffix.lower()
    if path.is_dir():
        return _from_folder(path, inputs, options, samples, seed)
    if not path.exists():
        raise CalibrationError(f"there is no calibration data at {path}")
    if suffix in SUFFIXES:
        return _from_images([path], path, inputs, options)
    if suffix not in (".npy", ".npz"):
        raise CalibrationError(f"{path} is no calibration data: give .npz, .npy, images or a folder of them")
    return _from_arrays(_arrays(path, inputs), inputs, str(path), samples, seed)


def _from_folder(
    folder: Path, inputs: Sequence[TensorInfo], options: ImageOptions, samples: int | None, seed: int
) -> Dataset:
    tensors = _array_files(folder)
    pictures = find_images(folder)
    if tensors and pictures:
        raise CalibrationError(f"{folder} holds arrays and images: give a folder of one kind")
    if pictures:
        if samples is not None and samples < len(pictures):
            # Before loading: a folder may hold far more images than memory does.
            chosen = np.random.default_rng(seed).permutation(len(pictures))[: max(samples, 1)]
            pictures = [pictures[i] for i in sorted(chosen)]
        return _from_images(pictures, folder, inputs, options)
    if not tensors:
        raise CalibrationError(f"{folder} holds no .npz or .npy files and no images")
    if len(inputs) > 1 and {p.name for p in tensors} == {f"{i.name}.npy" for i in inputs}:
        return _from_arrays({p.stem: read_npy(p) for p in tensors}, inputs, str(folder), samples, seed)
    return _from_feeds((_arrays(p, inputs) for p in tensors), inputs, str(folder), None)


def _from_images(
    paths: Sequence[Path], source: Path, inputs: Sequence[TensorInfo], options: ImageOptions
) -> Dataset:
    if len(inputs) != 1:
        raise CalibrationError(
            f"images fit a model with one input, and this one has {len(inputs)} ({_names(inputs)}): "
            "give a .npz"
        )
    info = inputs[0]
    if info.dtype is None or info.shape is None:
        raise CalibrationError(f"the input {info.name!r} is a {info.kind} and takes no images")
    array = load_images(paths, info.name, info.shape, info.dtype, options)
    return Dataset(str(source), arrays={info.name: array}, batch=fixed_batch(inputs))


def _arrays(path: Path, inputs: Sequence[TensorInfo]) -> dict[str, np.ndarray]:
    """The arrays of one file by input name; a single array needs no name where there is a single input."""
    if path.suffix.lower() == ".npy":
        return _one(read_npy(path), inputs, str(path))
    arrays = read_npz(path)
    if len(arrays) == 1 and len(inputs) == 1:
        return _one(next(iter(arrays.values())), inputs, str(path))
    return arrays


def _one(array: np.ndarray, inputs: Sequence[TensorInfo], what: str) -> dict[str, np.ndarray]:
    if len(inputs) != 1:
        raise CalibrationError(
            f"{what} is one array without a name, and the model has {len(inputs)} inputs: {_names(inputs)}"
        )
    return {inputs[0].name: array}


def _from_arrays(
    given: Mapping[str, Any], inputs: Sequence[TensorInfo], source: str, samples: int | None, seed: int
) -> Dataset:
    fit_names(given, inputs, source)
    arrays = {info.name: np.asarray(given[info.name]) for info in inputs}
    batch = fixed_batch(inputs)
    shared = _shared(arrays, inputs)
    counts = {len(a) for name, a in arrays.items() if name not in shared}
    if len(counts) > 1:
        # Inputs such as the nodes and edges of a graph have no axis in common: together they are one feed.
        return Dataset(source, ready=(_fit(arrays, inputs, source, whole=True),))
    data = Dataset(source, arrays=arrays, batch=batch, shared=shared)
    if samples is not None:
        data = data.take(samples, seed)  # before casting: the arrays may be mapped from a file
    assert data.arrays is not None
    return Dataset(source, arrays=_fit(data.arrays, inputs, source), batch=batch, shared=shared)


def _shared(arrays: Mapping[str, np.ndarray], inputs: Sequence[TensorInfo]) -> frozenset[str]:
    """Inputs without a batch axis: scalars, and fixed shapes that are met whole while others go on longer."""
    longest = max((len(a) for a in arrays.values() if a.ndim), default=0)
    return frozenset(
        info.name
        for info in inputs
        if not arrays[info.name].ndim
        or (arrays[info.name].shape == info.shape and len(arrays[info.name]) < longest)
    )


def _from_feeds(
    feeds: Iterator[Any], inputs: Sequence[TensorInfo], source: str, samples: int | None
) -> Dataset:
    collected: list[Feed] = []
    size = rows = 0
    for i, feed in enumerate(feeds):
        if not isinstance(feed, Mapping):
            raise CalibrationError(f"feed {i} of {source} is a {type(feed).__name__}, not a dict of arrays")
        label = f"{source}, feed {i}"
        fit_names(feed, inputs, label)
        # A copy, because readers like to fill the same buffer again.
        arrays = {info.name: np.array(feed[info.name]) for info in inputs}
        collected.append(_fit(arrays, inputs, label))
        size += sum(a.nbytes for a in collected[-1].values())
        ensure_fits(size, source)
        rows += max((len(a) for a in collected[-1].values() if a.ndim), default=1)
        if samples is not None and rows >= max(samples, 1):
            break
    if not collected:
        raise CalibrationError(f"{source} gave no feeds")
    return stack(collected, source, fixed_batch(inputs))


def _fit(
    arrays: Mapping[str, np.ndarray], inputs: Sequence[TensorInfo], source: str, whole: bool = False
) -> Feed:
    return {info.name: fit_array(arrays[info.name], info, source, whole) for info in inputs}


def _names(inputs: Sequence[TensorInfo]) -> str:
    return ", ".join(i.name for i in inputs)

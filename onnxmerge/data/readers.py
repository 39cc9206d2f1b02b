"""Calibration data from whatever the user has: files, folders, arrays, loaders, data sets, readers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from onnxmerge.data.dataset import Dataset
from onnxmerge.data.feeds import Run, as_array, is_given_by_items, read_items
from onnxmerge.data.files import read_npy, read_npz
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
    run: Run | None = None,
) -> Dataset:
    """The data for these inputs, checked and cast to their types.

    ``what`` is a path (.npz, .npy, an image, a folder of any one of these: what ``record`` wrote), an array
    or a tensor for a model with one input, a mapping of arrays by input name, a ``Dataset``, an object with
    onnxruntime's ``get_next``, or anything that gives items: a torch ``DataLoader`` or ``Dataset``, a Hugging
    Face dataset, a generator, a list (see ``feeds.read_items``). Arrays have their batch axis; in a mapping
    of lists every entry is a sample of its own shape. At most ``samples`` samples are used: chosen by
    ``seed``, or the first ones where the data comes as an iterator. ``run`` runs the model.

    Raises:
        CalibrationError: anything does not fit the model, in one sentence.
    """
    inputs = tuple(session_inputs)
    options = images or ImageOptions()
    if isinstance(what, str) and not what.strip():
        raise CalibrationError("the path of the data is empty: was a variable of the shell not set?")
    if isinstance(what, str | os.PathLike):
        try:
            data = _from_path(Path(what), inputs, options, samples, seed, run)
        except OSError as error:
            raise CalibrationError(f"cannot read {what}: {error.strerror or error}") from error
    elif isinstance(what, Dataset):
        # Checked against these inputs as anything else is: it may have been made for another model.
        given = what.arrays if what.ready is None else list(what.ready)
        return replace(read_calibration(given, inputs, options, samples, seed, run), source=what.source)
    elif hasattr(what, "get_next"):
        data = read_items(iter(what.get_next, None), inputs, samples, seed, run, "a CalibrationDataReader")
    elif isinstance(what, Mapping):
        data = _from_mapping(what, inputs, samples, seed, run)
    elif hasattr(what, "__array__"):
        array = as_array(what, "the array")
        data = _from_arrays(_one(array, inputs, "the array"), inputs, "an array", samples, seed)
    elif is_given_by_items(what):
        data = read_items(what, inputs, samples, seed, run)
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
    try:
        if path.is_dir():
            return not _array_files(path) and bool(find_images(path))
    except OSError:  # who reads it says so
        return False
    return path.suffix.lower() in SUFFIXES


def _array_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in (".npy", ".npz"))


def _from_path(
    path: Path,
    inputs: Sequence[TensorInfo],
    options: ImageOptions,
    samples: int | None,
    seed: int,
    run: Run | None,
) -> Dataset:
    suffix = path.suffix.lower()
    if path.is_dir():
        return _from_folder(path, inputs, options, samples, seed, run)
    if not path.exists():
        raise CalibrationError(f"there is no calibration data at {path}")
    if suffix in SUFFIXES:
        return _from_images([path], path, inputs, options)
    if suffix not in (".npy", ".npz"):
        raise CalibrationError(f"{path} is no calibration data: give .npz, .npy, images or a folder of them")
    return _from_arrays(_arrays(path, inputs), inputs, str(path), samples, seed)


def _from_folder(
    folder: Path,
    inputs: Sequence[TensorInfo],
    options: ImageOptions,
    samples: int | None,
    seed: int,
    run: Run | None,
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
    labels = [str(path) for path in tensors]
    return read_items(_Files(tensors, inputs), inputs, samples, seed, run, str(folder), labels)


@dataclass(frozen=True)
class _Files:
    """Files of arrays, each read when it is asked for."""

    paths: Sequence[Path]
    inputs: Sequence[TensorInfo]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        return _arrays(self.paths[number], self.inputs)


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
    arrays = load_images(paths, info.name, info.shape, info.dtype, options)
    if len(arrays) > 1:
        return Dataset(str(source), ready=tuple({info.name: array} for array in arrays))
    return Dataset(str(source), arrays={info.name: arrays[0]}, batch=fixed_batch(inputs))


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


def _from_mapping(
    given: Mapping[Any, Any], inputs: Sequence[TensorInfo], samples: int | None, seed: int, run: Run | None
) -> Dataset:
    """Arrays by input name; or, of every input, the same number of samples of different shapes."""
    if given and all(hasattr(value, "column_names") for value in given.values()):
        splits = ", ".join(map(str, given))
        raise CalibrationError(f"the data has the splits {splits}: give one of them")
    fit_names(given, inputs, "arrays")
    if any(_of_different_shapes(given[info.name]) for info in inputs):
        columns = {name: list(values) for name, values in given.items()}
        counts = {name: len(values) for name, values in columns.items()}
        if len(set(counts.values())) > 1:
            raise CalibrationError(f"the inputs have different numbers of samples: {counts}")
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return read_items(rows, inputs, samples, seed, run, "arrays")
    return _from_arrays(given, inputs, "arrays", samples, seed)


def _of_different_shapes(value: Any) -> bool:
    """Whether a value is a list, or numpy's array of objects, of arrays that are no rows of one."""
    if not isinstance(value, list | tuple) and getattr(value, "dtype", None) != np.dtype(object):
        return False
    rows = [row for row in value if hasattr(row, "__len__") and not isinstance(row, str)]
    return len({np.shape(row) if hasattr(row, "__array__") else (len(row),) for row in rows}) > 1


def _from_arrays(
    given: Mapping[str, Any], inputs: Sequence[TensorInfo], source: str, samples: int | None, seed: int
) -> Dataset:
    fit_names(given, inputs, source)
    arrays = {info.name: as_array(given[info.name], f"{source}, input {info.name!r}") for info in inputs}
    batch = fixed_batch(inputs)
    shared = _shared(arrays, inputs)
    counts = {len(a) for name, a in arrays.items() if name not in shared}
    if len(counts) > 1:
        _refuse_unequal(arrays, inputs, shared, source)
        # Inputs such as the nodes and edges of a graph have no axis in common: together they are one feed.
        return Dataset(source, ready=(_fit(arrays, inputs, source, whole=True),))
    data = Dataset(source, arrays=arrays, batch=batch, shared=shared)
    if samples is not None:
        data = data.take(samples, seed)  # before casting: the arrays may be mapped from a file
    assert data.arrays is not None
    arrays = {name: np.asarray(values) for name, values in data.arrays.items()}
    return Dataset(source, arrays=_fit(arrays, inputs, source), batch=batch, shared=shared)


def _refuse_unequal(
    arrays: Mapping[str, np.ndarray], inputs: Sequence[TensorInfo], shared: frozenset[str], source: str
) -> None:
    """Raise CalibrationError where inputs differ in a number of samples that the model gives one name."""
    for name in dict.fromkeys(info.shape[0] for info in inputs if info.shape and info.name not in shared):
        together = [info.name for info in inputs if info.shape and info.shape[0] == name]
        if isinstance(name, str) and len({len(arrays[one]) for one in together}) > 1:
            counts = ", ".join(f"{one} {len(arrays[one])}" for one in together)
            raise CalibrationError(
                f"{source}: the inputs have different numbers of samples ({counts}), and are as many in the "
                f"model ({name!r}): give every input an entry per sample"
            )


def _shared(arrays: Mapping[str, np.ndarray], inputs: Sequence[TensorInfo]) -> frozenset[str]:
    """Inputs without a batch axis: scalars, and fixed shapes that are met whole while others go on longer."""
    longest = max((len(a) for a in arrays.values() if a.ndim), default=0)
    return frozenset(
        info.name
        for info in inputs
        if not arrays[info.name].ndim
        or (arrays[info.name].shape == info.shape and len(arrays[info.name]) < longest)
    )


def _fit(
    arrays: Mapping[str, np.ndarray], inputs: Sequence[TensorInfo], source: str, whole: bool = False
) -> Feed:
    return {info.name: fit_array(arrays[info.name], info, source, whole) for info in inputs}


def _names(inputs: Sequence[TensorInfo]) -> str:
    return ", ".join(i.name for i in inputs)

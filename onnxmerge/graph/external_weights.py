"""Weights that stay in files, for models too large to hold several times in memory.

In such a model every big initializer of the main graph is a reference: external data at an absolute path.
Whoever needs its values maps the file; one mapping per file serves analysis and execution alike. What a
run computes anew goes to a scratch folder and is mapped too, so that the system can take all weights out
of memory at any time, and ``release`` does.

A path in a file that somebody else made must never be read as a reference: it could name any file of this
machine. So a reference carries a message authentication code of what it says, under a key that exists in
this process only.
"""

from __future__ import annotations

import ctypes
import hmac
import mmap
import os
import secrets
import shutil
import tempfile
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from math import prod
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable
from weakref import WeakValueDictionary

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.external_data_helper import uses_external_data

from onnxmerge import limits
from onnxmerge.errors import ModelError, OutputError
from onnxmerge.graph.leftovers import new_folder

_C_LIBRARY = ctypes.CDLL(None) if os.name == "posix" else None
# Bytes that a process may grow by before freed memory is given back.
_WORTH_TRIMMING = 64 << 20
# What was in memory after that was done last, or less where less is now.
_after_trim = 0

_roots: WeakValueDictionary[tuple[str, int, int], np.memmap] = WeakValueDictionary()


# The key of the marks that references carry, and the entry of external data that holds them: of the entries
# that the standard names, the only one that says nothing about where data lie.
_SECRET = secrets.token_bytes(32)
_MARK = "checksum"


class Location(NamedTuple):
    """Where external data lie: a file, and bytes in it (``length`` None: as many as the tensor has)."""

    path: str
    offset: int
    length: int | None


def location_of(tensor: onnx.TensorProto) -> Location:
    """What a tensor's external data entries say; of an entry that is repeated the last counts.

    Raises:
        ModelError: a path that is no text, and for numbers that are none, or negative.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    path = entries.get("location", "")
    if not isinstance(path, str):  # protobuf gives bytes where they are not UTF-8
        raise ModelError(f"external data of '{tensor.name}' lie at a path that is not UTF-8: {path!r}")
    try:
        offset = int(entries.get("offset") or 0)
        length = int(entries["length"]) if entries.get("length") else None
    except ValueError as error:
        raise ModelError(f"external data of '{tensor.name}': offset and length are numbers") from error
    if offset < 0 or (length is not None and length < 0):
        raise ModelError(f"external data of '{tensor.name}' has a negative offset or length")
    return Location(path, offset, length)


def is_reference(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor's values lie in a file that this process itself referred it to, with ``refer``."""
    if not uses_external_data(tensor):
        return False
    marks = [entry.value for entry in tensor.external_data if entry.key == _MARK]
    mark = _mark(location_of(tensor))
    return len(marks) == 1 and hmac.compare_digest(str(marks[0]).encode(), mark.encode())


def _mark(location: Location) -> str:
    return hmac.digest(_SECRET, repr(tuple(location)).encode(), "sha256").hex()


def references(proto: onnx.ModelProto) -> list[onnx.TensorProto]:
    """The initializers of a model whose values lie in files."""
    return [tensor for tensor in proto.graph.initializer if is_reference(tensor)]


def values_of(tensor: onnx.TensorProto) -> np.ndarray:
    """The values of a stored tensor; those of a reference are mapped, read-only.

    Raises:
        ModelError: the file is gone or too short.
    """
    if not is_reference(tensor):
        return numpy_helper.to_array(tensor)
    path, offset, length = location_of(tensor)
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    size = int(np.prod(tensor.dims, dtype=np.int64)) * dtype.itemsize
    found = _map(path)[offset : offset + (length or 0)]
    if len(found) != size:
        raise ModelError(f"the data of '{tensor.name}' is no longer all there: {path} was cut short")
    return found.view(np.ndarray).view(dtype).reshape(tuple(tensor.dims))


def tensor_of(name: str, values: np.ndarray) -> onnx.TensorProto:
    """A tensor with these values: a reference where they lie in a mapped file as they are."""
    root = _root_of(values)
    if root is None or not values.flags.c_contiguous:
        return numpy_helper.from_array(np.ascontiguousarray(values), name)
    tensor = onnx.TensorProto(
        name=name, dims=values.shape, data_type=onnx.helper.np_dtype_to_tensor_dtype(values.dtype)
    )
    refer(tensor, str(root.filename), _address(values) - _address(root), values.nbytes)
    return tensor


def refer(tensor: onnx.TensorProto, path: str, offset: int, length: int) -> None:
    """Make a tensor a reference to bytes of the file at an absolute path; whatever data it had goes."""
    locate(tensor, path, offset, length)
    tensor.external_data.add(key=_MARK, value=_mark(Location(path, offset, length)))


def locate(tensor: onnx.TensorProto, path: str, offset: int, length: int) -> None:
    """Give a tensor external data as files have them: the path is relative to that of the model."""
    tensor.ClearField("raw_data")
    del tensor.external_data[:]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", path), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def is_mapped(values: np.ndarray) -> bool:
    """Whether an array lies in a mapped file."""
    return _root_of(values) is not None


def common_folder(tensors: Iterable[onnx.TensorProto]) -> str:
    """The innermost folder that holds the files of all of these references."""
    return os.path.commonpath([os.path.dirname(location_of(t).path) for t in tensors])


def release() -> None:
    """Take all mapped weights out of this process's memory; they come back from the files when used."""
    # Taken at once: other threads map files meanwhile.
    roots = [root for reference in _roots.valuerefs() if (root := reference()) is not None]
    if hasattr(mmap, "MADV_DONTNEED"):
        for root in roots:
            root._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]


def trim(*, seldom: bool = False) -> None:
    """Give freed memory back to the system; glibc would keep it for later.

    Args:
        seldom: only where it may be much: between two steps of the same kind, what one gives back the next
            would take again, and the system clear it page by page.
    """
    global _after_trim
    if _C_LIBRARY is None or not hasattr(_C_LIBRARY, "malloc_trim"):
        return
    resident = _resident()
    if not seldom or resident > _after_trim + _WORTH_TRIMMING:
        _C_LIBRARY.malloc_trim(0)
        _after_trim = _resident()
    else:
        _after_trim = min(_after_trim, resident)


def _resident() -> int:
    """The bytes of this process that are in memory; many where the system does not say."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * mmap.PAGESIZE
    except OSError:
        return 1 << 62


@runtime_checkable
class Waiting(Protocol):
    """An array that is not in memory until it is asked for."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    def values(self) -> np.ndarray:
        """The array, read anew."""
        ...


@dataclass(frozen=True, eq=False)
class Stored:
    """An array that waits in a file; unlike a mapped one it holds no file open, and no memory once used."""

    folder: Scratch
    path: Path
    dtype: np.dtype
    shape: tuple[int, ...]

    def values(self) -> np.ndarray:
        """The array, read anew."""
        return np.fromfile(self.path, self.dtype).reshape(self.shape)

    def rows(self, begin: int, end: int) -> np.ndarray:
        """A part of its first axis, read anew."""
        each = prod(self.shape[1:])
        found = np.fromfile(
            self.path, self.dtype, (end - begin) * each, offset=begin * each * self.dtype.itemsize
        )
        return found.reshape((end - begin, *self.shape[1:]))


class Scratch:
    """A temporary folder for weights and other large data, removed with this object."""

    def __init__(self, inside: Scratch | None = None) -> None:
        self.path: Path
        self._parent = inside  # its removal would take this folder along
        handle = None
        try:
            if inside is None:
                self.path, handle = new_folder()
            else:
                self.path = Path(tempfile.mkdtemp(dir=inside.path))
        except OSError as error:
            raise OutputError(
                f"no temporary folder for large data: {error.strerror or error}; the environment variable "
                "TMPDIR names another place"
            ) from error
        weakref.finalize(self, _remove, self.path, handle)
        self._numbers = count()

    def inner(self) -> Scratch:
        """A folder within this one, for what is needed for a shorter time."""
        return Scratch(self)

    def store(self, values: np.ndarray) -> np.ndarray:
        """The same values, in a mapped file where they are big; those that are mapped stay where they are.

        Raises:
            OutputError: there is no space.
        """
        mappable = values.dtype.kind in "fiu" and not values.dtype.hasobject
        if (
            values.nbytes < limits.LIMITS.mapped_tensor
            or not mappable
            or (is_mapped(values) and values.flags.c_contiguous)
        ):
            return values
        stored = self.put(values)
        return _map(str(stored.path)).view(np.ndarray).view(values.dtype).reshape(values.shape)

    def put(self, values: np.ndarray) -> Stored:
        """Write an array of numbers into a file of its own.

        Raises:
            OutputError: there is no space.
        """
        path = self.new_file()
        try:
            with path.open("wb") as file:
                np.ascontiguousarray(values).tofile(file)
        except OSError as error:
            raise self.failure(error) from error
        return Stored(self, path, values.dtype, values.shape)

    def new_file(self) -> Path:
        """A name that is free in this folder."""
        return self.path / f"{next(self._numbers)}.bin"

    def failure(self, error: OSError) -> OutputError:
        """What to tell the user when writing here failed."""
        return OutputError(
            f"cannot write temporary data into {self.path.parent}: {error.strerror or error}; "
            "the environment variable TMPDIR names another folder"
        )


def _remove(folder: Path, handle: int | None) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if handle is not None:
        os.close(handle)


def _map(path: str) -> np.memmap:
    try:
        found = os.stat(path)
        key = (path, found.st_ino, found.st_mtime_ns)  # a file that was replaced is another one
        root = _roots.get(key)
        if root is None:
            _roots[key] = root = np.memmap(path, np.uint8, "r")
    except (OSError, ValueError) as error:
        raise ModelError(f"the weights in {path} cannot be read: {error}") from error
    return root


def _root_of(values: np.ndarray) -> np.memmap | None:
    """The mapping of the whole file that an array lies in."""
    array = values
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array if isinstance(array, np.memmap) else None


def _address(values: np.ndarray) -> int:
    return int(values.__array_interface__["data"][0])

"""Reading and writing model files.

Models are untrusted: external data must lie inside the model's folder and its size is checked
before anything is read. Writing goes to a temporary file in the target folder that is renamed at
the end, so that an interrupted run leaves either the old file or the new one.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_tensor, uses_external_data

from onnxmerge.errors import ModelError, OutputError, UsageError

# protobuf refuses messages of 2 GiB and more; the rest of a file is names and attributes.
PROTOBUF_LIMIT = 2**31 - 2**20


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory, with all weights, and what is known of where it came from.

    Attributes:
        bytes: size on disk, external data included.
        self_contained: whether one file holds everything.
    """

    proto: onnx.ModelProto
    path: Path | None
    bytes: int
    sha256: str
    self_contained: bool = True


def load(model: str | os.PathLike[str] | onnx.ModelProto) -> LoadedModel:
    """Read a model with its external data.

    Raises:
        ModelError: the file is missing, is no ONNX file, or its external data is missing,
            truncated or outside of the model's folder.
    """
    if isinstance(model, onnx.ModelProto):
        for tensor in _stored_tensors(model.graph):
            if uses_external_data(tensor):
                raise ModelError(
                    f"the data of '{tensor.name}' is not loaded: "
                    "give the model's path, or load its external data"
                )
        # The caller's object is never touched, whatever happens to the working copy.
        proto = onnx.ModelProto()
        proto.CopyFrom(model)
        data = proto.SerializeToString(deterministic=True) if proto.ByteSize() < PROTOBUF_LIMIT else b""
        return LoadedModel(proto, None, proto.ByteSize(), hashlib.sha256(data).hexdigest())
    path = Path(model)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read the model {path}: {error.strerror or error}") from error
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError as error:
        raise ModelError(
            f"{path} is not an ONNX file, or is truncated: protobuf cannot parse it; "
            "download or export it again"
        ) from error
    if not proto.graph.node and not proto.graph.output:
        raise ModelError(f"{path} is not an ONNX file: it holds no graph")
    digest = hashlib.sha256(data)
    outside = _read_external_data(proto, path, digest)
    return LoadedModel(proto, path, len(data) + outside, digest.hexdigest(), self_contained=not outside)


def _read_external_data(proto: onnx.ModelProto, path: Path, digest: hashlib._Hash) -> int:
    """Load every tensor that lies outside of the file; returns their size in bytes."""
    folder = path.parent.resolve()
    total = 0
    for tensor in _stored_tensors(proto.graph):
        if not uses_external_data(tensor):
            continue
        info = ExternalDataInfo(tensor)
        file = (folder / info.location).resolve()
        if not file.is_relative_to(folder):
            raise ModelError(
                f"{path}: external data of '{tensor.name}' points outside of the model's folder "
                f"({info.location}); this is refused, move the data beside the model"
            )
        if not file.is_file():
            raise ModelError(f"{path}: external data file {info.location} of '{tensor.name}' is missing")
        expected = _tensor_bytes(tensor)
        available = file.stat().st_size - (info.offset or 0)
        if expected > available or (info.length is not None and info.length != expected):
            raise ModelError(
                f"{path}: external data of '{tensor.name}' should have {expected} bytes, "
                f"{info.location} has {max(available, 0)} from offset {info.offset or 0}"
            )
        try:
            load_external_data_for_tensor(tensor, str(folder))
        except Exception as error:
            raise ModelError(f"{path}: external data of '{tensor.name}' cannot be read: {error}") from error
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]
        digest.update(tensor.raw_data)
        total += expected
    return total


def _tensor_bytes(tensor: onnx.TensorProto) -> int:
    count = 1
    for dim in tensor.dims:
        if dim < 0:
            raise ModelError(f"tensor '{tensor.name}' has a negative dimension: {list(tensor.dims)}")
        count *= dim
    try:
        bits = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize * 8
    except KeyError as error:
        raise ModelError(f"tensor '{tensor.name}' has the unknown data type {tensor.data_type}") from error
    if tensor.data_type in (onnx.TensorProto.INT4, onnx.TensorProto.UINT4):
        bits = 4
    return (count * bits + 7) // 8


def _stored_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Initializers and tensor attributes of a graph and of its subgraphs."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t
            elif attribute.type == onnx.AttributeProto.GRAPH:
                yield from _stored_tensors(attribute.g)
            elif attribute.type == onnx.AttributeProto.GRAPHS:
                for subgraph in attribute.graphs:
                    yield from _stored_tensors(subgraph)


def same_file(first: Path, second: Path) -> bool:
    """Whether two paths name one file, through symbolic and hard links."""
    try:
        return os.path.samefile(first, second)
    except OSError:
        return first.resolve() == second.resolve()


def check_output(source: Path | None, target: Path, *, clobber: bool) -> None:
    """Refuse an output path that cannot or must not be written, before any work is done.

    Raises:
        UsageError: the output is the input (also through links), or exists and may not be replaced.
        OutputError: the folder does not exist or is not writable.
    """
    if source is not None and same_file(source, target):
        raise UsageError(f"the output {target} is the input file; name another file")
    if target.exists() and not clobber:
        raise UsageError(f"{target} exists and --no-clobber was given; name another file")
    if target.is_dir():
        raise OutputError(f"{target} is a folder; name a file")
    folder = target.parent
    if not folder.is_dir():
        raise OutputError(f"cannot write {target}: the folder {folder} does not exist")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"cannot write {target}: no permission to write into {folder}")


@contextmanager
def atomic_write(target: Path) -> Iterator[Path]:
    """A temporary path beside ``target`` that replaces it when the block ends without an error."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
        os.close(handle)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror or error}") from error
    part = Path(name)
    try:
        yield part
        part.chmod(0o666 & ~_umask())
        os.replace(part, target)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def serialize(proto: onnx.ModelProto) -> bytes:
    """The bytes of a model; equal models give equal bytes."""
    return proto.SerializeToString(deterministic=True)


def save(proto: onnx.ModelProto, target: str | os.PathLike[str]) -> None:
    """Write a model atomically.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_write(Path(target)) as part, part.open("wb") as file:
        file.write(serialize(proto))
        file.flush()
        os.fsync(file.fileno())


def copy_file(source: Path, target: str | os.PathLike[str]) -> None:
    """Copy a file atomically.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_write(Path(target)) as part:
        shutil.copyfile(source, part)

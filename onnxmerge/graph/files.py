"""Reading model files.

Models are untrusted: external data must lie inside the model's folder, wherever in the model a tensor
is stored, and its size is checked before anything is read.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from google.protobuf.message import DecodeError, Message
from onnx.external_data_helper import uses_external_data

from onnxmerge import limits
from onnxmerge.errors import ModelError, UsageError
from onnxmerge.graph import external_weights, wire_format
from onnxmerge.graph.external_weights import Scratch
from onnxmerge.graph.output import measured, serialize

# Where a tensor starts in a file: what vector instructions like, and what a mapped array needs.
ALIGNMENT = 64


@dataclass(frozen=True)
class LoadedModel:
    """A model, and what is known of where it came from.

    Attributes:
        proto: the model; with all weights, or, unless it is small, with references to them.
        bytes: size on disk, external data included.
        self_contained: whether one file holds everything.
        scratch: where weights may be put; None for small models, which are in memory.
        beside: the files of its external data.
    """

    proto: onnx.ModelProto
    path: Path | None
    bytes: int
    sha256: str
    self_contained: bool = True
    scratch: Scratch | None = None
    beside: frozenset[Path] = frozenset()

    @property
    def large(self) -> bool:
        """Whether it does not fit into memory several times."""
        return self.bytes >= limits.LIMITS.large_model

    def whole(self) -> onnx.ModelProto:
        """The model with all of its weights."""
        if self.scratch is None:
            return self.proto
        model = onnx.ModelProto()
        model.CopyFrom(self.proto)
        read_references(model)
        return model

    def new_scratch(self) -> Scratch | None:
        """A new folder for weights that go to files, None where they do not; it must outlive their users."""
        return None if self.scratch is None else self.scratch.inner()


def load(model: str | os.PathLike[str] | onnx.ModelProto) -> LoadedModel:
    """Read a model with its external data; the weights of a large one are left where they are.

    Raises:
        ModelError: the file is missing, is no ONNX file, or its external data is missing,
            truncated or outside of the model's folder.
        UsageError: what is given is neither a path nor a model.
    """
    if isinstance(model, onnx.ModelProto):
        return _given(model)
    if not isinstance(model, str | os.PathLike):
        raise UsageError(
            f"a model is a path or an onnx.ModelProto, not {type(model).__name__} "
            "(onnx.load_from_string makes one of bytes)"
        )
    path = Path(model)
    places: dict[str, tuple[int, int]] = {}
    digest = hashlib.sha256()
    try:
        size = path.stat().st_size
        if not _in_files(size):
            data = path.read_bytes()
            digest.update(data)
            proto = onnx.ModelProto.FromString(data)
        else:
            proto, places = _read_skeleton(path)
            with path.open("rb") as file:
                for part in wire_format.chunks(file):
                    digest.update(part)
    except OSError as error:
        raise ModelError(f"cannot read the model {path}: {error.strerror or error}") from error
    except DecodeError as error:
        raise ModelError(
            f"{path} is not an ONNX file, or is truncated: protobuf cannot parse it; "
            "download or export it again"
        ) from error
    if not proto.graph.node and not proto.graph.output:
        raise ModelError(f"{path} is not an ONNX file: it holds no graph")
    # While no tensor of it is a reference yet: whatever the file says of other files is to be checked.
    outside = [_located(tensor, path) for tensor in _stored_tensors(proto) if uses_external_data(tensor)]
    total = size + sum(place.length for place in outside)
    scratch = Scratch() if _in_files(total) else None
    if scratch is not None:
        _copy_big(proto, places, path, scratch)
    big = {id(tensor) for tensor in proto.graph.initializer} if scratch is not None else set()
    for place in outside:
        _attach(place, path, digest, scratch if id(place.tensor) in big else None)
    _open_lengths(proto.graph)
    beside = frozenset(place.file for place in outside)
    return LoadedModel(proto, path, total, digest.hexdigest(), not outside, scratch, beside)


def _given(model: onnx.ModelProto) -> LoadedModel:
    """A model that is in memory; the caller's object is never touched, whatever happens to the copy."""
    for tensor in _stored_tensors(model):
        if uses_external_data(tensor) and not external_weights.is_reference(tensor):
            raise ModelError(
                f"the data of '{tensor.name}' is not loaded, and is not read from where the model says, for "
                "that could be any file: give the model's path, or load its external data "
                "(onnx.load does)"
            )
    weights = sum(tensor_bytes(tensor) for tensor in model.graph.initializer)
    self_contained, scratch = True, None
    if weights < limits.LIMITS.large_model:
        proto = onnx.ModelProto()
        proto.CopyFrom(model)
        read_references(proto)
        data = serialize(proto)
        size, digest = len(data), hashlib.sha256(data).hexdigest()
    else:
        self_contained, scratch = not external_weights.references(model), Scratch()
        proto = _referring(model, scratch)
        size, digest = measured(proto, external=False)
    if scratch is None and _in_files(weights):
        scratch = Scratch()
        proto = _referring(proto, scratch)
    _open_lengths(proto.graph)
    return LoadedModel(proto, None, size, digest, self_contained, scratch)


def _in_files(size: int) -> bool:
    return size >= min(limits.LIMITS.in_files, limits.LIMITS.large_model)


def _open_lengths(graph: onnx.GraphProto) -> None:
    """Leave lengths open that a file states as negative numbers, which is how some exporters write that."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.HasField("tensor_type"):
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_value < 0:
                    dim.ClearField("dim_value")
    for node in graph.node:
        for attribute in node.attribute:
            for subgraph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                _open_lengths(subgraph)


def _referring(model: onnx.ModelProto, scratch: Scratch) -> onnx.ModelProto:
    """A copy whose big initializers are references to files in ``scratch``, or to where they are already."""
    proto = wire_format.frame(model)
    read_references(proto)
    for tensor in model.graph.initializer:
        kept = proto.graph.initializer.add()
        if external_weights.is_reference(tensor) or not _stays_in_file(tensor):
            kept.CopyFrom(tensor)
        else:
            kept.CopyFrom(
                external_weights.tensor_of(tensor.name, scratch.store(onnx.numpy_helper.to_array(tensor)))
            )
    return proto


def read_references(proto: onnx.ModelProto) -> None:
    """Give the tensors of a model that are references their values."""
    for tensor in _stored_tensors(proto):
        if external_weights.is_reference(tensor):
            tensor.CopyFrom(onnx.numpy_helper.from_array(external_weights.values_of(tensor), tensor.name))


def _read_skeleton(path: Path) -> tuple[onnx.ModelProto, dict[str, tuple[int, int]]]:
    """A large file without its big initializers, and where those lie in it: (offset, length) by name."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return wire_format.skeleton(data, limits.LIMITS.mapped_tensor)


def _copy_big(
    proto: onnx.ModelProto, places: dict[str, tuple[int, int]], path: Path, scratch: Scratch
) -> None:
    """Copy the data that a skeleton lacks from its file to where it can be mapped."""
    target = scratch.new_file()
    try:
        file = path.open("rb")
    except OSError as error:
        raise ModelError(f"cannot read the model {path}: {error.strerror or error}") from error
    try:
        with file, target.open("wb") as copy:
            for tensor in proto.graph.initializer:
                if tensor.name not in places or uses_external_data(tensor):
                    continue
                offset, length = places[tensor.name]
                file.seek(offset)
                if not _stays_in_file(tensor) or tensor_bytes(tensor) != length:
                    tensor.raw_data = file.read(length)
                    continue
                start = -(-copy.tell() // ALIGNMENT) * ALIGNMENT
                copy.seek(start)
                copy.writelines(wire_format.chunks(file, length))
                external_weights.refer(tensor, str(target), start, length)
    except OSError as error:
        raise scratch.failure(error) from error


class _Place(NamedTuple):
    """Where the data of a tensor lies."""

    tensor: onnx.TensorProto
    file: Path
    offset: int
    length: int


def _located(tensor: onnx.TensorProto, path: Path) -> _Place:
    """The data of a tensor that lies outside of the model file, checked before anything is read."""
    location, offset, length = external_weights.location_of(tensor)
    folder = path.parent.resolve()
    try:
        file = (folder / location).resolve()
        beside = file.is_relative_to(folder) and not os.path.isabs(location)
        present = beside and file.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # a name that cannot be, or links in a circle
        raise ModelError(f"{path}: external data of '{tensor.name}' cannot be read: {error}") from error
    if not beside:
        raise ModelError(
            f"{path}: external data of '{tensor.name}' points outside of the model's folder "
            f"({location}); this is refused: move the data beside the model, and name it relative to it"
        )
    if not present:
        raise ModelError(f"{path}: external data file {location} of '{tensor.name}' is missing")
    expected = tensor_bytes(tensor)
    available = file.stat().st_size - offset
    if expected > available or (length is not None and length != expected):
        raise ModelError(
            f"{path}: external data of '{tensor.name}' should have {expected} bytes, "
            f"{location} has {max(available, 0)} from offset {offset}"
        )
    return _Place(tensor, file, offset, expected)


def _attach(place: _Place, path: Path, digest: hashlib._Hash, scratch: Scratch | None) -> None:
    """Give a tensor its data: a reference where it is big and may stay outside, else the bytes."""
    tensor = place.tensor
    try:
        with place.file.open("rb") as file:
            file.seek(place.offset)
            if scratch is None or place.length < limits.LIMITS.mapped_tensor or not _stays_in_file(tensor):
                tensor.raw_data = file.read(place.length)
                tensor.data_location = onnx.TensorProto.DEFAULT
                del tensor.external_data[:]
                digest.update(tensor.raw_data)
                return
            for part in wire_format.chunks(file, place.length):
                digest.update(part)
    except OSError as error:
        raise ModelError(f"{path}: external data of '{tensor.name}' cannot be read: {error}") from error
    external_weights.refer(tensor, str(place.file), place.offset, place.length)
    if place.offset % ALIGNMENT:
        values = external_weights.values_of(tensor)
        tensor.CopyFrom(external_weights.tensor_of(tensor.name, scratch.store(np.array(values))))


def _stays_in_file(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor is big, and of a type that numpy reads straight from a file."""
    if tensor_bytes(tensor) < limits.LIMITS.mapped_tensor or tensor.data_type == onnx.TensorProto.STRING:
        return False
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    return dtype.kind in "fiu" and onnx.helper.np_dtype_to_tensor_dtype(dtype) == tensor.data_type


def tensor_bytes(tensor: onnx.TensorProto) -> int:
    """The size of a tensor's data. Raises ModelError for sizes and types that there are not."""
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


def _stored_tensors(proto: onnx.ModelProto) -> list[onnx.TensorProto]:
    """Every tensor that is stored in a model, wherever: initializers, attributes, subgraphs, functions."""
    found: list[onnx.TensorProto] = []
    ahead: list[Message] = [proto]
    while ahead:
        message = ahead.pop()
        if isinstance(message, onnx.TensorProto):
            found.append(message)
            continue
        for field, value in message.ListFields():
            if field.message_type is not None and field.message_type.full_name in _HOLDERS:
                ahead += value if field.is_repeated else [value]
    return found[::-1]


def _holders() -> set[str]:
    """The messages of the ONNX format that are tensors, or can hold one at any depth."""
    messages = onnx.ModelProto.DESCRIPTOR.file.message_types_by_name.values()
    held = {m.full_name: {f.message_type.full_name for f in m.fields if f.message_type} for m in messages}
    holders = {onnx.TensorProto.DESCRIPTOR.full_name}
    while more := {name for name, parts in held.items() if parts & holders} - holders:
        holders |= more
    return holders


_HOLDERS = _holders()

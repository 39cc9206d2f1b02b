"""Reading model files.

Models are untrusted: external data must lie inside the model's folder and its size is checked
before anything is read.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_tensor, uses_external_data

from onnxmerge.errors import ModelError
from onnxmerge.graph import weights, wire
from onnxmerge.graph.output import measured, serialize
from onnxmerge.graph.weights import Scratch

# Where a tensor starts in a file: what vector instructions like, and what a mapped array needs.
ALIGNMENT = 64


@dataclass(frozen=True)
class LoadedModel:
    """A model, and what is known of where it came from.

    Attributes:
        proto: the model; with all weights, or, of a large model, with references to them.
        bytes: size on disk, external data included.
        self_contained: whether one file holds everything.
        scratch: where the weights of a large model may be put; None for the others, which are in memory.
    """

    proto: onnx.ModelProto
    path: Path | None
    bytes: int
    sha256: str
    self_contained: bool = True
    scratch: Scratch | None = None


def load(model: str | os.PathLike[str] | onnx.ModelProto) -> LoadedModel:
    """Read a model with its external data; the weights of a large one are left where they are.

    Raises:
        ModelError: the file is missing, is no ONNX file, or its external data is missing,
            truncated or outside of the model's folder.
    """
    if isinstance(model, onnx.ModelProto):
        return _given(model)
    path = Path(model)
    scratch = None
    digest = hashlib.sha256()
    try:
        size = path.stat().st_size
        if size < weights.LARGE:
            data = path.read_bytes()
            digest.update(data)
            proto = onnx.ModelProto.FromString(data)
        else:
            scratch = Scratch()
            proto = _read_skeleton(path, scratch)
            with path.open("rb") as file:
                for part in wire.chunks(file):
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
    outside = [_located(tensor, path) for tensor in _stored_tensors(proto.graph) if _is_outside(tensor)]
    total = size + sum(place.length for place in outside)
    if scratch is None and total >= weights.LARGE:
        scratch = Scratch()
    big = {id(tensor) for tensor in proto.graph.initializer} if scratch is not None else set()
    for place in outside:
        _attach(place, path, digest, scratch if id(place.tensor) in big else None)
    return LoadedModel(proto, path, total, digest.hexdigest(), not outside, scratch)


def _given(model: onnx.ModelProto) -> LoadedModel:
    """A model that is in memory; the caller's object is never touched, whatever happens to the copy."""
    for tensor in _stored_tensors(model.graph):
        if _is_outside(tensor):
            raise ModelError(
                f"the data of '{tensor.name}' is not loaded: give the model's path, load its external data, "
                "or make its locations absolute"
            )
    proto = onnx.ModelProto()
    if sum(tensor_bytes(tensor) for tensor in model.graph.initializer) < weights.LARGE:
        proto.CopyFrom(model)
        for tensor in weights.references(proto):
            tensor.CopyFrom(onnx.numpy_helper.from_array(weights.values_of(tensor), tensor.name))
        data = serialize(proto)
        return LoadedModel(proto, None, len(data), hashlib.sha256(data).hexdigest())
    scratch = Scratch()
    proto = wire.frame(model)
    for tensor in model.graph.initializer:
        kept = proto.graph.initializer.add()
        if weights.is_reference(tensor) or not _stays_in_file(tensor):
            kept.CopyFrom(tensor)
        else:
            kept.CopyFrom(weights.tensor_of(tensor.name, scratch.store(onnx.numpy_helper.to_array(tensor))))
    size, digest = measured(proto, external=False)
    return LoadedModel(proto, None, size, digest, not weights.references(model), scratch)


def _read_skeleton(path: Path, scratch: Scratch) -> onnx.ModelProto:
    """A large file without its big initializers, whose data is copied to where it can be mapped."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        proto, places = wire.skeleton(data, weights.MAPPED)
        target = scratch.new_file()
        with target.open("wb") as copy:
            for tensor in proto.graph.initializer:
                if tensor.name not in places:
                    continue
                offset, length = places[tensor.name]
                file.seek(offset)
                if not _stays_in_file(tensor) or tensor_bytes(tensor) != length:
                    tensor.raw_data = file.read(length)
                    continue
                start = -(-copy.tell() // ALIGNMENT) * ALIGNMENT
                copy.seek(start)
                try:
                    copy.writelines(wire.chunks(file, length))
                except OSError as error:
                    raise scratch.failure(error) from error
                weights.refer(tensor, str(target), start, length)
    return proto


class _Place(NamedTuple):
    """Where the data of a tensor lies."""

    tensor: onnx.TensorProto
    file: Path
    offset: int
    length: int


def _is_outside(tensor: onnx.TensorProto) -> bool:
    return uses_external_data(tensor) and not weights.is_reference(tensor)


def _located(tensor: onnx.TensorProto, path: Path) -> _Place:
    """The data of a tensor that lies outside of the model file, checked before anything is read."""
    folder = path.parent.resolve()
    info = ExternalDataInfo(tensor)
    file = (folder / info.location).resolve()
    if not file.is_relative_to(folder):
        raise ModelError(
            f"{path}: external data of '{tensor.name}' points outside of the model's folder "
            f"({info.location}); this is refused, move the data beside the model"
        )
    if not file.is_file():
        raise ModelError(f"{path}: external data file {info.location} of '{tensor.name}' is missing")
    expected = tensor_bytes(tensor)
    available = file.stat().st_size - (info.offset or 0)
    if expected > available or (info.length is not None and info.length != expected):
        raise ModelError(
            f"{path}: external data of '{tensor.name}' should have {expected} bytes, "
            f"{info.location} has {max(available, 0)} from offset {info.offset or 0}"
        )
    return _Place(tensor, file, info.offset or 0, expected)


def _attach(place: _Place, path: Path, digest: hashlib._Hash, scratch: Scratch | None) -> None:
    """Give a tensor its data: a reference where it is big and may stay outside, else the bytes."""
    tensor = place.tensor
    if scratch is None or place.length < weights.MAPPED or not _stays_in_file(tensor):
        try:
            load_external_data_for_tensor(tensor, str(path.parent.resolve()))
        except Exception as error:
            raise ModelError(f"{path}: external data of '{tensor.name}' cannot be read: {error}") from error
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]
        digest.update(tensor.raw_data)
        return
    with place.file.open("rb") as file:
        file.seek(place.offset)
        for part in wire.chunks(file, place.length):
            digest.update(part)
    weights.refer(tensor, str(place.file), place.offset, place.length)
    if place.offset % ALIGNMENT:
        values = weights.values_of(tensor)
        tensor.CopyFrom(weights.tensor_of(tensor.name, scratch.store(np.array(values))))


def _stays_in_file(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor is big, and of a type that numpy reads straight from a file."""
    if tensor_bytes(tensor) < weights.MAPPED or tensor.data_type == onnx.TensorProto.STRING:
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

"""The protobuf wire format of a model file, as far as it takes to read and write one around its weights.

A model is one message of at most 2 GB. Its big initializers are stepped over when it is read, and copied
through when it is written, so that no more than its skeleton is ever in memory. Only the fields that are
opened are known here: ModelProto.graph, GraphProto.initializer, TensorProto.raw_data (onnx.proto3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from mmap import mmap
from typing import IO, NamedTuple

import onnx
from google.protobuf.message import DecodeError

# The bytes of a file, in memory or mapped.
Buffer = bytes | mmap
_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5
_CHUNK = 1 << 24


class Span(NamedTuple):
    """A field within a file: number and wire type, where it starts, where its content lies."""

    number: int
    wire: int
    start: int
    content: int
    end: int


def skeleton(data: Buffer, least: int) -> tuple[onnx.ModelProto, dict[str, tuple[int, int]]]:
    """A model without the raw data of its big initializers.

    Args:
        data: the bytes of the file (anything that is indexed like bytes, such as a mapping).
        least: raw data of fewer bytes stay.

    Returns:
        The model, and where the data that were left out lie: (offset, length) by initializer.

    Raises:
        DecodeError: not a protobuf message of this form.
    """
    places: dict[str, tuple[int, int]] = {}

    def tensor(start: int, end: int) -> bytes:
        spans = list(_fields(data, start, end))
        raw = [s for s in spans if s.number == _RAW_DATA and s.wire == _LENGTH]
        if len(raw) != 1 or raw[0].end - raw[0].content < least:
            return bytes(data[start:end])
        rest = b"".join(bytes(data[s.start : s.end]) for s in spans if s.number != _RAW_DATA)
        places[onnx.TensorProto.FromString(rest).name] = (raw[0].content, raw[0].end - raw[0].content)
        return rest

    def graph(start: int, end: int) -> bytes:
        return _rebuilt(data, start, end, _INITIALIZER, tensor)

    return onnx.ModelProto.FromString(_rebuilt(data, 0, len(data), _GRAPH, graph)), places


def _rebuilt(data: Buffer, start: int, end: int, number: int, make: Callable[[int, int], bytes]) -> bytes:
    """A message with the content of one of its fields made anew."""
    parts = []
    for span in _fields(data, start, end):
        if span.number == number and span.wire == _LENGTH:
            content = make(span.content, span.end)
            parts += [_head(number, len(content)), content]
        else:
            parts.append(bytes(data[span.start : span.end]))
    return b"".join(parts)


def _fields(data: Buffer, start: int, end: int) -> Iterator[Span]:
    place = start
    while place < end:
        begin = place
        tag, place = _varint(data, place, end)
        number, wire = tag >> 3, tag & 7
        content = place
        if wire == _VARINT:
            _, place = _varint(data, place, end)
        elif wire == _LENGTH:
            length, content = _varint(data, place, end)
            place = content + length
        elif wire in (_EIGHT_BYTES, _FOUR_BYTES):
            place += 8 if wire == _EIGHT_BYTES else 4
        else:
            raise DecodeError(f"wire type {wire}")
        if place > end or number == 0:
            raise DecodeError("truncated message")
        yield Span(number, wire, begin, content, place)


def _varint(data: Buffer, place: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while place < end and shift < 70:
        byte = int(data[place])
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
    raise DecodeError("truncated number")


def _head(number: int, length: int) -> bytes:
    """The tag and the length of a field of bytes."""
    tag, found = number << 3 | _LENGTH, bytearray()
    for value in (tag, length):
        while value >= 0x80:
            found.append(value & 0x7F | 0x80)
            value >>= 7
        found.append(value)
    return bytes(found)


def pieces(proto: onnx.ModelProto, big: dict[str, memoryview]) -> Iterable[bytes | memoryview]:
    """The bytes of a model, in order, with the raw data of some initializers from elsewhere.

    Args:
        proto: the model; initializers that are named in ``big`` have no data of their own.
        big: their bytes.
    """
    model = frame(proto)
    content: list[bytes | memoryview] = [model.graph.SerializeToString(deterministic=True)]
    model.ClearField("graph")
    for tensor in proto.graph.initializer:
        data = big.get(tensor.name)
        tail: list[bytes | memoryview] = []
        if data is None:
            stored = tensor.SerializeToString(deterministic=True)
        else:
            own = onnx.TensorProto()
            own.CopyFrom(tensor)
            own.ClearField("external_data")
            own.ClearField("data_location")
            stored = own.SerializeToString(deterministic=True)
            tail = [_head(_RAW_DATA, len(data)), data]
        content += [_head(_INITIALIZER, len(stored) + sum(map(len, tail))), stored, *tail]
    yield model.SerializeToString(deterministic=True)
    yield _head(_GRAPH, sum(map(len, content)))
    yield from content


def frame(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model without its initializers."""
    model = onnx.ModelProto()
    for source, target, without in ((proto, model, "graph"), (proto.graph, model.graph, "initializer")):
        for field, value in source.ListFields():
            if field.name == without:
                continue
            if field.is_repeated:
                getattr(target, field.name).extend(value)
            else:
                setattr(target, field.name, value)
    return model


def chunks(file: IO[bytes], length: int | None = None) -> Iterator[bytes]:
    """The next ``length`` bytes of a file (or all that are left) in parts."""
    left = length
    while left is None or left > 0:
        part = file.read(_CHUNK if left is None else min(_CHUNK, left))
        if not part:
            return
        left = None if left is None else left - len(part)
        yield part

"""Models as bytes, and bytes that add nodes and outputs to them. Does not import onnxruntime.

Two serialized protobuf messages that stand one after the other parse as their merge: so intermediate
tensors can be made outputs without copying or touching the model.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import helper

from onnxmerge.errors import ModelError
from onnxmerge.graph import external_weights
from onnxmerge.operators.values import makes_no_tensor

Model = onnx.ModelProto | bytes | str | os.PathLike[str]


@dataclass(frozen=True, eq=False)
class Source:
    """What a session is loaded from.

    Attributes:
        model: bytes, or a path.
        folder: where external data of bytes lies; None: they hold everything.
        mapped: values of initializers that are used where they are, by name.
    """

    model: bytes | str | os.PathLike[str]
    folder: str | None = None
    mapped: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def bytes_mapped(self) -> int:
        """The bytes of the initializers that are used where they are."""
        return sum(values.nbytes for values in self.mapped.values())

    def __add__(self, patch: bytes) -> Source:
        """The model with further nodes and outputs; of bytes only."""
        assert isinstance(self.model, bytes)
        return replace(self, model=self.model + patch)


def source_of(model: Model, *, in_place: bool = True) -> Source:
    """What to load for a model. Raises ModelError above protobuf's limit of 2 GB.

    Args:
        in_place: whether weights that lie in files are used there; else the session reads its own copy.
    """
    if not isinstance(model, onnx.ModelProto):
        return Source(model)
    references = external_weights.references(model)
    if not references:
        return Source(serialized(model))
    # onnxruntime reads no absolute paths: they become relative to a folder that holds all of the files.
    folder = external_weights.common_folder(references)
    relative = onnx.ModelProto()
    relative.CopyFrom(model)
    for tensor in external_weights.references(relative):
        path, offset, length = external_weights.location_of(tensor)
        external_weights.locate(tensor, os.path.relpath(path, folder), offset, length or 0)
    mapped = {t.name: external_weights.values_of(t) for t in references if in_place}
    return Source(serialized(relative), folder, mapped)


def serialized(proto: onnx.ModelProto) -> bytes:
    """The bytes of a proto. Raises ModelError above protobuf's limit of 2 GB."""
    try:
        return proto.SerializeToString()
    except (EncodeError, ValueError) as failure:
        raise ModelError("a model above 2 GB cannot be run from memory: give its path") from failure


def opened(model: Model) -> tuple[onnx.ModelProto, Source]:
    """The proto, and what a session of it is loaded from: bytes, which can be added to.

    Raises:
        ModelError: it is not an ONNX model or cannot be read.
    """
    if isinstance(model, onnx.ModelProto):
        return model, source_of(model)
    folder = None
    try:
        if not isinstance(model, bytes):
            folder, model = os.path.dirname(os.path.abspath(model)), Path(model).read_bytes()
        return onnx.ModelProto.FromString(model), Source(model, folder)
    except (DecodeError, OSError) as failure:
        raise ModelError(f"not a readable ONNX model: {failure}") from failure


def patch(proto: onnx.ModelProto, nodes: list[onnx.NodeProto], outputs: Sequence[str]) -> bytes:
    """Bytes that add nodes and outputs when appended to the bytes of ``proto``."""
    extra = onnx.ModelProto()
    extra.graph.node.extend(nodes)
    extra.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    if nodes and not any(o.domain in ("", "ai.onnx") for o in proto.opset_import):
        extra.opset_import.append(helper.make_opsetid("", 13))
    return extra.SerializeToString()


def tensors(graph: onnx.GraphProto) -> list[str]:
    """The node outputs of the main graph that are not known to be sequences, maps or optionals."""
    typed = {v.name: v.type.WhichOneof("value") for v in (*graph.value_info, *graph.output)}
    other = ("tensor_type", "sparse_tensor_type", None)
    return [
        name
        for node in graph.node
        for name in node.output
        if name and not makes_no_tensor(node) and typed.get(name) in other
    ]

"""What a model does with an input: what its values must be for the model to run sensibly.

Each input is followed through operators that only move values (Reshape, Cast, Slice, ...) to the places
where the value matters: the indices of a Gather, the initial state of a recurrent layer, the condition
of a Where, a shape operand. Names decide where the graph says nothing.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx

from onnxmerge.runtime.tensor_info import TensorInfo

# Operators whose first output has the values of their first input, only elsewhere or of another type.
_MOVES = frozenset(
    (
        *("Cast", "CastLike", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity"),
        *("Pad", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
    )
)
_INDEXED = frozenset(("Gather", "GatherElements", "GatherND", "ScatterElements", "ScatterND"))
_RECURRENT = frozenset(("LSTM", "GRU", "RNN"))
# Slots of operands that give sizes: a zero there makes empty tensors.
_SIZES = frozenset(
    (("Reshape", 1), ("Expand", 1), ("Tile", 1), ("Resize", 3), ("ConstantOfShape", 0), ("TopK", 1))
)
_CONDITIONS = frozenset((("Where", 0), ("If", 0), ("Not", 0), ("And", 0), ("And", 1), ("Or", 0), ("Or", 1)))

_STATE_NAME = re.compile(r"(^|_)([hc]_?(0|in|prev|x|n)|state|past|cache|rnn)(_|\d|$)")
_LENGTH_NAME = re.compile(r"(^|_)(seq_?)?(lengths?|lens?)(_|\d|$)")


@dataclass(frozen=True)
class Index:
    """The input ends in the indices of a Gather: values + `offset` select along `axis` of `data`.

    `axis` None stands for any axis (GatherND, ScatterND).
    """

    data: str
    axis: int | None
    offset: int


@dataclass(frozen=True)
class Role:
    """How an input is used: `ones` for masks and sizes, `zeros` for recurrent state, `indices` for the
    tensors that it selects from, `sequence` for the tensor whose axis 0 it measures (sequence_lens of a
    recurrent layer), `length` for lengths by name only."""

    ones: bool = False
    zeros: bool = False
    indices: tuple[Index, ...] = ()
    sequence: str | None = None
    length: bool = False


def roles(model: onnx.ModelProto, inputs: Iterable[TensorInfo]) -> dict[str, Role]:
    """The role of each input. Never raises for a strange graph: what is not understood has no role."""
    consumers: dict[str, list[tuple[onnx.NodeProto, int]]] = defaultdict(list)
    for node in _nodes(model.graph):
        for slot, name in enumerate(node.input):
            if name:
                consumers[name].append((node, slot))
    constants = {i.name: i for i in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            constants.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
    listed = list(inputs)
    found = {i.name: _role(i, _follow(i.name, consumers, constants)) for i in listed}
    if all(role.zeros for role in found.values()):
        # The only input of a policy is often called 'state', and it is no recurrent one.
        found = {i.name: _role(i, _follow(i.name, consumers, constants), named=False) for i in listed}
    return found


def _role(info: TensorInfo, uses: list[tuple[str, int, Index | str | None]], named: bool = True) -> Role:
    name = re.sub(r"[^a-z0-9]+", "_", info.name.lower())
    whole = info.dtype is not None and info.dtype.kind in "iu"
    slots = {(op, slot) for op, slot, _ in uses}
    if (info.dtype is not None and info.dtype.kind == "b") or "mask" in name or slots & _CONDITIONS:
        return Role(ones=True)
    if any(op in _RECURRENT and slot in (5, 6) for op, slot in slots) or (named and _STATE_NAME.search(name)):
        return Role(zeros=True)
    measured = [str(detail) for op, slot, detail in uses if op in _RECURRENT and slot == 4]
    indices = tuple(detail for _, _, detail in uses if isinstance(detail, Index))
    if measured:
        return Role(sequence=measured[0])
    if indices:
        return Role(indices=indices)
    if whole and _LENGTH_NAME.search(name):
        return Role(length=True)
    return Role(ones=whole and bool(slots & _SIZES))


def _follow(
    name: str,
    consumers: dict[str, list[tuple[onnx.NodeProto, int]]],
    constants: dict[str, onnx.TensorProto],
) -> list[tuple[str, int, Index | str | None]]:
    """(operator, slot, detail) of every use of the values of `name`."""
    uses: list[tuple[str, int, Index | str | None]] = []
    seen: set[tuple[str, int]] = set()
    pending = [(name, 0)]
    while pending:
        tensor, offset = pending.pop()
        if (tensor, offset) in seen or len(seen) > 1000:
            continue
        seen.add((tensor, offset))
        for node, slot in consumers[tensor]:
            op = node.op_type
            detail: Index | str | None = None
            if op in _INDEXED and slot == 1:
                axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
                detail = Index(node.input[0], None if op.endswith("ND") else axis, offset)
            elif op in _RECURRENT:
                detail = node.input[0]
            uses.append((op, slot, detail))
            if op == "Concat" or (op in _MOVES and slot == 0):
                pending.extend((out, offset) for out in node.output if out)
            elif op == "Add" and len(node.input) == 2 and node.input[1 - slot] in constants:
                added = _largest(constants[node.input[1 - slot]])
                if added is not None:
                    pending.append((node.output[0], offset + added))
    return uses


def _largest(tensor: onnx.TensorProto) -> int | None:
    """The largest value of a small integer constant, None for other tensors."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL or np.prod(tensor.dims) > 1 << 16:
        return None
    values = onnx.numpy_helper.to_array(tensor)
    return int(values.max()) if values.dtype.kind in "iu" and values.size else None


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)
            for inner in attribute.graphs:
                yield from _nodes(inner)

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

from onnxmerge.graph.constants import stored_tensors
from onnxmerge.operators.pointwise import is_add
from onnxmerge.operators.values import Operand, indexed_axis, moves, operand
from onnxmerge.runtime.tensor_info import TensorInfo

_STATE_NAME = re.compile(r"(^|_)([hc]_?(0|in|prev|x|n)|state|past|cache|rnn)(_|\d|$)")
_LENGTH_NAME = re.compile(r"(^|_)(seq_?)?(lengths?|lens?)(_|\d|$)")


@dataclass(frozen=True)
class Index:
    """The input ends in the indices of a Gather: values + ``offset`` select along ``axis`` of ``data``.

    ``axis`` None stands for any axis (GatherND, ScatterND).
    """

    data: str
    axis: int | None
    offset: int


@dataclass(frozen=True)
class Role:
    """How an input is used: ``ones`` for masks and sizes, ``zeros`` for recurrent state, ``indices`` for the
    tensors that it selects from, ``sequence`` for the tensor whose axis 0 it measures (sequence_lens of a
    recurrent layer), ``length`` for lengths by name only."""

    ones: bool = False
    zeros: bool = False
    indices: tuple[Index, ...] = ()
    sequence: str | None = None
    length: bool = False


# What the values of an input mean to a node, and the indexed axis or the node's data.
_Use = tuple[Operand, Index | str]


def roles(model: onnx.ModelProto, inputs: Iterable[TensorInfo]) -> dict[str, Role]:
    """The role of each input. Never raises for a strange graph: what is not understood has no role."""
    consumers: dict[str, list[tuple[onnx.NodeProto, int]]] = defaultdict(list)
    for node in _nodes(model.graph):
        for slot, name in enumerate(node.input):
            if name:
                consumers[name].append((node, slot))
    constants = stored_tensors(model.graph)
    listed = list(inputs)
    found = {i.name: _role(i, _follow(i.name, consumers, constants)) for i in listed}
    if all(role.zeros for role in found.values()):
        # The only input of a policy is often called 'state', and it is no recurrent one.
        found = {i.name: _role(i, _follow(i.name, consumers, constants), named=False) for i in listed}
    return found


def _role(info: TensorInfo, uses: list[_Use], named: bool = True) -> Role:
    name = re.sub(r"[^a-z0-9]+", "_", info.name.lower())
    whole = info.dtype is not None and info.dtype.kind in "iu"
    kinds = {kind for kind, _ in uses}
    if (info.dtype is not None and info.dtype.kind == "b") or "mask" in name or Operand.CONDITION in kinds:
        return Role(ones=True)
    if Operand.INITIAL_STATE in kinds or (named and _STATE_NAME.search(name)):
        return Role(zeros=True)
    measured = [str(detail) for kind, detail in uses if kind is Operand.SEQUENCE_LENGTHS]
    indices = tuple(detail for _, detail in uses if isinstance(detail, Index))
    if measured:
        return Role(sequence=measured[0])
    if indices:
        return Role(indices=indices)
    if whole and _LENGTH_NAME.search(name):
        return Role(length=True)
    return Role(ones=whole and Operand.SIZES in kinds)


def _follow(
    name: str,
    consumers: dict[str, list[tuple[onnx.NodeProto, int]]],
    constants: dict[str, onnx.TensorProto],
) -> list[_Use]:
    """Every use of the values of ``name`` that says what they mean, with what it says more."""
    uses: list[_Use] = []
    seen: set[tuple[str, int]] = set()
    pending = [(name, 0)]
    while pending:
        tensor, offset = pending.pop()
        if (tensor, offset) in seen or len(seen) > 1000:
            continue
        seen.add((tensor, offset))
        for node, slot in consumers[tensor]:
            kind = operand(node, slot)
            if kind is Operand.INDICES:
                uses.append((kind, Index(node.input[0], indexed_axis(node), offset)))
            elif kind is not None:
                uses.append((kind, node.input[0]))
            if moves(node, slot):
                pending.extend((out, offset) for out in node.output if out)
            elif is_add(node) and len(node.input) == 2 and node.input[1 - slot] in constants:
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

"""What comes of a model's outputs: the operators that turn scores into answers, found in the graph."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx
from onnx import TensorProto

from onnxmerge.graph.canonicalize.inference import infer

FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)

NORMALISING = ("Softmax", "LogSoftmax", "Sigmoid")
# Operators that decide, and the input that they decide on.
_DECIDING = {"ArgMax": 0, "TopK": 0, "Hardmax": 0, "NonMaxSuppression": 1}
_COMPARING = ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")
# Operators that hand scores on as they are, in the same order along every axis.
_PASSES = ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Dropout")
_RESHAPING = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
# Operators that choose among results, and make no others of them.
_CHOOSING = ("Slice", "Split", "Gather", "GatherElements", "GatherND", "Concat", "ReduceMax")

# For every axis of a tensor the axis of the output that it is; None where the rank is unknown.
Origin = tuple[int | None, ...] | None


@dataclass(frozen=True)
class Use:
    """What an output is, or what is made of it.

    Attributes:
        op: ``Softmax``, ``LogSoftmax``, ``Sigmoid``, ``ArgMax``, ``TopK``, ``Hardmax`` or
            ``NonMaxSuppression``.
        name: of the result: an output of the model where it is one.
        axis: the axis of the output along which scores compete; None where there is no single one.
        own: whether the output is this operator's result; else it leads to it.
    """

    op: str
    name: str
    axis: int | None
    own: bool


class Scores:
    """The paths of scores through a model."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self._opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1)
        self.makers = {name: node for node in graph.node for name in node.output if name}
        self._users: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
        for node in graph.node:
            for slot, name in enumerate(node.input):
                self._users.setdefault(name, []).append((node, slot))
        self._outputs = {output.name for output in graph.output}
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant":
                self.constants.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
        self._shapes = dict(infer(model).shapes)
        for output in graph.output:
            shape = declared_shape(output)
            if shape is not None:
                self._shapes.setdefault(output.name, shape)

    def use_of(self, output: str) -> Use | None:
        """What an output is or leads to; None where its numbers are all there is to it."""
        shape = self._shapes.get(output)
        origin: Origin = None if shape is None else tuple(range(len(shape)))
        same = [(output, origin)]
        while (node := self.makers.get(same[-1][0])) is not None:
            name, origin = same[-1]
            if node.op_type in NORMALISING:
                return Use(node.op_type, name, self._axis(node, name, origin), own=True)
            slot = self._passed(node)
            if slot is None:
                break
            same.append((node.input[slot], self._followed(node, slot, origin, back=True)))
        ahead, seen = deque(same), {name for name, _ in same}
        while ahead:
            name, origin = ahead.popleft()
            for node, slot in self._users.get(name, ()):
                if slot == _DECIDING.get(node.op_type) or (
                    slot == 0 and node.op_type in NORMALISING and self._is_answer(node.output[0])
                ):
                    return Use(node.op_type, node.output[0], self._axis(node, name, origin), own=False)
                if slot == self._passed(node) and node.output[0] not in seen:
                    seen.add(node.output[0])
                    ahead.append((node.output[0], self._followed(node, slot, origin, back=False)))
        return None

    def behind(self, name: str) -> onnx.NodeProto | None:
        """The node that makes a tensor, or that makes what is only passed on to it."""
        while (node := self.makers.get(name)) is not None and (slot := self._passed(node)) is not None:
            name = node.input[slot]
        return node

    def stored_shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of a stored tensor, or of one that a DequantizeLinear makes of one; None for others."""
        node = self.makers.get(name)
        if name not in self.constants and node is not None and node.op_type == "DequantizeLinear":
            name = node.input[0]
        return tuple(self.constants[name].dims) if name in self.constants else None

    def _is_answer(self, name: str) -> bool:
        """Whether a result is an output or decides something, and is not only computed with (attention)."""
        ahead, seen = [name], {name}
        while ahead:
            name = ahead.pop()
            if name in self._outputs:
                return True
            for node, slot in self._users.get(name, ()):
                if slot == _DECIDING.get(node.op_type) or node.op_type in _COMPARING:
                    return True
                if slot == self._passed(node) or node.op_type in _CHOOSING:
                    fresh = [y for y in node.output if y and y not in seen]
                    seen.update(fresh)
                    ahead += fresh
        return False

    def _passed(self, node: onnx.NodeProto) -> int | None:
        """The input that a node hands on as it is, or scaled and shifted (a temperature); None for others."""
        if node.op_type in _PASSES:
            return 0
        if node.op_type == "Cast":
            return 0 if any(a.name == "to" and a.i in FLOATS for a in node.attribute) else None
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            return 0 if self._scalar(node.input[1]) is not None else None
        if node.op_type not in ("Mul", "Div", "Add", "Sub") or len(node.input) != 2:
            return None
        for slot in (0, 1) if node.op_type in ("Mul", "Add") else (0,):
            scalar = self._scalar(node.input[1 - slot])
            if scalar is not None and (scalar > 0 or node.op_type in ("Add", "Sub")):
                return slot
        return None

    def _scalar(self, name: str) -> float | None:
        tensor = self.constants.get(name)
        if tensor is None or prod(tensor.dims) != 1 or tensor.data_location == TensorProto.EXTERNAL:
            return None
        return float(np.asarray(onnx.numpy_helper.to_array(tensor), dtype=np.float64).reshape(()))

    def _axis(self, node: onnx.NodeProto, name: str, origin: Origin) -> int | None:
        """The axis of the output along which a node decides or normalises the tensor ``name``."""
        if node.op_type in ("Sigmoid", "NonMaxSuppression"):
            return None
        joint = node.op_type in (*NORMALISING, "Hardmax") and self._opset < 13
        usual = {"ArgMax": 0, "TopK": -1}.get(node.op_type, 1 if joint else -1)
        axis = next((a.i for a in node.attribute if a.name == "axis"), usual)
        if origin is None:
            return -1 if axis == -1 or joint else None
        shape = self._shapes.get(name) or [None] * len(origin)
        if not -len(origin) <= axis < len(origin):
            return None
        axis %= len(origin)
        # Up to opset 12 all axes from this one on were one.
        return None if joint and any(length != 1 for length in shape[axis + 1 :]) else origin[axis]

    def _followed(self, node: onnx.NodeProto, slot: int, origin: Origin, *, back: bool) -> Origin:
        """The origin of the axes on the other side of a node that passes scores on."""
        ends = [self._shapes.get(node.input[slot]), self._shapes.get(node.output[0])]
        if ends[0] is None or ends[1] is None or origin is None:
            return None
        there: list[int | None] = [None] * len(ends[0] if back else ends[1])
        for x, y in _pairs(node, ends[0], ends[1]):
            here, other = (y, x) if back else (x, y)
            there[other] = origin[here]
        return tuple(there)


def _pairs(
    node: onnx.NodeProto, x: Sequence[int | None], y: Sequence[int | None]
) -> Iterator[tuple[int, int]]:
    """Which axis of a node's input is which of its output."""
    if node.op_type == "Transpose":
        perm = next((list(a.ints) for a in node.attribute if a.name == "perm"), list(range(len(x)))[::-1])
        yield from ((source, target) for target, source in enumerate(perm))
    elif node.op_type in _RESHAPING:
        for i, length in enumerate(x):
            for j, other in enumerate(y):
                if length not in (None, 1) and length == other:
                    behind, before = (_product(x[i + 1 :]), _product(y[j + 1 :])), list(x[:i]) == list(y[:j])
                    if (behind[0] == behind[1] and None not in behind) or before:
                        yield i, j
    elif len(x) == len(y):
        yield from ((i, i) for i in range(len(x)))


def _product(lengths: Sequence[int | None]) -> int | None:
    return None if None in lengths else prod(n or 0 for n in lengths)


def declared_shape(value: onnx.ValueInfoProto) -> list[int | None] | None:
    """The shape that a model states of an input or output, None for open lengths; None without a shape."""
    if not value.type.tensor_type.HasField("shape"):
        return None
    return [d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim]

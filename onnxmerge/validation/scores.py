"""What comes of a model's outputs: the operators that turn scores into answers, found in the graph."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx
from onnx import TensorProto

from onnxmerge.graph.canonicalize.inference import infer
from onnxmerge.graph.constants import stored_tensors
from onnxmerge.operators.values import (
    axis_pairs,
    chooses,
    compares,
    competing_axis,
    convolves,
    decided_on,
    is_logistic,
    is_unit_length,
    joined_axis,
    judges_alone,
    keeps_channels,
    normalises,
    passed_on,
    quantised_from,
    suppression,
)

FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)

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
        alone: whether every score counts by itself; else they compete.
        logistic: whether every score becomes a probability of its own.
    """

    op: str
    name: str
    axis: int | None
    own: bool
    alone: bool = False
    logistic: bool = False


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
        self.constants = stored_tensors(graph)
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
            if normalises(node):
                return self._use(node, name, origin, own=True)
            slot = self._passed(node)
            if slot is None:
                break
            same.append((node.input[slot], self._followed(node, slot, origin, back=True)))
        ahead, seen = deque(same), {name for name, _ in same}
        while ahead:
            name, origin = ahead.popleft()
            for node, slot in self._users.get(name, ()):
                if slot == decided_on(node) or (
                    slot == 0 and normalises(node) and self._is_answer(node.output[0])
                ):
                    return self._use(node, name, origin, own=False)
                if slot == self._passed(node) and node.output[0] not in seen:
                    seen.add(node.output[0])
                    ahead.append((node.output[0], self._followed(node, slot, origin, back=False)))
        return None

    def _use(self, node: onnx.NodeProto, name: str, origin: Origin, *, own: bool) -> Use:
        """A node as the use of scores that reach it, or leave it, as the tensor ``name``."""
        axis = self._axis(node, name, origin)
        return Use(node.op_type, node.output[0], axis, own, judges_alone(node), is_logistic(node))

    def behind(self, name: str) -> onnx.NodeProto | None:
        """The node that makes a tensor, or that makes what is only passed on to it."""
        while (node := self.makers.get(name)) is not None and (slot := self._passed(node)) is not None:
            name = node.input[slot]
        return node

    def ends_in_unit_length(self, name: str) -> bool:
        """Whether vectors are brought to length 1, and nothing happens to them any more."""
        node = self.behind(name)
        return node is not None and is_unit_length(node, self.makers.get)

    def ends_in_convolution(self, name: str) -> bool:
        """Whether a map is what a convolution gives, at this size or at another."""
        node = self.behind(name)
        while node is not None and keeps_channels(node):
            node = self.behind(node.input[0])
        return node is not None and convolves(node)

    def parts(self, name: str, length: int) -> list[tuple[int, bool]] | None:
        """What the columns of an output are put together from: their numbers, and whether normalised.

        Looked for behind what passes values on, and in the first of several that rows were put together from.

        Args:
            length: the number of the columns.
        """
        for _ in range(8):
            node = self.behind(name)
            if node is None:
                return None
            axis = joined_axis(node)
            if axis is None:
                if not normalises(node):
                    return None
                name = node.input[0]
                continue
            shapes = [self._shapes.get(x) for x in node.input]
            lengths = [s[axis] if s is not None and -len(s) <= axis < len(s) else None for s in shapes]
            if None not in lengths and sum(n or 0 for n in lengths) == length:
                makers = [self.behind(x) for x in node.input]
                return [
                    (n or 0, made is not None and normalises(made))
                    for n, made in zip(lengths, makers, strict=True)
                ]
            name = node.input[0]
        return None

    def suppresses(self, name: str) -> bool:
        """Whether boxes that overlap were suppressed on the way to an output."""
        ahead, seen = [name], {name}
        while ahead:
            node = self.makers.get(ahead.pop())
            if node is None:
                continue
            if suppression(node) is not None:
                return True
            fresh = [x for x in node.input if x and x not in seen]
            seen.update(fresh)
            ahead += fresh
        return False

    def thresholds(self) -> tuple[float | None, float | None]:
        """The overlap and the score that the model itself suppresses boxes by; None where none is stored."""
        for node in self.makers.values():
            found = suppression(node)
            if found is not None:
                overlap, score = (self._scalar(name) for name in found)
                return overlap, score
        return None, None

    def stored_shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of a stored tensor, or of one that a DequantizeLinear makes of one; None for others."""
        node = self.makers.get(name)
        if name not in self.constants and node is not None:
            name = quantised_from(node) or name
        return tuple(self.constants[name].dims) if name in self.constants else None

    def _is_answer(self, name: str) -> bool:
        """Whether a result is an output or decides something, and is not only computed with (attention)."""
        ahead, seen = [name], {name}
        while ahead:
            name = ahead.pop()
            if name in self._outputs:
                return True
            for node, slot in self._users.get(name, ()):
                if slot == decided_on(node) or compares(node):
                    return True
                if slot == self._passed(node) or chooses(node):
                    fresh = [y for y in node.output if y and y not in seen]
                    seen.update(fresh)
                    ahead += fresh
        return False

    def _passed(self, node: onnx.NodeProto) -> int | None:
        """The input that a node hands on as it is, or scaled and shifted; None for others."""
        return passed_on(node, self._scalar, FLOATS)

    def _scalar(self, name: str) -> float | None:
        tensor = self.constants.get(name)
        if tensor is None or prod(tensor.dims) != 1 or tensor.data_location == TensorProto.EXTERNAL:
            return None
        return float(np.asarray(onnx.numpy_helper.to_array(tensor), dtype=np.float64).reshape(()))

    def _axis(self, node: onnx.NodeProto, name: str, origin: Origin) -> int | None:
        """The axis of the output along which a node decides or normalises the tensor ``name``."""
        if judges_alone(node):
            return None
        axis, joint = competing_axis(node, self._opset)
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
        for x, y in axis_pairs(node, ends[0], ends[1]):
            here, other = (y, x) if back else (x, y)
            there[other] = origin[here]
        return tuple(there)


def declared_shape(value: onnx.ValueInfoProto) -> list[int | None] | None:
    """The shape that a model states of an input or output, None for open lengths; None without a shape."""
    if not value.type.tensor_type.HasField("shape"):
        return None
    return [d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim]

"""Random graphs of the operators in the table, from a source of choices.

The source is a function from a count to a number below it: hypothesis in the tests, where it can
shrink a counterexample, and a seeded generator in the script that runs hundreds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Choose = Callable[[int], int]
OPSET = 17
BATCH = 2
# More elements than this per tensor only cost time.
MOST_ELEMENTS = 6000


@dataclass(frozen=True)
class Value:
    """A tensor of the graph under construction: batch first, channels at ``axis``."""

    name: str
    shape: tuple[int, ...]
    axis: int

    @property
    def channels(self) -> int:
        return self.shape[self.axis]


class Builder:
    """Nodes and weights of one graph; operators are added by ``steps``."""

    def __init__(self, choose: Choose):
        self.choose = choose
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(0)
        self.values: list[Value] = []
        self.kernels: dict[tuple[int, ...], str] = {}

    def pick(self, options):
        return options[self.choose(len(options))]

    def maybe(self, one_in: int) -> bool:
        return self.choose(one_in) == one_in - 1

    def node(self, op: str, inputs: list[str], shape: tuple[int, ...], axis: int, /, **attributes) -> Value:
        """Add a node with one output of a known shape."""
        name = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=f"/{name}", **attributes))
        return Value(name, shape, axis)

    def constant(self, values, dtype=np.int64) -> str:
        name = f"c_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values, dtype=dtype), name))
        return name

    def weight(self, *shape: int, positive: bool = False, fan: int = 1) -> str:
        normal = self.rng.standard_normal(shape) / fan**0.5
        return self.constant(self.rng.uniform(0.5, 1.5, shape) if positive else normal, np.float32)

    def kernel(self, *shape: int) -> str:
        """A kernel; now and then one that another node uses too."""
        if shape in self.kernels and self.maybe(3):
            return self.kernels[shape]
        self.kernels[shape] = self.weight(*shape, fan=prod(shape[1:]))
        return self.kernels[shape]

    def same_shape(self, value: Value) -> Value:
        """Another value of this shape, or the value itself."""
        return self.pick([v for v in self.values if v.shape == value.shape and v.axis == value.axis])

    def shape_operand(self, like: Value, wanted: list[int]) -> str:
        """A shape: a constant, or the batch taken from a Shape and concatenated with the rest."""
        if self.maybe(2):
            return self.constant([0, *wanted[1:]])
        length = self.node("Shape", [like.name], (len(like.shape),), 0)
        batch = self.node("Gather", [length.name, self.constant([0])], (1,), 0)
        rest = self.constant([*wanted[1:-1], -1])
        return self.node("Concat", [batch.name, rest], (len(wanted),), 0, axis=0).name

    def model(self, outputs: list[Value]) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes, "random",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, 6, 6])],
            [helper.make_tensor_value_info(v.name, TensorProto.FLOAT, ["n", *v.shape[1:]]) for v in outputs],
            self.weights,
        )  # fmt: skip
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


def random_graph(choose: Choose, steps: dict[int, list], most_steps: int = 14) -> onnx.ModelProto:
    """A graph of 3 to ``most_steps`` steps; ``steps`` are the possible ones, by rank of what they take."""
    builder = Builder(choose)
    builder.values.append(Value("x", (BATCH, 4, 6, 6), 1))
    first = builder.node("Conv", ["x", builder.kernel(8, 4, 1, 1)], (BATCH, 8, 6, 6), 1)
    builder.values.append(first)
    used: set[str] = set()
    for _ in range(3 + choose(most_steps - 2)):
        recent = builder.values[1:][-4:]
        value = recent[len(recent) - 1 - choose(len(recent))]
        made = builder.pick(steps[len(value.shape)])(builder, value)
        if made is not None and 0 < prod(made.shape) <= MOST_ELEMENTS:
            builder.values.append(made)
            used |= {name for node in builder.nodes for name in node.input}
    used |= {name for node in builder.nodes for name in node.input}
    loose = [v for v in builder.values[1:] if v.name not in used]
    return builder.model([_closed(builder, v) for v in loose[-3:] or [builder.values[-1]]])


def _closed(builder: Builder, value: Value) -> Value:
    """An output: mostly behind a last linear operator, so that channels are free up to there."""
    if builder.maybe(8) or (value.axis == 1 and len(value.shape) == 3):
        return builder.node("Identity", [value.name], value.shape, value.axis)
    if len(value.shape) == 4:
        kernel = builder.weight(3, value.channels, 1, 1, fan=value.channels)
        return builder.node("Conv", [value.name, kernel], (BATCH, 3, *value.shape[2:]), 1)
    last = builder.weight(value.channels, 3, fan=value.channels)
    return builder.node("MatMul", [value.name, last], (*value.shape[:-1], 3), len(value.shape) - 1)

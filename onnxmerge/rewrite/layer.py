"""A linear node by its channels: weight and bias as numbers that can be changed, whatever its layout."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxmerge.graph.edit import Editor
from onnxmerge.operators.parameters import beta_of
from onnxmerge.operators.table import linear_of
from onnxmerge.operators.traits import Form, Linear, attribute


@dataclass(frozen=True, eq=False)
class Layer:
    """A linear node with a stored weight of single precision that is nobody else's.

    Attributes:
        editor: of the graph that it is in.
        weight: float32, in the layout of the file.
        groups: of a convolution; 1 for products.
        transposed: whether the weight of a product is [outputs, inputs].
    """

    editor: Editor
    node: gs.Node
    linear: Linear
    weight: np.ndarray
    groups: int
    transposed: bool

    @staticmethod
    def of(editor: Editor, node: gs.Node) -> Layer | None:
        """The layer that a node is; None where it is none, or its weight is computed or shared."""
        linear = linear_of(node)
        if linear is None or linear.fused:
            return None
        weight = editor.values(node.inputs[1])
        own = editor.read_once(node.inputs[1])
        if weight is None or not own or weight.dtype != np.float32 or weight.ndim < 2:
            return None
        if linear.alpha is not None and attribute(node, linear.alpha, 1.0) != 1.0:
            return None
        if attribute(node, "transA", 0) or (linear.form is Form.PRODUCT and weight.ndim != 2):
            return None
        groups = int(attribute(node, "group", 1)) if linear.form is not Form.PRODUCT else 1
        return Layer(editor, node, linear, weight, groups, bool(attribute(node, "transB", 0)))

    @property
    def rank(self) -> int:
        """The number of axes of the data, before and after; of a product at least."""
        if self.linear.form is not Form.PRODUCT:
            return int(self.weight.ndim)
        known = self.node.inputs[0].shape
        return 1 if known is None else len(known)

    @property
    def channel_axis(self) -> int:
        """Of the data, before and after; counted from the end for products."""
        return -1 if self.linear.form is Form.PRODUCT else 1

    @property
    def outputs(self) -> int:
        """The number of channels that it makes."""
        match self.linear.form:
            case Form.CONVOLUTION:
                return int(self.weight.shape[0])
            case Form.TRANSPOSED_CONVOLUTION:
                return int(self.weight.shape[1]) * self.groups
        return int(self.weight.shape[0 if self.transposed else 1])

    @property
    def inputs(self) -> int:
        """The number of channels that it reads."""
        match self.linear.form:
            case Form.CONVOLUTION:
                return int(self.weight.shape[1]) * self.groups
            case Form.TRANSPOSED_CONVOLUTION:
                return int(self.weight.shape[0])
        return int(self.weight.shape[1 if self.transposed else 0])

    def grouped(self) -> np.ndarray:
        """The weight, float64 [groups, outputs of a group, inputs of a group, ...]."""
        weight = self.weight.astype(np.float64)
        match self.linear.form:
            case Form.CONVOLUTION:
                return weight.reshape(self.groups, -1, *weight.shape[1:])
            case Form.TRANSPOSED_CONVOLUTION:
                return weight.reshape(self.groups, -1, *weight.shape[1:]).swapaxes(1, 2)
        return (weight if self.transposed else weight.T)[None]

    def bias(self) -> np.ndarray | None:
        """What a layer adds per output, float64; zeros where it has no bias, None where that is computed."""
        number = self.linear.bias
        given = number is not None and len(self.node.inputs) > number and self.node.inputs[number].name
        if not given:
            return np.zeros(self.outputs)
        assert number is not None
        stored = self.editor.values(self.node.inputs[number])
        if stored is None or per_channel(stored, max(stored.ndim, 1), -1, self.outputs) is None:
            return None
        factor = beta_of(self.node)
        return factor * np.broadcast_to(stored.reshape(-1).astype(np.float64), (self.outputs,))

    def set_weight(self, grouped: np.ndarray) -> None:
        """Store another weight, given as ``grouped`` gives it."""
        match self.linear.form:
            case Form.CONVOLUTION:
                weight = grouped
            case Form.TRANSPOSED_CONVOLUTION:
                weight = grouped.swapaxes(1, 2)
            case Form.PRODUCT:
                weight = grouped[0] if self.transposed else grouped[0].T
        stored = np.ascontiguousarray(weight.reshape(self.weight.shape), dtype=np.float32)
        self.editor.set_values(self.node.inputs[1], stored)

    def set_bias(self, bias: np.ndarray) -> None:
        """Store another bias, [outputs]; where there is none, and it is zero, there still is none."""
        number = self.linear.bias
        if number is None:
            return
        given = len(self.node.inputs) > number and self.node.inputs[number].name
        if not given and not np.any(bias):
            return
        self.node.attrs.pop(self.linear.beta, None)
        like = self.node.inputs[number].name if given else f"{self.node.inputs[1].name}_bias"
        self.editor.set_input(self.node, number, self.editor.new_constant(like, bias.astype(np.float32)))


def per_channel(values: np.ndarray, rank: int, axis: int, count: int) -> np.ndarray | None:
    """Stored numbers as one per channel, float64 [count]; None where they vary along other axes too.

    Numbers of more axes than the data would give them more.
    """
    if values.ndim > rank:
        return None
    axis %= rank
    shape = (1,) * (rank - values.ndim) + values.shape
    if any(n != 1 for place, n in enumerate(shape) if place != axis) or shape[axis] not in (1, count):
        return None
    return np.broadcast_to(values.reshape(-1), (count,))

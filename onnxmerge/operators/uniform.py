"""What operators make of *uniform* tensors: of those that are the same everywhere but along their channels.

A uniform tensor is represented by one that broadcasts to it: of length 1 on every axis along which it
does not vary. The first of them is what is left of a contraction over no channels: its bias.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnxmerge.graph.view import NodeView
from onnxmerge.operators import pointwise
from onnxmerge.operators.parameters import beta_of, is_plain_sum
from onnxmerge.operators.reduction import reduced_axes
from onnxmerge.operators.table import linear_of, lookup
from onnxmerge.operators.traits import Form

Shape = tuple[int, ...]

_POOLS = ("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool")
# Arithmetic broadcasts by itself since this opset.
_BROADCASTING = 7


def of_nothing(node: NodeView) -> Shape | None:
    """What represents a contraction over no channels; None where that is not its stored bias."""
    y, weight, bias = node.y[0], node.input(1), node.input(2)
    if weight is None or not weight.is_constant or len(node.x) > 3 or (bias and not bias.is_constant):
        return None
    linear = linear_of(node)
    if linear is None or not is_plain_sum(node) or not y.rank:
        return None
    if linear.form is not Form.PRODUCT:
        return (1, y.shape[1], *[1] * (y.rank - 2))
    row = (*[1] * (y.rank - 1), y.shape[-1])
    return row if bias is None else np.broadcast_shapes(row, bias.shape)


def of_uniform(node: NodeView, uniform: Mapping[int, Shape]) -> Shape | None:
    """What represents the output where some inputs are uniform, and all others are stored.

    Args:
        uniform: what represents the uniform inputs, by their number.

    Returns:
        None where the output differs from place to place (at the borders of a padded convolution), or
        where nothing is known of it.
    """
    if _is_pointwise(node):
        stored = [x.shape for i, x in enumerate(node.x) if x is not None and i not in uniform]
        return np.broadcast_shapes(*uniform.values(), *stored)
    rule = _rule(node)
    return rule(node, uniform[0]) if rule is not None and set(uniform) == {0} else None


def takes_uniform(node: NodeView, uniform: Mapping[int, Shape]) -> bool:
    """Whether what represents some inputs can stand in their place, while others are computed."""
    shapes = [x.shape for i, x in enumerate(node.x) if x is not None and i not in uniform]
    return _is_pointwise(node) and np.broadcast_shapes(*shapes) == node.y[0].shape


def _is_pointwise(node: NodeView) -> bool:
    operator = lookup(node)
    rules = (pointwise.pointwise, pointwise.bias_activation)
    return operator is not None and operator.rule in rules and node.opset >= _BROADCASTING


def _same(node: NodeView, x: Shape) -> Shape:
    return x


def _batch_norm(node: NodeView, x: Shape) -> Shape | None:
    return x if x[1:2] == node.x[0].shape[1:2] else None


def _conv(node: NodeView, x: Shape) -> Shape | None:
    padded = any(node.attr("pads", ())) or node.attr("auto_pad", "NOTSET").startswith("SAME")
    return of_nothing(node) if x[1] == node.x[0].shape[1] and _flat(x) and not padded else None


def _product(node: NodeView, x: Shape) -> Shape | None:
    row = of_nothing(node)
    plain = not node.attr("transA", 0) and node.x[1].rank == 2 and x[-1] == node.x[0].shape[-1]
    return np.broadcast_shapes((*x[:-1], row[-1]), row) if plain and row is not None else None


def _pool(node: NodeView, x: Shape) -> Shape | None:
    counted = any(node.attr("pads", ())) and node.attr("count_include_pad", 0)
    return x if _flat(x) and len(node.y) == 1 and not counted else None


def _mean(node: NodeView, x: Shape) -> Shape | None:
    axes = reduced_axes(node)
    if axes is None or any(x[axis] != 1 for axis in axes):
        return None
    return tuple(n for axis, n in enumerate(x) if node.attr("keepdims", 1) or axis not in axes)


def _reshape(node: NodeView, x: Shape) -> Shape | None:
    """Where nothing but the batch is left to broadcast over, and that stays where it is."""
    return node.y[0].shape if x == node.x[0].shape and x[:1] == node.y[0].shape[:1] == (1,) else None


def _transpose(node: NodeView, x: Shape) -> Shape:
    return tuple(x[axis] for axis in node.attr("perm", range(len(x))[::-1]))


def _flat(x: Shape) -> bool:
    """Whether nothing varies over the axes from 2 on."""
    return all(n == 1 for n in x[2:])


_Rule = Callable[[NodeView, Shape], Shape | None]
_OF_FORM: dict[Form, _Rule] = {Form.CONVOLUTION: _conv, Form.PRODUCT: _product}
_OF_UNIFORM: dict[str, _Rule] = {
    **dict.fromkeys(_POOLS, _pool),
    **dict.fromkeys(["ReduceMax", "ReduceMean", "ReduceMin"], _mean),
    **dict.fromkeys(["Flatten", "Reshape", "Squeeze", "Unsqueeze"], _reshape),
    "BatchNormalization": _batch_norm,
    "Dropout": _same,
    "Transpose": _transpose,
}


def _rule(node: NodeView) -> _Rule | None:
    linear = linear_of(node)
    if linear is None:
        return _OF_UNIFORM.get(node.op)
    return _OF_FORM.get(linear.form) if is_plain_sum(node) else None


def value_of_nothing(node: gs.Node, weight: np.ndarray, bias: np.ndarray | None, rank: int) -> np.ndarray:
    """The value of a contraction over no channels, as ``of_nothing`` says.

    Args:
        rank: of the output.
    """
    linear = linear_of(node)
    assert linear is not None, "only linear operators sum over channels"
    if linear.form is not Form.PRODUCT:
        forward = linear.form is Form.CONVOLUTION
        count = weight.shape[0] if forward else weight.shape[1] * node.attrs.get("group", 1)
        value = np.zeros(count, weight.dtype) if bias is None else bias
        return value.reshape(1, -1, *[1] * (rank - 2))
    count = weight.shape[-2 if node.attrs.get("transB", 0) else -1]
    zeros = np.zeros((*[1] * (rank - 1), count), weight.dtype)
    return zeros if bias is None else zeros + (bias * beta_of(node)).astype(weight.dtype)


def value_of_uniform(node: gs.Node, operands: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """What represents the output, where the operator itself would not compute it from such operands."""
    data = operands[0]
    if node.op in (*_POOLS, "Dropout"):
        return data
    linear = linear_of(node)
    if linear is not None and linear.form is Form.CONVOLUTION and data is not None:
        weight, bias = operands[1], operands[2] if len(operands) > 2 else None
        assert weight is not None, "a convolution has a weight"
        sums = weight.reshape(*weight.shape[:2], -1).sum(axis=2, dtype=np.float64)
        groups = node.attrs.get("group", 1)
        blocks = zip(np.split(sums, groups), np.split(data.reshape(-1), groups), strict=True)
        value = np.concatenate([rows @ x for rows, x in blocks]) + (0.0 if bias is None else bias)
        return value.astype(weight.dtype).reshape(1, -1, *data.shape[2:])
    return None

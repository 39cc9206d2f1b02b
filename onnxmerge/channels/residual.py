"""Where a site's output goes: through per-channel affine operators into a sum, or no further."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxmerge.channels.sites import FoldSite
from onnxmerge.graph.view import GraphView, NodeView, TensorView


@dataclass(frozen=True, eq=False)
class Destination:
    """Where the output of a site goes: ``total = scale * output + shift (+ other)``, per output channel.

    Attributes:
        scale, shift: float64 [rows], of the affine operators between.
        total: the tensor's name; the site's own output where nothing follows.
        axis: the axis of the channels in it.
        other: the other branch of the sum, or None where there is no sum.
    """

    scale: np.ndarray
    shift: np.ndarray
    total: str
    axis: int
    other: str | None


def destination(site: FoldSite) -> Destination:
    """Follow the output of a site while it feeds a single per-channel affine operator or a sum.

    ``site.output`` must not be None.
    """
    assert site.output is not None
    view = site.channels.view
    count = site.output.size
    scale, shift = np.ones(count), np.zeros(count)
    tensor: TensorView = site.node.y[0]
    axis = site.output.axis
    while (user := _only_user(view, tensor)) is not None:
        affine = _affine(user, tensor, axis, count)
        if affine is not None:
            scale, shift = affine[0] * scale, affine[0] * shift + affine[1]
            tensor = user.y[0]
            continue
        other = _other_operand(user, tensor)
        if other is None:
            break
        return Destination(scale, shift, user.y[0].name, axis, other)
    return Destination(scale, shift, tensor.name, axis, None)


def _only_user(view: GraphView, tensor: TensorView) -> NodeView | None:
    if tensor.name in view.outputs or view.captured(tensor.name):
        return None
    users = view.consumers(tensor.name)
    if (
        len(users) != 1
        or len(users[0].y) < 1
        or users[0].y[0] is None
        or users[0].domain not in ("", "ai.onnx")
    ):
        return None
    return users[0]


def _other_operand(node: NodeView, tensor: TensorView) -> str | None:
    """The other operand of a sum of two tensors of one shape."""
    if node.op not in ("Add", "Sum") or len(node.x) != 2:
        return None
    others = [x for x in node.x if x is not None and x.name != tensor.name]
    same = len(others) == 1 and others[0].shape == tensor.shape == node.y[0].shape
    return others[0].name if same and not others[0].is_constant else None


def _affine(
    node: NodeView, tensor: TensorView, axis: int, count: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """(scale, shift) per channel of a node that maps a tensor affinely, or None."""
    if node.op in ("Identity", "Dropout"):
        return np.ones(count), np.zeros(count)
    if node.op == "BatchNormalization" and node.x[0].name == tensor.name and axis == 1:
        stored = [x.constant for i in range(1, 5) if (x := node.input(i)) is not None]
        if len(stored) < 4 or any(v is None for v in stored) or len([y for y in node.y if y is not None]) > 1:
            return None
        gamma, beta, mean, variance = (np.asarray(v, dtype=np.float64) for v in stored)
        factor = gamma / np.sqrt(variance + node.attr("epsilon", 1e-5))
        return factor, beta - factor * mean
    if node.op not in ("Add", "Sub", "Mul", "Div") or len(node.x) != 2 or node.y[0].shape != tensor.shape:
        return None
    place = next((i for i, x in enumerate(node.x) if x is not None and x.name == tensor.name), None)
    operand = node.x[1 - place] if place is not None else None
    if operand is None or not operand.is_constant:
        return None
    values = _per_channel(np.asarray(operand.constant, dtype=np.float64), tensor.rank, axis, count)
    if values is None:
        return None
    one, zero = np.ones(count), np.zeros(count)
    match node.op:
        case "Add":
            return one, values
        case "Sub":
            return (one, -values) if place == 0 else (-one, values)
        case "Mul":
            return values, zero
    return (1 / values, zero) if place == 0 and np.all(values != 0) else None


def _per_channel(values: np.ndarray, rank: int, axis: int, count: int) -> np.ndarray | None:
    shape = (1,) * (rank - values.ndim) + values.shape
    if len(shape) != rank or any(n != 1 for i, n in enumerate(shape) if i != axis):
        return None
    return np.broadcast_to(values.reshape(-1), (count,)).copy() if shape[axis] in (1, count) else None

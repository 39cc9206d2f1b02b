"""Where a site's output goes: through per-channel affine operators into a sum, or no further."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxmerge.channels.sites import FoldSite
from onnxmerge.graph.view import GraphView, NodeView, TensorView
from onnxmerge.operators.parameters import affine
from onnxmerge.operators.pointwise import adds
from onnxmerge.operators.quantization import rounded


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
    """Follow the output of a site while it is rounded, or feeds one per-channel affine operator or a sum.

    ``site.output`` must not be None.
    """
    assert site.output is not None
    view = site.channels.view
    count = site.output.size
    scale, shift = np.ones(count), np.zeros(count)
    tensor: TensorView = site.node.y[0]
    axis = site.output.axis
    while (user := _only_user(view, tensor)) is not None:
        mapped = affine(user, tensor, axis)
        if mapped is not None:
            scale, shift = mapped[0] * scale, mapped[0] * shift + mapped[1]
            tensor = user.y[0]
            continue
        read_back = rounded(view, user)
        if read_back is not None:
            tensor = read_back
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
    if not adds(node) or len(node.x) != 2:
        return None
    others = [x for x in node.x if x is not None and x.name != tensor.name]
    same = len(others) == 1 and others[0].shape == tensor.shape == node.y[0].shape
    return others[0].name if same and not others[0].is_constant else None

"""A mean over channels of what was reduced over all places, as in a global response normalisation.

Fewer channels would have another mean. As a sum over channels, divided by how many there were, it is what a
mask makes of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnxmerge.graph.constants import constant_values

# Since this opset the axes of a sum are an input.
_SUM_TAKES_AXES = 13
_UNARY = ("Abs", "Identity", "Sqrt")


def means_as_sums(graph: gs.Graph, static: Mapping[str, Sequence[int | None]]) -> None:
    """Replace such means by sums and a factor; ``static`` has the fixed lengths of tensors."""
    names = {*graph.tensors(), *(node.name for node in graph.nodes)}
    made = []
    for node in graph.nodes:
        made.append(node)
        axis = _channel_axis(node, static)
        if axis is None:
            continue
        x, y = node.inputs[0], node.outputs[0]
        inner, one_over = f"{y.name}__sum", f"{y.name}__one_over"
        if {inner, one_over} & names or x.dtype is None:
            continue
        length = static[x.name][axis]
        assert length, "checked with the axis"
        factor = gs.Constant(one_over, np.array(1 / length, dtype=x.dtype))
        total = gs.Variable(inner, dtype=x.dtype)
        node.op = "ReduceSum"
        if (graph.opset or 1) >= _SUM_TAKES_AXES and len(node.inputs) == 1:
            node.inputs.append(gs.Constant(f"{y.name}__axes", np.array(node.attrs.pop("axes"), np.int64)))
        node.outputs[0] = total
        made.append(gs.Node("Mul", f"{node.name or y.name}__mean", inputs=[total, factor], outputs=[y]))
    graph.nodes = made


def _channel_axis(node: gs.Node, static: Mapping[str, Sequence[int | None]]) -> int | None:
    """The axis that a mean runs over, if all places were reduced before."""
    if node.op != "ReduceMean" or node.domain not in (None, "", "ai.onnx") or not node.inputs:
        return None  # nodes that were evaluated are still there, and read nothing
    shape = static.get(node.inputs[0].name)
    axes = node.attrs.get("axes")
    if axes is None and len(node.inputs) > 1:
        axes = constant_values(node.inputs[1])
    if shape is None or axes is None or len(axes) != 1:
        return None
    axis = int(axes[0]) % len(shape)
    rest = [length for i, length in enumerate(shape) if i not in (0, axis)]
    if axis == 0 or not rest or any(length != 1 for length in rest) or (shape[axis] or 0) < 2:
        return None
    return axis if _is_reduced(node.inputs[0]) else None


def _is_reduced(tensor: gs.Tensor) -> bool:
    while len(tensor.inputs) == 1 and tensor.inputs[0].op in _UNARY:
        tensor = tensor.inputs[0].inputs[0]
    op = tensor.inputs[0].op if len(tensor.inputs) == 1 else ""
    return op.startswith(("Reduce", "Global"))

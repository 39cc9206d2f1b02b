"""The values of stored weights, quantised ones included."""

from __future__ import annotations

import numpy as np

from onnxmerge.graph.view import GraphView, NodeView, TensorView


def stored_values(view: GraphView, tensor: TensorView) -> np.ndarray | None:
    """The values of a constant, or of a constant behind a DequantizeLinear; None for anything computed."""
    if tensor.is_constant:
        return tensor.constant
    maker = view.producer(tensor.name)
    if maker is None or maker.op != "DequantizeLinear" or maker.attr("block_size", 0):
        return None
    return _dequantized(maker)


def _dequantized(node: NodeView) -> np.ndarray | None:
    """(x - zero point) * scale, the parameters per tensor or along ``axis``."""
    operands = [node.input(i) for i in range(3)]
    values = [None if o is None else o.constant for o in operands]
    x, scale, zero = values
    if x is None or scale is None or (operands[2] is not None and zero is None) or scale.ndim > 1:
        return None
    along = [1] * x.ndim
    if scale.size > 1:
        along[node.attr("axis", 1)] = scale.size
    shift = 0.0 if zero is None else np.asarray(zero, dtype=np.float64).reshape(along)
    return (np.asarray(x, dtype=np.float64) - shift) * np.asarray(scale, dtype=np.float64).reshape(along)

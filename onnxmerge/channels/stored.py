"""The values of stored weights, quantised ones included."""

from __future__ import annotations

import numpy as np

from onnxmerge.graph.view import GraphView, TensorView
from onnxmerge.operators.parameters import dequantized


def stored_values(view: GraphView, tensor: TensorView) -> np.ndarray | None:
    """The values of a constant, or of a constant behind a DequantizeLinear; None for anything computed."""
    if tensor.is_constant:
        return tensor.constant
    maker = view.producer(tensor.name)
    return None if maker is None else dequantized(maker)

"""Constants of the working graph, wherever a file keeps them."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs


def constant_tensor(tensor: gs.Tensor) -> gs.Constant | None:
    """The stored constant behind a tensor: an initializer, or the value of a Constant node."""
    if isinstance(tensor, gs.Constant):
        return tensor
    if len(tensor.inputs) == 1 and tensor.inputs[0].op == "Constant":
        value = tensor.inputs[0].attrs.get("value")
        return value if isinstance(value, gs.Constant) else None
    return None


def constant_values(tensor: gs.Tensor) -> np.ndarray | None:
    """The values of a constant tensor, or None."""
    stored = constant_tensor(tensor)
    return None if stored is None else stored.values

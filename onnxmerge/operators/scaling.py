"""Arithmetic with stored numbers: what scales and shifts, and clips that scale and shift too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxmerge.operators.traits import domain_of

Values = Callable[[gs.Tensor], np.ndarray | None]


@dataclass(frozen=True, eq=False)
class Affine:
    """What a node makes of one operand: ``scale * x + shift``.

    Attributes:
        place: the number of that operand.
        scale, shift: float64, of the shape of the stored operand.
    """

    place: int
    scale: np.ndarray
    shift: np.ndarray

    @property
    def scales(self) -> bool:
        return bool(np.any(self.scale != 1))

    @property
    def shifts(self) -> bool:
        return bool(np.any(self.shift != 0))


def affine_of(node: gs.Node, values: Values) -> Affine | None:
    """A sum, difference, product or quotient with stored single-precision numbers; None for other nodes."""
    if domain_of(node) or node.op not in ("Add", "Sub", "Mul", "Div") or len(node.inputs) != 2:
        return None
    stored = [values(x) for x in node.inputs]
    place = next((i for i in (0, 1) if stored[i] is None and stored[1 - i] is not None), None)
    if place is None:
        return None
    numbers = stored[1 - place]
    assert numbers is not None
    if numbers.dtype != np.float32 or not numbers.size or not np.isfinite(numbers).all():
        return None
    constant = numbers.astype(np.float64)
    one, zero = np.ones_like(constant), np.zeros_like(constant)
    match node.op:
        case "Add":
            return Affine(place, one, constant)
        case "Sub":
            return Affine(place, one, -constant) if place == 0 else Affine(place, -one, constant)
        case "Mul":
            return Affine(place, constant, zero)
    return Affine(place, 1 / constant, zero) if place == 0 and np.all(constant != 0) else None


def become_scale(node: gs.Node, x: gs.Tensor, scale: gs.Tensor) -> None:
    """Turn a node into the product of a tensor and a stored one."""
    node.op, node.attrs, node.inputs = "Mul", {}, [x, scale]


def become_shift(node: gs.Node, x: gs.Tensor, shift: gs.Tensor) -> None:
    """Turn a node into the sum of a tensor and a stored one."""
    node.op, node.attrs, node.inputs = "Add", {}, [x, shift]


def is_product(node: gs.Node) -> bool:
    """Whether a node multiplies two operands."""
    return node.op == "Mul" and not domain_of(node) and len(node.inputs) == 2


@dataclass(frozen=True, eq=False)
class ClippedLine:
    """A clip of a sum: ``clip(x + shift, 0, high)``, which is ``high`` times a HardSigmoid of x."""

    x: gs.Tensor
    shift: float
    high: float


def clipped_line(node: gs.Node, values: Values) -> ClippedLine | None:
    """A node that clips x plus one stored number, x being nothing else's business; None for other nodes."""
    if node.op != "Clip" or domain_of(node) or not node.inputs:
        return None
    bounds = [node.attrs.get(name) for name in ("min", "max")]
    for number, tensor in enumerate(node.inputs[1:3]):
        stored = values(tensor) if tensor.name else None
        if stored is None or stored.size != 1:
            return None
        bounds[number] = float(stored.reshape(-1)[0])
    low, high = bounds
    made = node.inputs[0].inputs
    if (
        low != 0
        or high is None
        or not 1e-6 < high < 1e6
        or len(made) != 1
        or len(node.inputs[0].outputs) != 1
    ):
        return None
    line = affine_of(made[0], values)
    if line is None or line.scales or line.shift.size != 1 or line.shift.ndim > 1:
        return None
    return ClippedLine(made[0].inputs[line.place], float(line.shift.reshape(-1)[0]), float(high))


def become_hard_sigmoid(node: gs.Node, line: ClippedLine) -> None:
    """Turn the clip of a line into a HardSigmoid, which is ``1 / high`` of it."""
    node.op, node.inputs = "HardSigmoid", [line.x]
    node.attrs = {"alpha": 1 / line.high, "beta": line.shift / line.high}

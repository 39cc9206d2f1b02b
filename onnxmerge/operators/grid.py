"""Stored weights that are quantised: what they stand for, and how new values become integers again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxmerge.graph.view import GraphView, NodeView, TensorView


@dataclass(frozen=True, eq=False)
class Grid:
    """Stored integers x behind a DequantizeLinear, which stand for (x - zero point) * scale.

    Attributes:
        node: the DequantizeLinear.
        stored: the integers.
        scale: float64, of one element, or along ``axis``.
        zero: likewise.
        axis: of the integers, where there are several scales; else None.
        alone: whether no other node reads the integers or the scale.
    """

    node: NodeView
    stored: TensorView
    scale: np.ndarray
    zero: np.ndarray
    axis: int | None
    alone: bool

    def values(self, integers: np.ndarray, growth: np.ndarray | float = 1.0) -> np.ndarray:
        """What integers stand for, float64, with the scale ``growth`` times as large."""
        zero, scale = self._along(self.zero), self._along(self.scale * growth)
        return (np.asarray(integers, dtype=np.float64) - zero) * scale

    def growth(self, values: np.ndarray) -> np.ndarray:
        """How many times as large the scale has to be to hold these values: at least 1, float64 like it.

        Values that no scale holds, for the zero point lies at an end of the range, are not counted.
        """
        least, most = self._range()
        factor = np.ones(np.broadcast_shapes(self.scale.shape, self.zero.shape))
        for extreme, limit in zip(self._extremes(values), (least, most), strict=True):
            room = limit * self.scale
            factor = np.maximum(factor, np.divide(extreme, room, out=np.ones_like(factor), where=room != 0))
        return factor

    def rounded(self, values: np.ndarray, growth: np.ndarray | float = 1.0) -> np.ndarray:
        """The integers, in their stored type, that come closest to these values."""
        least, most = (self._along(end) for end in self._range())
        steps = np.clip(np.rint(values / self._along(self.scale * growth)), least, most)
        return (steps + self._along(self.zero)).astype(self._integers().dtype)

    def _integers(self) -> np.ndarray:
        stored = self.stored.constant
        assert stored is not None, "a grid has stored integers"
        return stored

    def _range(self) -> tuple[np.ndarray, np.ndarray]:
        """The least and the greatest integer, less the zero point; symmetric where that is 0."""
        ends = np.iinfo(self._integers().dtype)
        least = np.where((self.zero == 0) & (ends.min < 0), -float(ends.max), ends.min - self.zero)
        return least, ends.max - self.zero

    def _along(self, parameter: np.ndarray) -> np.ndarray:
        if self.axis is None:
            return parameter.reshape(())
        return parameter.reshape([-1 if i == self.axis else 1 for i in range(self.stored.rank)])

    def _extremes(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        others = tuple(i for i in range(values.ndim) if i != self.axis)
        least, most = (np.asarray(of(values, axis=others), np.float64) for of in (np.min, np.max))
        return least.reshape(self.scale.shape), most.reshape(self.scale.shape)


def grid_of(view: GraphView, tensor: TensorView) -> Grid | None:
    """The grid that a tensor lies on: a DequantizeLinear makes it of stored integers; None for others."""
    node = view.producer(tensor.name)
    if node is None or node.op != "DequantizeLinear" or node.attr("block_size", 0):
        return None
    operands = [node.input(i) for i in range(3)]
    stored, scale, zero = (None if o is None else o.constant for o in operands)
    if stored is None or scale is None or (operands[2] is not None and zero is None) or scale.ndim > 1:
        return None
    if stored.dtype.kind not in "iu":  # narrow floating-point numbers, and integers that numpy packs
        return None
    alone = all(
        len(view.consumers(o.name)) == 1 and not view.captured(o.name) and o.name not in view.outputs
        for o in operands[:2]
        if o is not None
    )
    steps = np.asarray(scale, dtype=np.float64).reshape(-1)
    zeros = np.zeros_like(steps) if zero is None else np.asarray(zero, dtype=np.float64).reshape(-1)
    axis = node.attr("axis", 1) % stored.ndim if steps.size > 1 else None
    return Grid(node, node.x[0], steps, zeros, axis, alone)


def stored_values(view: GraphView, tensor: TensorView) -> np.ndarray | None:
    """The values of a constant, or of a constant behind a DequantizeLinear; None for anything computed."""
    if tensor.is_constant:
        return tensor.constant
    grid = grid_of(view, tensor)
    stored = None if grid is None else grid.stored.constant
    return None if grid is None or stored is None else grid.values(stored)

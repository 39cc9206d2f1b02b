"""Scales and shifts by stored numbers go into the linear operators beside them.

Exporters write normalisations, learned scales and activations out as sums and products with constants, and
each is a pass over the whole activation that runtimes leave as it is where the constants are not of the one
shape that they know. What remains computes the same, up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs

from onnxmerge.graph.edit import Editor
from onnxmerge.operators import scaling
from onnxmerge.operators.parameters import pads_nothing
from onnxmerge.operators.scaling import Affine
from onnxmerge.operators.table import normalization_of
from onnxmerge.rewrite.layer import Layer, per_channel

# Scales between these can be multiplied, and taken out again, without leaving single precision.
_LEAST, _MOST = 1e-18, 1e18


def merge_scales(editor: Editor, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Merge what scales and shifts into its neighbours, wherever nobody else reads what lies between.

    Args:
        shapes: of the tensors before anything was cut, by name: they tell where numbers widen what they meet.
    """
    merger = _Merger(editor, shapes)
    while sum(merger.merge(node) for node in list(editor.graph.nodes)):
        editor.graph.cleanup(recurse_subgraphs=False, recurse_functions=False)


class _Merger:
    def __init__(self, editor: Editor, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._editor = editor
        self._shapes = dict(shapes)

    def merge(self, node: gs.Node) -> bool:
        """Merge one node into its neighbours; whether that was possible."""
        if not node.outputs or not node.inputs:
            return False
        affine = scaling.affine_of(node, self._editor.values)
        if affine is None:
            return self._clip(node)
        return self._into_maker(node, affine) or self._into_readers(node, affine)

    def _into_maker(self, node: gs.Node, affine: Affine) -> bool:
        x = node.inputs[affine.place]
        if not self._alone(x):
            return False
        maker = x.inputs[0]
        before = scaling.affine_of(maker, self._editor.values)
        if before is not None:
            return self._into_affine(node, affine, maker, before)
        if normalization_of(maker) is not None:
            merged = self._into_normalization(maker, affine)
        else:
            layer = Layer.of(self._editor, maker)
            merged = layer is not None and self._into_outputs(layer, affine)
        if merged:
            _hand_over(x, node)
        return merged

    def _into_affine(self, node: gs.Node, affine: Affine, maker: gs.Node, before: Affine) -> bool:
        """Two that follow one another become one, where that is a scale or a shift alone."""
        if affine.scale.ndim != before.scale.ndim and min(affine.scale.size, before.scale.size) > 1:
            return False
        scale = affine.scale * before.scale
        shift = affine.scale * before.shift + affine.shift
        if (np.any(scale != 1) and np.any(shift != 0)) or not (_moderate(scale) and _finite(shift)):
            return False
        x, like = maker.inputs[before.place], node.inputs[1 - affine.place].name
        if np.any(shift != 0):
            scaling.become_shift(node, x, self._constant(like, shift))
        else:
            scaling.become_scale(node, x, self._constant(like, scale))
        return True

    def _into_normalization(self, maker: gs.Node, affine: Affine) -> bool:
        slots = normalization_of(maker)
        assert slots is not None
        stored = [self._editor.values(maker.inputs[i]) for i in (slots.scale, slots.shift)]
        gamma, beta = stored
        rank = len(self._shapes.get(maker.inputs[0].name, ()))
        if gamma is None or beta is None or gamma.dtype != np.float32 or not rank or len(maker.outputs) > 1:
            return False
        if gamma.ndim != 1:  # of old operators: one per place, not per channel
            return False
        scale, shift = (per_channel(v, rank, 1, gamma.size) for v in (affine.scale, affine.shift))
        if scale is None or shift is None:
            return False
        merged = (slots.scale, gamma * scale), (slots.shift, beta * scale + shift)
        if not _moderate(scale) or not all(_finite(values) for _, values in merged):
            return False
        for number, values in merged:
            maker.inputs[number] = self._constant(maker.inputs[number].name, values)
        return True

    def _into_outputs(self, layer: Layer, affine: Affine) -> bool:
        """Scale and shift what a layer makes."""
        rank, axis, count = layer.rank, layer.channel_axis, layer.outputs
        scale, shift = (per_channel(v, rank, axis, count) for v in (affine.scale, affine.shift))
        if scale is None or shift is None or (affine.shifts and layer.linear.bias is None):
            return False
        bias = layer.bias()
        if bias is None or not _moderate(scale) or not _finite(bias * scale + shift):
            return False
        if affine.scales:
            grouped = layer.grouped()
            scaled = grouped * scale.reshape(*grouped.shape[:2], *[1] * (grouped.ndim - 2))
            if not _finite(scaled):
                return False
            layer.set_weight(scaled)
        layer.set_bias(bias * scale + shift)
        return True

    def _into_readers(self, node: gs.Node, affine: Affine) -> bool:
        """Scale the weights of all that read a node's output, and put a shift into their biases."""
        y, x = node.outputs[0], node.inputs[affine.place]
        if affine.shifts and affine.scales:
            return False
        if affine.scales and self._swapped(node, affine):
            return True
        layers = self._readers(y)
        if not layers or not self._keeps_shape(node, affine):
            return False
        if affine.scales:
            if not np.all(affine.scale) or not self._scale_inputs(layers, affine.scale):
                return False
        elif not self._shift_inputs(layers, affine.shift):
            return False
        self._editor.bypass(node, x)
        return True

    def _swapped(self, node: gs.Node, affine: Affine) -> bool:
        """A scale before a shift: what is shifted by ``shift / scale`` can be scaled by those who read it."""
        y = node.outputs[0]
        if not self._alone(y) or not np.all(affine.scale) or not self._keeps_shape(node, affine):
            return False
        after = y.outputs[0]
        shift = scaling.affine_of(after, self._editor.values)
        if shift is None or shift.scales or after.inputs[shift.place] is not y:
            return False
        layers = self._readers(after.outputs[0])
        if affine.scale.size > 1 and affine.scale.shape != shift.shift.shape:
            return False
        moved = shift.shift / affine.scale.reshape(shift.shift.shape if affine.scale.size > 1 else ())
        if not layers or not _finite(moved) or not self._scale_inputs(layers, affine.scale):
            return False
        like = after.inputs[1 - shift.place].name
        scaling.become_shift(after, node.inputs[affine.place], self._constant(like, moved))
        self._rename(after)
        return True

    def _scale_inputs(self, layers: list[Layer], values: np.ndarray) -> bool:
        scales = [per_channel(values, _.rank, _.channel_axis, _.inputs) for _ in layers]
        if any(scale is None for scale in scales) or not _moderate(values):
            return False
        scaled = []
        for layer, scale in zip(layers, scales, strict=True):
            assert scale is not None
            grouped = layer.grouped()
            scaled.append(grouped * scale.reshape(layer.groups, 1, -1, *[1] * (grouped.ndim - 3)))
        if not all(map(_finite, scaled)):
            return False
        for layer, grouped in zip(layers, scaled, strict=True):
            layer.set_weight(grouped)
        return True

    def _shift_inputs(self, layers: list[Layer], values: np.ndarray) -> bool:
        shifts = [per_channel(values, _.rank, _.channel_axis, _.inputs) for _ in layers]
        biases = [layer.bias() for layer in layers]
        if any(shift is None for shift in shifts) or any(bias is None for bias in biases):
            return False
        if any(layer.linear.bias is None or not pads_nothing(layer.node) for layer in layers):
            return False
        shifted = []
        for layer, shift, bias in zip(layers, shifts, biases, strict=True):
            assert shift is not None and bias is not None
            grouped = layer.grouped()
            summed = grouped.reshape(*grouped.shape[:3], -1).sum(axis=-1)
            moved = np.einsum("goi,gi->go", summed, shift.reshape(layer.groups, -1))
            shifted.append(bias + moved.reshape(-1))
        if not all(map(_finite, shifted)):
            return False
        for layer, bias in zip(layers, shifted, strict=True):
            layer.set_bias(bias)
        return True

    def _clip(self, node: gs.Node) -> bool:
        """A clip of a line that a scale follows is a HardSigmoid: one pass for two, and often for three."""
        line = scaling.clipped_line(node, self._editor.values)
        if line is None or not self._alone(node.outputs[0]):
            return False
        after = node.outputs[0].outputs[0]
        if scaling.is_product(after) and scaling.affine_of(after, self._editor.values) is None:
            if not self._alone(after.outputs[0]):
                return False
            after = after.outputs[0].outputs[0]
        affine = scaling.affine_of(after, self._editor.values)
        if affine is None or affine.shifts or not _moderate(affine.scale * line.high):
            return False
        if not self._same_shape(line.x, node.outputs[0]):
            return False
        scaling.become_hard_sigmoid(node, line)
        between = after.inputs[affine.place].inputs[0]
        for changed in {id(node): node, id(between): between}.values():
            self._rename(changed)
        rest = (affine.scale * line.high).astype(np.float32)
        if rest.size == 1 and rest.ndim <= 1 and np.all(rest == 1):
            _hand_over(after.inputs[affine.place], after)
        else:
            like = after.inputs[1 - affine.place].name
            scaling.become_scale(after, after.inputs[affine.place], self._constant(like, rest))
        return True

    def _rename(self, node: gs.Node) -> None:
        """Give what a node makes a new name: a name stands for the same values in every model made of one."""
        old = node.outputs[0]
        new = self._editor.new_variable(f"{old.name}_scaled", old.dtype)
        new.shape = old.shape
        if old.name in self._shapes:
            self._shapes[new.name] = self._shapes[old.name]
        for user in list(old.outputs):
            user.inputs = [new if x is old else x for x in user.inputs]
        node.outputs = [new]

    def _keeps_shape(self, node: gs.Node, affine: Affine) -> bool:
        """Whether what a node scales or shifts has the shape of what it makes already."""
        return affine.scale.ndim == 0 or self._same_shape(node.inputs[affine.place], node.outputs[0])

    def _same_shape(self, x: gs.Tensor, y: gs.Tensor) -> bool:
        return x.name in self._shapes and self._shapes[x.name] == self._shapes.get(y.name)

    def _alone(self, tensor: gs.Tensor) -> bool:
        """Whether a tensor is computed, and read by one node of the graph, once, and by nobody else."""
        return len(tensor.inputs) == 1 and self._editor.read_once(tensor)

    def _readers(self, tensor: gs.Tensor) -> list[Layer]:
        """All who read a tensor, as layers; nobody where some are none."""
        if self._editor.is_output(tensor) or not tensor.outputs:
            return []
        layers = []
        for user in tensor.outputs:
            places = [i for i, x in enumerate(user.inputs) if x is tensor]
            layer = Layer.of(self._editor, user) if places == [0] else None
            if layer is None:
                return []
            layers.append(layer)
        return layers

    def _constant(self, like: str, values: np.ndarray) -> gs.Constant:
        return self._editor.new_constant(like, np.asarray(values, dtype=np.float32))


def _hand_over(x: gs.Tensor, node: gs.Node) -> None:
    """Let what makes x, which nobody else reads, make a node's output in its place."""
    maker, y = x.inputs[0], node.outputs[0]
    node.inputs.clear()
    node.outputs.clear()
    maker.outputs = [y if tensor is x else tensor for tensor in maker.outputs]


def _moderate(scale: np.ndarray) -> bool:
    """Whether numbers may be multiplied by these without a loss of single precision; by zero they may."""
    size = np.abs(scale)
    return bool(np.all((size == 0) | ((size > _LEAST) & (size < _MOST))))


def _finite(values: np.ndarray) -> bool:
    """Whether numbers are finite in single precision, too."""
    return bool(np.all(np.abs(values) <= np.finfo(np.float32).max))

"""Scales and shifts by stored numbers go into the linear operators beside them.

Exporters write normalisations, learned scales and activations out as sums and products with constants, and
each is a pass over the whole activation that runtimes leave as it is where the constants are not of the one
shape that they know. What remains computes the same, up to rounding.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxmerge.graph.edit import Editor
from onnxmerge.operators import scaling
from onnxmerge.operators.parameters import pads_nothing
from onnxmerge.operators.scaling import Affine
from onnxmerge.operators.table import normalization_of
from onnxmerge.rewrite.layer import Layer, per_channel


def merge_scales(editor: Editor) -> None:
    """Merge what scales and shifts into its neighbours, wherever nobody else reads what lies between."""
    merger = _Merger(editor)
    while sum(merger.merge(node) for node in list(editor.graph.nodes)):
        editor.graph.cleanup(recurse_subgraphs=False, recurse_functions=False)


class _Merger:
    def __init__(self, editor: Editor) -> None:
        self._editor = editor

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
        if np.any(scale != 1) and np.any(shift != 0):
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
        rank = maker.inputs[0].shape and len(maker.inputs[0].shape)
        if gamma is None or beta is None or gamma.dtype != np.float32 or not rank or len(maker.outputs) > 1:
            return False
        scale, shift = (per_channel(v, rank, 1, gamma.size) for v in (affine.scale, affine.shift))
        if scale is None or shift is None:
            return False
        for number, values in ((slots.scale, gamma * scale), (slots.shift, beta * scale + shift)):
            maker.inputs[number] = self._constant(maker.inputs[number].name, values)
        return True

    def _into_outputs(self, layer: Layer, affine: Affine) -> bool:
        """Scale and shift what a layer makes."""
        rank, axis, count = layer.rank, layer.channel_axis, layer.outputs
        scale, shift = (per_channel(v, rank, axis, count) for v in (affine.scale, affine.shift))
        if scale is None or shift is None or (affine.shifts and layer.linear.bias is None):
            return False
        bias = layer.bias()
        if bias is None:
            return False
        if affine.scales:
            grouped = layer.grouped()
            layer.set_weight(grouped * scale.reshape(*grouped.shape[:2], *[1] * (grouped.ndim - 2)))
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
        if not layers:
            return False
        if affine.scales:
            if not _invertible(affine.scale) or not self._scale_inputs(layers, affine.scale):
                return False
        elif not self._shift_inputs(layers, affine.shift):
            return False
        self._editor.bypass(node, x)
        return True

    def _swapped(self, node: gs.Node, affine: Affine) -> bool:
        """A scale before a shift: what is shifted by ``shift / scale`` can be scaled by those who read it."""
        y = node.outputs[0]
        if not self._alone(y, made=True) or not _invertible(affine.scale):
            return False
        after = y.outputs[0]
        shift = scaling.affine_of(after, self._editor.values)
        if shift is None or shift.scales or after.inputs[shift.place] is not y:
            return False
        layers = self._readers(after.outputs[0])
        if affine.scale.size > 1 and affine.scale.shape != shift.shift.shape:
            return False
        if not layers or not self._scale_inputs(layers, affine.scale):
            return False
        like = after.inputs[1 - shift.place].name
        moved = shift.shift / affine.scale.reshape(shift.shift.shape if affine.scale.size > 1 else ())
        scaling.become_shift(after, node.inputs[affine.place], self._constant(like, moved))
        self._rename(after)
        return True

    def _scale_inputs(self, layers: list[Layer], values: np.ndarray) -> bool:
        scales = [per_channel(values, _.rank, _.channel_axis, _.inputs) for _ in layers]
        if any(scale is None for scale in scales):
            return False
        for layer, scale in zip(layers, scales, strict=True):
            assert scale is not None
            grouped = layer.grouped()
            own = scale.reshape(layer.groups, 1, -1, *[1] * (grouped.ndim - 3))
            layer.set_weight(grouped * own)
        return True

    def _shift_inputs(self, layers: list[Layer], values: np.ndarray) -> bool:
        shifts = [per_channel(values, _.rank, _.channel_axis, _.inputs) for _ in layers]
        biases = [layer.bias() for layer in layers]
        if any(shift is None for shift in shifts) or any(bias is None for bias in biases):
            return False
        if any(layer.linear.bias is None or not pads_nothing(layer.node) for layer in layers):
            return False
        for layer, shift, bias in zip(layers, shifts, biases, strict=True):
            assert shift is not None and bias is not None
            grouped = layer.grouped()
            summed = grouped.reshape(*grouped.shape[:3], -1).sum(axis=-1)
            moved = np.einsum("goi,gi->go", summed, shift.reshape(layer.groups, -1))
            layer.set_bias(bias + moved.reshape(-1))
        return True

    def _clip(self, node: gs.Node) -> bool:
        """A clip of a line that a scale follows is a HardSigmoid: one pass for two, and often for three."""
        line = scaling.clipped_line(node, self._editor.values)
        if line is None or not self._alone(node.outputs[0], made=True):
            return False
        after = node.outputs[0].outputs[0]
        if scaling.is_product(after) and scaling.affine_of(after, self._editor.values) is None:
            if not self._alone(after.outputs[0], made=True):
                return False
            after = after.outputs[0].outputs[0]
        affine = scaling.affine_of(after, self._editor.values)
        if affine is None or affine.shifts:
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
        for user in list(old.outputs):
            user.inputs = [new if x is old else x for x in user.inputs]
        node.outputs = [new]

    def _alone(self, tensor: gs.Tensor, *, made: bool = False) -> bool:
        """Whether a computed tensor has one reader, which reads it once, and is no output of the graph."""
        return (
            (made or len(tensor.inputs) == 1)
            and len(tensor.outputs) == 1
            and sum(x is tensor for x in tensor.outputs[0].inputs) == 1
            and not self._editor.is_output(tensor)
        )

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


def _invertible(scale: np.ndarray) -> bool:
    """Whether a scale can be taken out again without running out of single precision."""
    size = np.abs(scale)
    return bool(np.all((size > 1e-18) & (size < 1e18)))

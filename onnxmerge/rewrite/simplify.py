"""Nodes that do nothing leave a graph: sums with zero, concats of one tensor, what was just done before."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_graphsurgeon as gs

from onnxmerge.graph.edit import Editor
from onnxmerge.operators.parameters import as_channel_shift, channel_bias, is_normalization
from onnxmerge.operators.pointwise import handed_on, is_add

# Normalisation with stored statistics is always per channel since this opset.
_PER_CHANNEL = 9


def simplify(editor: Editor, changed: Iterable[gs.Node]) -> None:
    """Take out nodes that do nothing, and sums with a constant where an operator before them can add it.

    Args:
        changed: the nodes that may have become so; nodes behind those that leave follow.
    """
    open_nodes = {id(node) for node in changed}
    for node in list(editor.graph.nodes):
        if id(node) not in open_nodes or node.domain not in (None, "", "ai.onnx"):
            continue
        kept = handed_on(node, editor.values)
        if kept is None and is_add(node):
            kept = _into_producer(editor, node)
        if kept is None and is_add(node):
            _as_normalization(editor, node)
        if kept is not None:
            open_nodes |= {id(user) for user in node.outputs[0].outputs}
            editor.bypass(node, kept)


def _into_producer(editor: Editor, node: gs.Node) -> gs.Tensor | None:
    """Let what makes one operand of a sum add the other one, a constant; None where it cannot."""
    for tensor, other in (node.inputs, reversed(list(node.inputs))):
        values = editor.values(other)
        alone = len(tensor.inputs) == 1 and len(tensor.outputs) == 1 and not editor.is_output(tensor)
        if values is None or not alone:
            continue
        maker = tensor.inputs[0]
        if is_add(maker) and _add_to_constant(editor, maker, values):
            return tensor
        if _add_to_bias(editor, maker, values):
            return tensor
    return None


def _add_to_constant(editor: Editor, maker: gs.Node, values: np.ndarray) -> bool:
    for number, operand in enumerate(maker.inputs):
        old = editor.values(operand)
        if old is not None and old.ndim == values.ndim and np.broadcast_shapes(old.shape, values.shape) in (
            old.shape, values.shape,
        ):  # fmt: skip
            maker.inputs[number] = editor.new_constant(operand.name, old + values)
            return True
    return False


def _add_to_bias(editor: Editor, maker: gs.Node, values: np.ndarray) -> bool:
    number = channel_bias(maker)
    if number is None:
        return False
    bias = maker.inputs[number] if len(maker.inputs) > number and maker.inputs[number].name else None
    old = None if bias is None else editor.values(bias)
    if values.ndim != _rank(maker) or values.ndim < 2 or values.shape[1] != values.size:
        return False
    if bias is not None and (old is None or old.shape != (values.size,)):
        return False
    new = values.reshape(-1) if old is None else (old + values.reshape(-1)).astype(old.dtype)
    like = f"{maker.inputs[1].name}_bias" if bias is None else bias.name
    editor.set_input(maker, number, editor.new_constant(like, new))
    return True


def _as_normalization(editor: Editor, node: gs.Node) -> None:
    """Add a constant per channel of an image the way a kernel in blocks of channels can.

    As a BatchNormalization with nothing to normalise: an Add of one number per channel would bring its
    other operand, and all behind it, back into the plain layout first.
    """
    for number, tensor in enumerate(node.inputs):
        values = editor.values(tensor)
        if values is None or values.ndim != 4 or values.shape[1] != values.size:
            continue
        if values.dtype != np.float32 or (editor.graph.opset or 0) < _PER_CHANNEL:
            continue
        node.op, node.attrs, parameters = as_channel_shift(values.reshape(-1))
        node.inputs = [
            node.inputs[1 - number],
            *(editor.new_constant(tensor.name, value) for value in parameters),
        ]
        return


def _rank(maker: gs.Node) -> int | None:
    """The number of axes of the output, where that is known: kernels have as many as what they make."""
    known = maker.outputs[0] if is_normalization(maker) else maker.inputs[1]
    return None if known.shape is None else len(known.shape)

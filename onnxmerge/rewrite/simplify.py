"""Nodes that do nothing leave a graph: sums with zero, concats of one tensor, what was just done before."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_graphsurgeon as gs

from onnxmerge.graph.edit import Editor

# Doing them twice is doing them once.
_IDEMPOTENT = ("Clip", "Relu")
# BatchNormalization is always per channel since this opset.
_PER_CHANNEL = 9
# Operators that add their third input per channel (axis 1).
_WITH_BIAS = ("BatchNormalization", "Conv", "ConvTranspose")


def simplify(editor: Editor, changed: Iterable[gs.Node]) -> None:
    """Take out nodes that do nothing, and sums with a constant where an operator before them can add it.

    Args:
        changed: the nodes that may have become so; nodes behind those that leave follow.
    """
    open_nodes = {id(node) for node in changed}
    for node in list(editor.graph.nodes):
        if id(node) not in open_nodes or node.domain not in (None, "", "ai.onnx"):
            continue
        kept = _passed(editor, node)
        if kept is None and node.op == "Add":
            kept = _into_producer(editor, node)
        if kept is None and node.op == "Add":
            _as_normalization(editor, node)
        if kept is not None:
            open_nodes |= {id(user) for user in node.outputs[0].outputs}
            _bypass(editor, node, kept)


def _passed(editor: Editor, node: gs.Node) -> gs.Tensor | None:
    """The input that a node passes on as it is, or None."""
    match node.op, list(node.inputs):
        case "Concat" | "Identity", [x]:
            return x
        case "Add", [a, b]:
            return a if _is_zero(editor, b) else b if _is_zero(editor, a) else None
        case "Sub", [a, b]:
            return a if _is_zero(editor, b) else None
        case op, [x, *bounds] if op in _IDEMPOTENT and len(x.inputs) == 1:
            before = x.inputs[0]
            same = len(before.inputs) == len(bounds) + 1 and all(
                a is b for a, b in zip(before.inputs[1:], bounds, strict=True)
            )
            return x if before.op == op and before.attrs == node.attrs and same else None
    return None


def _is_zero(editor: Editor, tensor: gs.Tensor) -> bool:
    values = editor.values(tensor)
    return values is not None and not np.any(values)


def _into_producer(editor: Editor, node: gs.Node) -> gs.Tensor | None:
    """Let what makes one operand of a sum add the other one, a constant; None where it cannot."""
    for tensor, other in (node.inputs, reversed(list(node.inputs))):
        values = editor.values(other)
        alone = len(tensor.inputs) == 1 and len(tensor.outputs) == 1 and not _is_output(editor, tensor)
        if values is None or not alone:
            continue
        maker = tensor.inputs[0]
        if maker.op == "Add" and _add_to_constant(editor, maker, values):
            return tensor
        if maker.op in _WITH_BIAS and _add_to_bias(editor, maker, values):
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
    bias = maker.inputs[2] if len(maker.inputs) > 2 and maker.inputs[2].name else None
    old = None if bias is None else editor.values(bias)
    if values.ndim != _rank(maker) or values.ndim < 2 or values.shape[1] != values.size:
        return False
    if bias is not None and (old is None or old.shape != (values.size,)):
        return False
    new = values.reshape(-1) if old is None else (old + values.reshape(-1)).astype(old.dtype)
    like = f"{maker.inputs[1].name}_bias" if bias is None else bias.name
    editor.set_input(maker, 2, editor.new_constant(like, new))
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
        shift = values.reshape(-1)
        one, zero = np.ones_like(shift), np.zeros_like(shift)
        parameters = [one, shift, zero, one]
        node.inputs = [
            node.inputs[1 - number],
            *(editor.new_constant(tensor.name, value) for value in parameters),
        ]
        node.op, node.attrs = "BatchNormalization", {"epsilon": 0.0}
        return


def _rank(maker: gs.Node) -> int | None:
    """The number of axes of the output, where that is known: kernels have as many as what they make."""
    known = maker.outputs[0] if maker.op == "BatchNormalization" else maker.inputs[1]
    return None if known.shape is None else len(known.shape)


def _is_output(editor: Editor, tensor: gs.Tensor) -> bool:
    return any(output is tensor for output in editor.graph.outputs)


def _bypass(editor: Editor, node: gs.Node, kept: gs.Tensor) -> None:
    """Let the users of a node's output read ``kept``; where that is a graph output, ``kept`` takes its name.

    A graph input, or another graph output, cannot: there the node stays.
    """
    output = node.outputs[0]
    if _is_output(editor, output):
        if len(kept.inputs) != 1 or _is_output(editor, kept):
            return
        node.outputs.clear()
        kept.inputs[0].outputs = [output if t is kept else t for t in kept.inputs[0].outputs]
        kept, output = output, kept
    else:
        node.outputs.clear()
    for user in list(output.outputs):
        user.inputs = [kept if t is output else t for t in user.inputs]
    node.inputs.clear()

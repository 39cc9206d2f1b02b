"""The reference for correctness: the untouched widths with a 0/1 mask before every contraction.

Before a mean the mask also says how many stay, and before a normalisation over channels the removed ones
hold the mean of the others: there, too, what remains is what the smaller model computes.

A pruned model must give the same outputs as its masked model, for any selection and any graph.
"""

from __future__ import annotations

import numpy as np

from onnxmerge.channels.groups import Channels
from onnxmerge.graph.edit import MULTIPLY, PRODUCT, SELECT, Editor
from onnxmerge.graph.view import NodeView


def mask(editor: Editor, channels: Channels, removed: np.ndarray) -> None:
    """Multiply masks onto the data operands of the contractions in the graph under edit.

    Args:
        removed: bool [channels.count], True where a channel goes.
    """
    for view, contract in channels.contracts():
        kept = ~removed[channels.of(contract.data)]
        if kept.all():
            continue
        node = editor.node(view)
        data = node.inputs[contract.operand]
        source = view.x[contract.operand]
        values = editor.values(data)
        dtype = values.dtype if values is not None else (data.dtype or np.float32)
        shape = [1] * source.rank
        shape[contract.data.axis] = len(kept)
        constant = editor.new_constant(f"{data.name}_kept", contract.mask(kept).astype(dtype).reshape(shape))
        output = editor.new_variable(f"{data.name}_masked", dtype)
        editor.insert(MULTIPLY, f"{view.name}_mask", [data, constant], output, before=node)
        node.inputs[contract.operand] = output
    for view, normalised in channels.normalised():
        for number, axis in zip(normalised.operands, normalised.data, strict=True):
            kept = ~removed[channels.of(axis)]
            if not kept.all():
                _fill(editor, view, number, kept, centred=normalised.centred)


def _fill(editor: Editor, view: NodeView, number: int, kept: np.ndarray, *, centred: bool) -> None:
    """Give removed positions of the last axis the mean of the others, or zero."""
    node = editor.node(view)
    data = node.inputs[number]
    values = editor.values(data)
    dtype = values.dtype if values is not None else (data.dtype or np.float32)
    filler = editor.new_constant(f"{data.name}_zero", np.zeros(1, dtype))
    if centred and kept.any():
        share = editor.new_constant(f"{data.name}_share", (kept / kept.sum()).astype(dtype)[:, None])
        filler = editor.new_variable(f"{data.name}_mean", dtype)
        editor.insert(PRODUCT, f"{view.name}_mean", [data, share], filler, before=node)
    constant = editor.new_constant(f"{data.name}_kept", kept)
    output = editor.new_variable(f"{data.name}_filled", dtype)
    editor.insert(SELECT, f"{view.name}_fill", [constant, data, filler], output, before=node)
    node.inputs[number] = output

"""Write compensated weights and biases into the consumers, at full size.

Cutting follows later, so the same folded graph serves the pruned model and its masked reference.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxmerge.channels.sites import FoldSite
from onnxmerge.rewrite.editing import Editor


@dataclass(frozen=True, eq=False)
class Fold:
    """What a compensation makes of one consumer.

    Attributes:
        weight: the consumer's weight at full size (columns of removed channels are ignored), or
            None where it stays.
        bias: what is added to the output per row of the weight, float64 [rows], or None.
    """

    site: FoldSite
    weight: np.ndarray | None
    bias: np.ndarray | None


def apply_folds(editor: Editor, folds: Iterable[Fold]) -> None:
    """Put the folds into the graph under edit; types of stored weights stay."""
    for fold in folds:
        if fold.weight is not None:
            tensor = editor.tensor(fold.site.weight.name)
            editor.set_values(tensor, fold.weight.astype(editor.values(tensor).dtype))
        if fold.bias is not None and np.any(fold.bias):
            _add_bias(editor, fold.site, fold.bias)


def _add_bias(editor: Editor, site: FoldSite, change: np.ndarray) -> None:
    """Add to the consumer's output: into its bias, a BatchNorm behind it, or a new bias."""
    node = editor.node(site.node)
    dtype = editor.values(editor.tensor(site.weight.name)).dtype
    bias = site.bias
    if bias is not None and bias.is_constant and bias.rank == 1 and bias.shape[0] == len(change):
        own = editor.own_input(node, _bias_input(node, bias.name))
        if own.name != bias.name:
            editor.follows[own.name] = {0: site.output}
        scale = node.attrs.get("beta", 1.0) if node.op == "Gemm" else 1.0
        values = editor.values(own)
        editor.set_values(own, (values.astype(np.float64) + change / scale).astype(values.dtype))
        return
    if bias is None and _into_batch_norm(editor, node, change):
        return
    if bias is None and node.op in ("Conv", "ConvTranspose", "FusedConv"):
        constant = editor.new_constant(f"{site.weight.name}_bias", change.astype(dtype), {0: site.output})
        editor.set_input(node, 2, constant)
        return
    _add_node(editor, site, node, change.astype(dtype))


def _bias_input(node: gs.Node, name: str) -> int:
    return next(i for i, tensor in enumerate(node.inputs) if tensor.name == name)


def _into_batch_norm(editor: Editor, node: gs.Node, change: np.ndarray) -> bool:
    users = node.outputs[0].outputs
    if len(users) != 1 or users[0].op != "BatchNormalization":
        return False
    norm = users[0]
    mean = norm.inputs[3]
    if editor.values(mean) is None or len(mean.outputs) != 1 or mean.shape[0] != len(change):
        return False
    values = editor.values(mean)
    editor.set_values(mean, (values.astype(np.float64) - change).astype(values.dtype))
    return True


def _add_node(editor: Editor, site: FoldSite, node: gs.Node, change: np.ndarray) -> None:
    """An Add after the consumer; its output takes over the consumer's name."""
    trailing = site.node.y[0].rank - 1 - site.output.axis
    constant = editor.new_constant(
        f"{site.weight.name}_bias", change.reshape(-1, *[1] * trailing), {0: site.output}
    )
    output = node.outputs[0]
    inner = editor.new_variable(f"{output.name}_unbiased", change.dtype)
    node.outputs[0] = inner
    position = next(i for i, n in enumerate(editor.graph.nodes) if n is node)
    following = editor.graph.nodes[position + 1] if position + 1 < len(editor.graph.nodes) else None
    if following is not None:
        editor.new_node("Add", f"{site.node.name}_bias", [inner, constant], output, before=following)
    else:
        editor.graph.nodes.append(
            gs.Node("Add", f"{site.node.name}_bias", inputs=[inner, constant], outputs=[output])
        )

"""Write compensated weights and biases into the consumers, at full size.

Cutting follows later, so the same folded graph serves the pruned model and its masked reference.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from onnxmerge.channels.blends import Blend
from onnxmerge.channels.sites import FoldSite
from onnxmerge.graph.edit import ADD, Editor
from onnxmerge.graph.external_weights import Scratch
from onnxmerge.graph.view import Axis, TensorView
from onnxmerge.operators.parameters import beta_of, is_plain_sum
from onnxmerge.operators.table import linear_of, normalization_of
from onnxmerge.operators.traits import Linear
from onnxmerge.rewrite.quantised import put_integers


@dataclass(frozen=True, eq=False)
class Fold:
    """What a compensation makes of one consumer.

    Attributes:
        weight: the consumer's weight at full size and in the type of the file (columns of removed
            channels are ignored), or None where it stays.
        bias: what is added to the output per row of the weight, float64 [rows], or None.
    """

    site: FoldSite
    weight: np.ndarray | None
    bias: np.ndarray | None

    @classmethod
    def of(
        cls, site: FoldSite, weight: np.ndarray | None, bias: np.ndarray | None, scratch: Scratch | None
    ) -> Fold:
        """A fold of a weight of any type; a big one goes to ``scratch``, where there is one."""
        if weight is not None:
            weight = site.on_grid(weight)
            if scratch is not None:
                weight = scratch.store(weight)
        return cls(site, weight, bias)


# What a compensation does to the stored numbers of a model, one after the other.
Change = Fold | Blend


def apply_folds(editor: Editor, folds: Iterable[Change]) -> None:
    """Put the folds into the graph under edit; types of stored weights stay."""
    for fold in folds:
        if isinstance(fold, Blend):
            _blend(editor, fold)
            continue
        change = fold.bias
        if fold.site.grid is not None:
            change = put_integers(editor, fold.site, fold.site.grid, fold.weight, fold.bias)
        elif fold.weight is not None:
            tensor = editor.tensor(fold.site.weight.name)
            editor.set_values(tensor, fold.weight.astype(_weight_values(editor, fold.site).dtype, copy=False))
        if change is not None and np.any(change):
            _add_bias(editor, fold.site, change)


def _blend(editor: Editor, blend: Blend) -> None:
    """A weight may have been folded along another axis before."""
    tensor = editor.tensor(blend.axis.tensor)
    values = editor.values(tensor)
    assert values is not None, "blends are of stored tensors"
    editor.set_values(tensor, blend.of(values))


def _add_bias(editor: Editor, site: FoldSite, change: np.ndarray) -> None:
    """Add to the consumer's output: into its bias, a BatchNorm behind it, or after it.

    A fused activation lies between the sum and the output: there only the operator's own bias will do.
    """
    node = editor.node(site.node)
    bias, output = site.bias, site.output
    assert output is not None, "a bias lies along an axis of the output"
    linear = linear_of(site.node)
    assert linear is not None, "fold sites are linear"
    has_bias_input = linear.bias is not None and output == site.node.y[0][linear.bias_axis]
    if bias is None and _into_batch_norm(editor, node, change):
        return
    if has_bias_input and (bias is None or _is_row(bias, len(change))):
        _set_bias(editor, site, node, linear, change)
    elif is_plain_sum(site.node):
        dtype = _weight_values(editor, site).dtype
        _add_node(editor, site, node, output, change.astype(dtype))


def _weight_values(editor: Editor, site: FoldSite) -> np.ndarray:
    values = editor.values(editor.tensor(site.weight.name))
    if values is None and site.grid is not None:
        return np.zeros(0, site.weight.source.dtype or np.float32)
    assert values is not None, "fold sites have stored weights"
    return values


def _is_row(bias: TensorView, count: int) -> bool:
    """Whether a stored bias is one number, or one per output channel."""
    return bias.is_constant and prod(bias.shape) in (1, count) and prod(bias.shape[:-1]) == 1


def _set_bias(editor: Editor, site: FoldSite, node: gs.Node, linear: Linear, change: np.ndarray) -> None:
    """Add to the node's own bias, or give it one; where it is multiplied by a factor, what that is put on."""
    scale, number, axis = beta_of(node), linear.bias, site.output
    assert number is not None and axis is not None, "there is a bias input, along an axis of the output"
    dtype = _weight_values(editor, site).dtype
    old = editor.values(node.inputs[number]) if site.bias is not None else None
    if old is None or scale == 0:
        node.attrs.pop(linear.beta, None)
        new, like = change.astype(dtype), f"{site.weight.name}_bias"
    else:
        new = (old.astype(np.float64).reshape(-1) + change / scale).astype(old.dtype)
        like = node.inputs[number].name
    if old is not None and old.shape == new.shape and scale != 0:
        own = editor.own_input(node, number)
        if site.bias is not None and own.name != site.bias.name:
            editor.follows[own.name] = {0: axis}
        editor.set_values(own, new)
    else:
        editor.set_input(node, number, editor.new_constant(like, new, {0: axis}))


def _into_batch_norm(editor: Editor, node: gs.Node, change: np.ndarray) -> bool:
    users = node.outputs[0].outputs
    alone = len(users) == 1 and not editor.is_output(node.outputs[0])
    normalization = normalization_of(users[0]) if alone else None
    if normalization is None:
        return False
    mean = users[0].inputs[normalization.mean]
    values = editor.values(mean)
    if values is None or not editor.read_once(mean) or values.shape != change.shape:
        return False
    editor.set_values(mean, (values.astype(np.float64) - change).astype(values.dtype))
    return True


def _add_node(editor: Editor, site: FoldSite, node: gs.Node, axis: Axis, change: np.ndarray) -> None:
    """An Add after the consumer; its output takes over the consumer's name."""
    trailing = site.node.y[0].rank - 1 - axis.axis
    constant = editor.new_constant(f"{site.weight.name}_bias", change.reshape(-1, *[1] * trailing), {0: axis})
    output = node.outputs[0]
    inner = editor.new_variable(f"{output.name}_unbiased", change.dtype)
    node.outputs[0] = inner
    editor.insert(ADD, f"{site.node.name}_bias", [inner, constant], output, after=node)

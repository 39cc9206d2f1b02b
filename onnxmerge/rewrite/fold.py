"""Write compensated weights and biases into the consumers, at full size.

Cutting follows later, so the same folded graph serves the pruned model and its masked reference.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from onnxmerge.channels.sites import FoldSite
from onnxmerge.graph.edit import ADD, Editor
from onnxmerge.graph.external_weights import Scratch
from onnxmerge.graph.view import Axis, TensorView
from onnxmerge.operators.grid import Grid, grid_of
from onnxmerge.operators.parameters import beta_of, is_plain_sum
from onnxmerge.operators.table import linear_of, normalization_of
from onnxmerge.operators.traits import Linear


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


def apply_folds(editor: Editor, folds: Iterable[Fold]) -> None:
    """Put the folds into the graph under edit; types of stored weights stay."""
    for fold in folds:
        if fold.site.grid is not None:
            _apply_quantised(editor, fold, fold.site.grid)
            continue
        if fold.weight is not None:
            tensor = editor.tensor(fold.site.weight.name)
            editor.set_values(tensor, fold.weight.astype(_weight_values(editor, fold.site).dtype, copy=False))
        if fold.bias is not None and np.any(fold.bias):
            _add_bias(editor, fold.site, fold.bias)


def _apply_quantised(editor: Editor, fold: Fold, grid: Grid) -> None:
    """Put a fold of a quantised weight into the integers, and its bias into those of the bias.

    The scale of a bias is that of the data times that of the weight, which runtimes rely on: both grow.
    """
    site, growth = fold.site, np.ones(1)
    if fold.weight is not None:
        growth = grid.growth(fold.weight.astype(np.float64))
        _set_integers(editor, grid, fold.weight.astype(np.float64), growth)
    bias = None if site.bias is None else grid_of(site.channels.view, site.bias)
    if bias is None or not bias.alone or bias.stored.rank != 1:
        if (
            fold.bias is not None
            and np.any(fold.bias)
            and not _new_integers(editor, site, grid, growth, fold.bias)
        ):
            _add_bias(editor, site, fold.bias)
        return
    stored = bias.stored.constant
    assert stored is not None, "a grid has stored integers"
    same = grid.axis in (None, site.rows) and growth.size in (1, bias.scale.size)
    change = 0.0 if fold.bias is None else fold.bias
    _set_integers(editor, bias, bias.values(stored) + change, growth if same else np.ones(1))


def _set_integers(editor: Editor, grid: Grid, values: np.ndarray, growth: np.ndarray) -> None:
    node = editor.node(grid.node)
    editor.set_values(node.inputs[0], grid.rounded(values, growth))
    scale = editor.values(node.inputs[1])
    assert scale is not None, "a grid has a stored scale"
    grown = scale * growth.reshape(scale.shape if growth.size == scale.size else ())
    editor.set_values(node.inputs[1], grown.astype(scale.dtype))


def _new_integers(editor: Editor, site: FoldSite, grid: Grid, growth: np.ndarray, bias: np.ndarray) -> bool:
    """Give an operator without a bias a quantised one; False where that is no place for it."""
    linear, view = linear_of(site.node), site.channels.view
    number = None if linear is None else linear.bias
    source = view.producer(site.data.tensor)
    step = source.x[1].constant if source is not None and source.op == grid.node.op else None
    if site.bias is not None or number is None or site.output is None or linear is None:
        return False
    if step is None or step.size != 1 or site.output != site.node.y[0][linear.bias_axis]:
        return False
    if grid.axis not in (None, site.rows):
        return False
    scale = float(step.reshape(-1)[0]) * grid.scale * growth
    along: dict[int, Axis] = {0: site.output}
    like = f"{grid.stored.name}_bias"
    integers = editor.new_constant(like, np.rint(bias / scale).astype(np.int32), along)
    several = scale.size > 1
    steps = scale.astype(step.dtype).reshape(-1 if several else ())
    stored = editor.new_constant(f"{like}_scale", steps, along if several else None)
    made = editor.new_variable(f"{like}_dequantized", step.dtype)
    node = editor.node(site.node)
    maker = editor.insert(grid.node.op, like, [integers, stored], made, before=node)
    if several:
        maker.attrs["axis"] = 0
    editor.set_input(node, number, made)
    return True


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
    if values is None or len(mean.outputs) != 1 or values.shape != change.shape:
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

"""Folds of quantised weights: integers again, so that runtimes still see what they have kernels for."""

from __future__ import annotations

import numpy as np

from onnxmerge.channels.sites import FoldSite
from onnxmerge.graph.edit import Editor
from onnxmerge.graph.view import Axis, NodeView
from onnxmerge.operators.grid import Grid, grid_of
from onnxmerge.operators.pointwise import is_add
from onnxmerge.operators.quantization import rounds
from onnxmerge.operators.table import linear_of


def put_integers(
    editor: Editor, site: FoldSite, grid: Grid, weight: np.ndarray | None, bias: np.ndarray | None
) -> np.ndarray | None:
    """Put a new weight and the change of a bias into the integers behind them.

    Args:
        weight: on the grid of the site, as ``FoldSite.on_grid`` gives it.
        bias: what is added to the output, float64 [rows].

    Returns:
        What is still to be added to the output; None where nothing is.
    """
    growth = np.ones(1)
    if weight is not None:
        growth = grid.growth(weight.astype(np.float64))
        _set(editor, grid, weight.astype(np.float64), growth)
    change = bias if bias is not None and np.any(bias) else None
    own = None if site.bias is None else _alone(site, site.bias.name)
    if own is not None:
        # Its scale is that of the data times that of the weight, which runtimes rely on: both grow.
        grows = (
            growth if grid.axis in (None, site.rows) and growth.size in (1, own.scale.size) else np.ones(1)
        )
        _set(editor, own, _values(own) + (0.0 if change is None else change), grows)
        return None
    if change is None or _new_bias(editor, site, grid, growth, change) or _next_bias(editor, site, change):
        return None
    return change


def _set(editor: Editor, grid: Grid, values: np.ndarray, growth: np.ndarray) -> None:
    node = editor.node(grid.node)
    editor.set_values(node.inputs[0], grid.rounded(values, growth))
    scale = editor.values(node.inputs[1])
    assert scale is not None, "a grid has a stored scale"
    grown = scale * growth.reshape(scale.shape if growth.size == scale.size else ())
    editor.set_values(node.inputs[1], grown.astype(scale.dtype))


def _values(grid: Grid) -> np.ndarray:
    stored = grid.stored.constant
    assert stored is not None, "a grid has stored integers"
    return grid.values(stored)


def _alone(site: FoldSite, name: str) -> Grid | None:
    """The grid of a stored vector of the site's outputs that nothing else reads."""
    view = site.channels.view
    grid = grid_of(view, view.tensor(name)) if name in view else None
    rows = 0 if site.output is None else site.output.size
    return grid if grid is not None and grid.alone and grid.stored.shape == (rows,) else None


def _new_bias(editor: Editor, site: FoldSite, grid: Grid, growth: np.ndarray, change: np.ndarray) -> bool:
    """Give an operator that could have a bias a quantised one; False where that is no place for it."""
    linear, view = linear_of(site.node), site.channels.view
    number = None if linear is None else linear.bias
    if site.bias is not None or number is None or site.output is None or linear is None:
        return False
    source = view.producer(site.data.tensor)
    step = source.x[1].constant if source is not None and source.op == grid.node.op else None
    if step is None or step.size != 1 or site.output != site.node.y[0][linear.bias_axis]:
        return False
    if grid.axis not in (None, site.rows):
        return False
    scale = float(step.reshape(-1)[0]) * grid.scale * growth
    along: dict[int, Axis] = {0: site.output}
    several, like = scale.size > 1, f"{grid.stored.name}_bias"
    integers = editor.new_constant(like, np.rint(change / scale).astype(np.int32), along)
    steps = scale.astype(step.dtype).reshape(-1 if several else ())
    stored = editor.new_constant(f"{like}_scale", steps, along if several else None)
    made = editor.new_variable(f"{like}_dequantized", step.dtype)
    node = editor.node(site.node)
    maker = editor.insert(grid.node.op, like, [integers, stored], made, before=node)
    if several:
        maker.attrs["axis"] = 0
    editor.set_input(node, number, made)
    return True


def _next_bias(editor: Editor, site: FoldSite, change: np.ndarray) -> bool:
    """Add to the stored operand of a sum that follows, behind the rounding of what the site computes."""
    following = _following_sum(site)
    if following is None:
        return False
    node, number = following
    operand = node.x[number]
    grid = _alone(site, operand.name)
    if grid is not None:
        values = _values(grid) + change
        _set(editor, grid, values, grid.growth(values))
        return True
    stored = operand.constant
    if stored is None or stored.shape != change.shape:
        return False
    own = editor.own_input(editor.node(node), number)
    editor.set_values(own, (stored.astype(np.float64) + change).astype(stored.dtype))
    if own.name != operand.name and site.output is not None:
        editor.follows[own.name] = {0: site.output}
    return True


def _following_sum(site: FoldSite) -> tuple[NodeView, int] | None:
    """The sum that alone reads the site's output, rounded, and the number of its other operand."""
    view, tensor = site.channels.view, site.node.y[0]
    if site.output is None or site.output != tensor[-1]:
        return None
    while tensor.name not in view.outputs and not view.captured(tensor.name):
        users = view.consumers(tensor.name)
        if len(users) != 1:
            return None
        user = users[0]
        if rounds(user):
            tensor = user.y[0]
        elif is_add(user) and len(user.x) == 2 and user.y[0].shape == tensor.shape:
            others = [i for i, x in enumerate(user.x) if x.name != tensor.name]
            return (user, others[0]) if len(others) == 1 else None
        else:
            return None
    return None

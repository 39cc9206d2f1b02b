"""Cut the removed positions out of every constant, and tell every node its new lengths."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import onnx_graphsurgeon as gs

from onnxmerge.channels.groups import Channels
from onnxmerge.graph import external_weights
from onnxmerge.graph.edit import SELECT, Editor
from onnxmerge.graph.view import Axis, NodeView
from onnxmerge.operators.relations import Index, Normalise, Size, Slot, Where, positions


def resize(editor: Editor, channels: Channels, removed: np.ndarray) -> None:
    """Remove channels from the graph under edit.

    Args:
        removed: bool [channels.count], True where a channel goes.
    """
    kept = ~removed[channels.label]
    for node, index in channels.indices():
        _renumber(editor, channels, kept, node, index)
    for node, normalised in channels.normalised():
        _rescale(editor, channels, kept, node, normalised)
    stated: dict[tuple[int, str | int], list[tuple[NodeView, Size]]] = defaultdict(list)
    for node, size in channels.sizes():
        stated[node.index, size.slot.place].append((node, size))
    for group in stated.values():
        _state(editor, channels, kept, group[0][0], [size for _, size in group])
    _cut(editor, channels, kept)


def _rescale(
    editor: Editor, channels: Channels, kept: np.ndarray, view: NodeView, normalised: Normalise
) -> None:
    """Let a normalisation over fewer positions compute what it computed over all of them."""
    now, before = _count(channels, kept, normalised.data[0])
    if now in (0, before):
        return
    node, ratio = editor.node(view), before / now
    scale = editor.own_input(node, normalised.scale)
    if scale.name not in channels.view:
        editor.follows[scale.name] = {0: view.x[normalised.scale][0]}
    values = np.asarray(editor.values(scale))
    editor.set_values(scale, (values.astype(np.float64) * np.sqrt(ratio)).astype(values.dtype))
    node.attrs["epsilon"] = float(normalised.epsilon * ratio)


def _cut(editor: Editor, channels: Channels, kept: np.ndarray) -> None:
    changed: dict[int, np.ndarray] = {}
    offset, size = channels.classes.offset, channels.classes.size
    for number in range(len(size)):
        mask = kept[offset[number] : offset[number] + size[number]]
        if not mask.all():
            changed[number] = np.flatnonzero(mask)
    cuts: dict[str, dict[int, np.ndarray]] = defaultdict(dict)
    for axis, number in channels.classes.number.items():
        if number in changed:
            cuts[axis.tensor][axis.axis] = changed[number]
    for name, followed in editor.follows.items():
        for place, axis in followed.items():
            if channels.classes.number[axis] in changed:
                cuts[name][place] = changed[channels.classes.number[axis]]
    for name, keep in cuts.items():
        if name in editor:
            _cut_tensor(editor, editor.tensor(name), keep)


def _cut_tensor(editor: Editor, tensor: gs.Tensor, axes: dict[int, np.ndarray]) -> None:
    values = editor.values(tensor)
    if values is not None:
        for axis, keep in axes.items():
            values = np.take(values, keep, axis=axis)
        editor.set_values(tensor, values)
        external_weights.release()
    elif tensor.shape is not None:
        # A name that stands for a length ("4*batch") stands for the same one in other tensors.
        tensor.shape = [
            length if i not in axes else len(axes[i]) if isinstance(length, int) else None
            for i, length in enumerate(tensor.shape)
        ]


def _count(channels: Channels, kept: np.ndarray, where: Where) -> tuple[int, int]:
    """(positions that remain, positions there were)"""
    mask = kept[channels.classes.ids(positions(where))]
    return int(mask.sum()), len(mask)


def _state(editor: Editor, channels: Channels, kept: np.ndarray, view: NodeView, sizes: list[Size]) -> None:
    """Write the new numbers of one attribute or shape operand of one node."""
    node = editor.node(view)
    place = sizes[0].slot.place
    counts = [(size, *_count(channels, kept, size.of)) for size in sizes]
    new = {
        size.slot.element: size.scale * now
        for size, now, before in counts
        if now != before or (_shrinks(channels, kept, size) and _from_the_end(editor, node, size.slot))
    }
    if not new:
        return
    everything = [size.scale * now for size, now, _ in counts]
    if isinstance(place, str):
        _state_attribute(node, place, new, everything)
        return
    if place >= len(node.inputs) or node.inputs[place].is_empty():
        editor.set_input(
            node, place, editor.new_constant(f"{view.name}_sizes", np.array(everything, dtype=np.int64))
        )
        node.attrs.pop("num_outputs", None)
        return
    if editor.values(node.inputs[place]) is not None:
        operand = editor.own_input(node, place)
        values = np.array(editor.values(operand))
        for element, number in new.items():
            values.reshape(-1)[element] = number
        editor.set_values(operand, values)
        return
    _override(editor, view, node, place, new)


def _shrinks(channels: Channels, kept: np.ndarray, size: Size) -> bool:
    """Whether any position of the axis goes, counted or not."""
    return not kept[channels.classes.ids(positions(size.of).axis)].all()


def _from_the_end(editor: Editor, node: gs.Node, slot: Slot) -> bool:
    """Whether the stated number is negative: it counts from the end, which moves."""
    if isinstance(slot.place, str):
        stated = node.attrs.get(slot.place)
    elif slot.place < len(node.inputs):
        stated = editor.values(node.inputs[slot.place])
    else:
        return False
    return slot.element is not None and stated is not None and int(np.ravel(stated)[slot.element]) < 0


def _state_attribute(node: gs.Node, name: str, new: dict[int | None, int], everything: list[int]) -> None:
    if None in new:
        node.attrs[name] = new[None]
        return
    node.attrs[name] = [new.get(i, value) for i, value in enumerate(node.attrs.get(name, everything))]


def _override(editor: Editor, view: NodeView, node: gs.Node, place: int, new: dict[int | None, int]) -> None:
    """Put fixed numbers over some elements of a computed shape."""
    operand = node.inputs[place]
    length = view.x[place].shape[0]
    chosen, numbers = np.zeros(length, dtype=bool), np.zeros(length, dtype=np.int64)
    for element, number in new.items():
        chosen[element], numbers[element] = True, number
    output = editor.new_variable(f"{operand.name}_resized", np.int64)
    inputs = [
        editor.new_constant(f"{operand.name}_mask", chosen),
        editor.new_constant(f"{operand.name}_sizes", numbers),
        operand,
    ]
    editor.insert(SELECT, f"{view.name}_shape", inputs, output, before=node)
    node.inputs[place] = output


def _renumber(editor: Editor, channels: Channels, kept: np.ndarray, view: NodeView, index: Index) -> None:
    mask = kept[channels.classes.ids(index.axis)]
    if mask.all():
        return
    node, number = editor.node(view), int(index.slot.place)
    operand = editor.own_input(node, number)
    if operand.name not in channels.view:
        editor.follows[operand.name] = {0: _first_axis(view, number)}
    values = np.array(editor.values(operand))
    old = np.where(values < 0, values + len(mask), values)
    # Entries of removed positions get any number: they are cut out right after.
    new = np.maximum(np.cumsum(mask)[old] - 1, 0)
    editor.set_values(operand, new.astype(values.dtype))


def _first_axis(view: NodeView, number: int) -> Axis:
    return view.x[number][0]

"""Normalisations: per channel they tie, over channels they take statistics of what remains, or mix."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxmerge.graph.view import NodeView
from onnxmerge.operators.pointwise import same_axes
from onnxmerge.operators.relations import Freeze, Mix, Normalise, Relation, Size, Slot, Tie


def per_channel(node: NodeView) -> Iterator[Relation]:
    """BatchNormalization, InstanceNormalization: parameters [C] along axis 1."""
    x = node.x[0]
    y = node.y[0]
    yield Tie(x[0], y[0])
    if x.rank < 2:
        return
    yield Tie(x[1], y[1])
    for parameter in node.x[1:]:
        if parameter.rank == 1:
            yield Tie(parameter[0], y[1])
        else:  # spatial = 0, before opset 9
            yield Freeze(x[1], f"{node.op} has parameters for every place")
    yield from (Tie(x[i], y[i]) for i in range(2, x.rank))
    if node.op != "BatchNormalization":
        yield from (Mix(y[i], f"{node.op} normalises over it") for i in range(2, x.rank))
    if node.attr("training_mode", 0):
        yield from (
            Mix(y[i], "BatchNormalization takes its statistics over it") for i in (0, *range(2, x.rank))
        )


def group_norm(node: NodeView) -> Iterator[Relation]:
    """GroupNormalization: a group lives and dies whole; parameters per group (opset 18) or channel (21)."""
    x, y = node.x[0], node.y[0]
    groups = node.attr("num_groups", 1)
    first = np.arange(groups) * (x[1].size // groups)
    yield Tie(x[0], y[0])
    yield Tie(x[1], y[1])
    yield Tie(x[1], x[1].take(np.repeat(first, x[1].size // groups)))
    yield Size(Slot("num_groups"), x[1].take(first))
    for parameter in node.x[1:3]:
        yield Tie(parameter[0], x[1] if parameter[0].size == x[1].size else x[1].take(first))


def layer_norm(node: NodeView) -> Iterator[Relation]:
    """LayerNormalization, RMSNormalization, the Skip* forms: all axes from ``axis`` on, or the last alone."""
    x, y = node.x[0], node.y[0]
    skip = node.op.startswith("Skip")
    start = (x.rank - 1 if skip else node.attr("axis", -1)) % x.rank
    yield from same_axes(node)
    for other in node.x[1:]:
        if other is None:
            continue
        for axis in range(1, other.rank + 1):
            if other[-axis].size == x[-axis].size:
                yield Tie(other[-axis], x[-axis], joins=skip and other.rank == x.rank)
    normalised = _over_channels(node, start, skip)
    if normalised is not None:
        yield normalised
        return
    for axis in range(start, x.rank):
        yield Mix(y[axis], f"{node.op} normalises over it")


def _over_channels(node: NodeView, start: int, skip: bool) -> Normalise | None:
    """The last axis as one that may lose positions; None where the statistics go elsewhere, too."""
    x, number = node.x[0], 2 if skip else 1
    scale = node.input(number)
    if start != x.rank - 1 or scale is None or scale.constant is None or scale.rank != 1:
        return None
    if scale.shape[0] != x[-1].size or any(y is not None for y in node.y[1:3]):
        return None
    operands = (0, 1, *([4] if "Simplified" not in node.op else [3])) if skip else (0,)
    read = tuple(i for i in operands if node.input(i) is not None)
    if any(node.x[i][-1].size != x[-1].size for i in read):
        return None
    centred = "Simplified" not in node.op and node.op != "RMSNormalization"
    epsilon = node.attr("epsilon", 1e-12 if skip else 1e-5)
    return Normalise(tuple(node.x[i][-1] for i in read), read, number, epsilon, centred)


def normalize_axis(node: NodeView) -> Iterator[Relation]:
    """LpNormalization: one axis; LRN: axis 1; MeanVarianceNormalization: the listed axes."""
    if node.op == "LRN":
        axes = [1]
    elif node.op == "MeanVarianceNormalization":
        axes = node.attr("axes", [0, 2, 3])
    else:
        axes = [node.attr("axis", -1)]
    yield from same_axes(node)
    yield from (Mix(node.y[0][axis], f"{node.op} normalises over it") for axis in axes)

"""Fused attention operators: whole heads live and die with their queries, keys and values."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np

from onnxmerge.graph.view import Axis, NodeView, Positions, TensorView
from onnxmerge.operators.relations import Contract, Freeze, Mix, Relation, Size, Slot, Tie


def _first_of_heads(axis: Axis, heads: int) -> Positions:
    """The first position of every head."""
    return axis.take(np.arange(heads) * (axis.size // heads))


def _per_head(tensor: TensorView | None, axis: int, heads: Positions, times: int = 1) -> Iterator[Relation]:
    """Tie an optional tensor whose axis counts heads (``times`` for each owner), unless it is broadcast."""
    if tensor is not None and tensor.rank > axis and tensor[axis].size > 1:
        yield Tie(tensor[axis], heads.axis.take(np.repeat(heads.index, times)))


def packed_products(node: NodeView) -> Iterator[tuple[int, tuple[Axis, ...]]]:
    """Multiplications of com.microsoft Attention: the projections, and those with and by the scores."""
    x, w, y = node.x[0], node.x[1], node.y[0]
    yield prod(x.shape) * w[1].size, (*x.axes, w[1])
    yield 2 * prod(y.shape) * x[1].size, (*y.axes, x[1])


def products(node: NodeView) -> Iterator[tuple[int, tuple[Axis, ...]]]:
    """Multiplications with the scores (queries by keys) and by them (of the values)."""
    query, key, value = node.x[0], node.input(1), node.input(2)
    if key is None or value is None or {query.rank, key.rank, value.rank} - {3, 4}:
        return
    sequence = key[-2]
    yield prod(query.shape) * sequence.size, (*query.axes, sequence)
    yield prod(node.y[0].shape) * sequence.size, (*node.y[0].axes, sequence)


def packed_attention(node: NodeView) -> Iterator[Relation]:
    """com.microsoft Attention: X [B, S, C], W [C, 3*H*D], bias [3*H*D] -> Y [B, S, H*D].

    A padding mask [B, S] says nothing of heads; past states, an attention bias and parts of unequal
    width are left alone.
    """
    x, w, bias, mask, y = node.x[0], node.x[1], node.input(2), node.input(3), node.y[0]
    heads = node.attr("num_heads", 1)
    yield Contract(x[2], w[0])
    extra = any(node.input(i) is not None for i in range(4, len(node.x)))
    if extra or node.attr("qkv_hidden_sizes") or len([t for t in node.y if t is not None]) > 1:
        yield Freeze(w[1], "Attention with past states, a bias of scores or unequal widths is not analysed")
        return
    if mask is not None and mask.rank > 2:
        yield Freeze(w[1], "Attention with a mask of scores is not analysed")
        return
    first = _first_of_heads(y[2], heads)
    width = w[1].size // 3
    owned = np.repeat(first.index, y[2].size // heads)
    for part in range(3):
        yield Tie(w[1].span(part * width, width), y[2].take(owned))
    yield Tie(y[2], y[2].take(owned))
    if bias is not None:
        yield Tie(bias[0], w[1])
    yield Size(Slot("num_heads"), first)


def multi_head_attention(node: NodeView) -> Iterator[Relation]:
    """com.microsoft MultiHeadAttention: query, key, value [B, S, H*D], bias [3*H*D] -> Y [B, S, H*D].

    Also: padding mask (input 4), bias of scores [1 or B, 1 or H, S, T] (5), past and present states
    [B, H, T, D] (6, 7; outputs 1, 2). Packed or transposed operands are left alone.
    """
    query, key, value, bias, y = node.x[0], node.input(1), node.input(2), node.input(3), node.y[0]
    heads = node.attr("num_heads", 1)
    if key is None or value is None or {query.rank, key.rank, value.rank} != {3}:
        return
    first = _first_of_heads(y[2], heads)
    for tensor in (query, key, value, y):
        yield Tie(tensor[2], y[2].take(np.repeat(first.index, tensor[2].size // heads)))
    if bias is not None:
        start = 0
        for tensor in (query, key, value):
            yield Tie(bias[0].span(start, tensor[2].size), tensor[2])
            start += tensor[2].size
    for optional in (node.input(5), node.input(6), node.input(7), *node.y[1:]):
        yield from _per_head(optional, 1, first)
    yield Size(Slot("num_heads"), first)


def grouped_attention(node: NodeView) -> Iterator[Relation]:
    """Attention (opset 23) and GroupQueryAttention: a key/value head lives with all query heads it serves.

    Operands are [B, S, H*D], or [B, H, S, D] for Attention; states and masks have heads on axis 1.
    """
    query, key, value, y = node.x[0], node.input(1), node.input(2), node.y[0]
    if key is None or value is None:
        return
    standard = node.op == "Attention"
    if query.rank == 4:
        served = query[1].size // key[1].size
        owner = key[1].all
        for tensor in (query, y):
            yield Tie(tensor[1], key[1].blocks(served))
        yield Tie(value[1], key[1])
        if node.attr("scale") is None:
            yield Mix(query[3], "attention scales by its length")
            yield Tie(query[3], key[3])
        else:
            yield Contract(query[3], key[3])
        yield Tie(value[3], y[3])
    else:
        names = ("q_num_heads", "kv_num_heads") if standard else ("num_heads", "kv_num_heads")
        q_heads, kv_heads = (node.attr(name) for name in names)
        if not q_heads or not kv_heads:
            return
        served = q_heads // kv_heads
        owner = _first_of_heads(key[2], kv_heads)
        for tensor in (query, key, value, y):
            yield Tie(tensor[2], key[2].take(np.repeat(owner.index, tensor[2].size // kv_heads)))
        yield Size(Slot(names[0]), owner, scale=served)
        yield Size(Slot(names[1]), owner)
    yield from _states_and_masks(node, owner, served, standard)


def _states_and_masks(node: NodeView, owner: Positions, served: int, standard: bool) -> Iterator[Relation]:
    past = (4, 5) if standard else (3, 4)
    for state in (*(node.input(i) for i in past), *node.y[1:3]):
        yield from _per_head(state, 1, owner)
    if standard:
        mask = node.input(3)
        for scores in (mask if mask is not None and mask.rank == 4 else None, *node.y[3:]):
            yield from _per_head(scores, 1, owner, served)


def rotary_embedding(node: NodeView) -> Iterator[Relation]:
    """RotaryEmbedding: X [B, S, H*D] or [B, H, S, D]; places within a head are turned in pairs."""
    x, y = node.x[0], node.y[0]
    if x.rank == 4:
        yield Tie(x[1], y[1])
        yield Freeze(x[3], "RotaryEmbedding turns its places in pairs")
        return
    heads = node.attr("num_heads", 0)
    if not heads:
        yield Freeze(x[2], "RotaryEmbedding does not say how many heads there are")
        return
    first = _first_of_heads(x[2], heads)
    owned = x[2].take(np.repeat(first.index, x[2].size // heads))
    yield Tie(x[2], owned)
    yield Tie(y[2], owned)
    yield Size(Slot("num_heads"), first)

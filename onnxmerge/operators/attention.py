"""Fused attention operators: whole heads live and die with their queries, keys and values."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxmerge.graph.view import Axis, NodeView
from onnxmerge.operators.relations import Contract, Freeze, Mix, Relation, Size, Slot, Tie


def _heads(axis: Axis, heads: int, start: int = 0, size: int | None = None) -> np.ndarray:
    """For ``size`` positions of ``axis`` from ``start``: the first position of their head."""
    size = axis.size if size is None else size
    width = size // heads
    return start + np.arange(size) // width * width


def packed_attention(node: NodeView) -> Iterator[Relation]:
    """com.microsoft Attention: X [B, S, C], W [C, 3*H*D], bias [3*H*D] -> Y [B, S, H*D]."""
    x, w, bias, y = node.x[0], node.x[1], node.input(2), node.y[0]
    heads = node.attr("num_heads", 1)
    yield Contract(x[2], w[0])
    if node.attr("qkv_hidden_sizes") or any(node.input(i) is not None for i in range(3, len(node.x))):
        yield Freeze(w[1], "Attention with masks, past states or unequal widths is not analysed")
        return
    width = w[1].size // 3
    for part in range(3):
        block = w[1].span(part * width, width)
        yield Tie(block, y[2].take(_heads(y[2], heads)))
    yield Tie(y[2], y[2].take(_heads(y[2], heads)))
    if bias is not None:
        yield Tie(bias[0], w[1])
    yield Size(Slot("num_heads"), y[2].take(np.arange(heads) * (y[2].size // heads)))


def multi_head_attention(node: NodeView) -> Iterator[Relation]:
    """com.microsoft MultiHeadAttention: query, key, value [B, S, H*D], bias [3*H*D] -> Y [B, S, H*D]."""
    query, key, value, bias, y = node.x[0], node.input(1), node.input(2), node.input(3), node.y[0]
    heads = node.attr("num_heads", 1)
    extra = any(node.input(i) is not None for i in range(4, len(node.x)))
    if extra or key is None or value is None or {query.rank, key.rank, value.rank} != {3}:
        return
    first = y[2].take(np.arange(heads) * (y[2].size // heads))
    for tensor in (query, key, value, y):
        yield Tie(tensor[2], y[2].take(_heads(y[2], heads)) if tensor[2].size == y[2].size else first)
    if bias is not None:
        start = 0
        for tensor in (query, key, value):
            yield Tie(bias[0].span(start, tensor[2].size), tensor[2])
            start += tensor[2].size
    yield Size(Slot("num_heads"), first)


def grouped_attention(node: NodeView) -> Iterator[Relation]:
    """Attention (opset 23) and GroupQueryAttention: a key/value head lives with all query heads it serves."""
    query, key, value, y = node.x[0], node.x[1], node.x[2], node.y[0]
    if query.rank == 4:
        served = query[1].size // key[1].size
        for tensor in (query, y):
            yield Tie(tensor[1], key[1].blocks(served))
        yield Tie(value[1], key[1])
        yield Mix(query[3], "attention scales by its length")
        yield Tie(query[3], key[3])
        yield Tie(value[3], y[3])
        return
    names = ("q_num_heads", "kv_num_heads") if node.op == "Attention" else ("num_heads", "kv_num_heads")
    q_heads, kv_heads = (node.attr(name) for name in names)
    if not q_heads or not kv_heads or key is None or value is None:
        return
    owner = key[2].take(np.arange(kv_heads) * (key[2].size // kv_heads))
    for tensor in (query, key, value, y):
        yield Tie(tensor[2], owner.axis.take(np.repeat(owner.index, tensor[2].size // kv_heads)))
    yield Size(Slot(names[0]), owner, scale=q_heads // kv_heads)
    yield Size(Slot(names[1]), owner)

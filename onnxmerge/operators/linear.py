"""Convolutions and matrix products: where channels are made, and where they are summed over."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np

from onnxmerge.graph.view import Axis, NodeView, TensorView
from onnxmerge.operators.pointwise import broadcast
from onnxmerge.operators.relations import Choice, Contract, Freeze, Option, Relation, Size, Slot, Tie


def conv(node: NodeView) -> Iterator[Relation]:
    """Conv, FusedConv: X [N, C, ...], W [M, C/group, ...], B [M] -> Y [N, M, ...]."""
    x, w, bias, y = node.x[0], node.x[1], node.input(2), node.y[0]
    groups = node.attr("group", 1)
    yield Tie(x[0], y[0])
    yield Tie(w[0], y[1])
    if bias is not None:
        yield Tie(bias[0], y[1])
    if node.input(3) is not None:  # FusedConv adds a tensor before its activation
        yield from broadcast([node.input(3)], y, joins=True)
    if groups == 1:
        yield Contract(x[1], w[1])
        return
    whole = whole_groups(x[1], y[1], groups)
    if w.shape[1] == 1:
        yield from whole.relations
        return
    inner = Option(w[1], (
        Contract(x[1], w[1].tiles(groups), blocks=groups),
        Tie(x[1], x[1].take(_first_tile(x[1].size, groups))),
        Tie(y[1], y[1].take(_first_tile(y[1].size, groups))),
    ))  # fmt: skip
    yield Choice((whole, inner))


def conv_transpose(node: NodeView) -> Iterator[Relation]:
    """ConvTranspose: X [N, C, ...], W [C, M/group, ...], B [M] -> Y [N, M, ...]."""
    x, w, bias, y = node.x[0], node.x[1], node.input(2), node.y[0]
    groups = node.attr("group", 1)
    yield Tie(x[0], y[0])
    if bias is not None:
        yield Tie(bias[0], y[1])
    if groups == 1:
        yield Contract(x[1], w[0])
        yield Tie(w[1], y[1])
        return
    whole = whole_groups(x[1], y[1], groups)
    whole = Option(whole.owner, (*whole.relations, Tie(x[1], w[0])))
    if w.shape[0] == groups and w.shape[1] == 1:
        yield from whole.relations
        return
    inner = Option(w[1], (
        Contract(x[1], w[0], blocks=groups),
        Tie(x[1], x[1].take(_first_tile(x[1].size, groups))),
        Tie(y[1], w[1].tiles(groups)),
    ))  # fmt: skip
    yield Choice((whole, inner))


def whole_groups(x: Axis, y: Axis, groups: int) -> Option:
    """A group lives and dies with all of its inputs and outputs, and the attribute counts the groups."""
    first = np.arange(groups) * (y.size // groups)
    return Option(y, (
        Tie(x, y.take(np.repeat(first, x.size // groups))),
        Tie(y, y.take(np.repeat(first, y.size // groups))),
        Size(Slot("group"), y.take(first)),
    ))  # fmt: skip


def _first_tile(size: int, groups: int) -> np.ndarray:
    """For every position the one at the same place in the first group."""
    return np.tile(np.arange(size // groups), groups)


def gemm(node: NodeView) -> Iterator[Relation]:
    """Gemm, FusedGemm: Y = alpha * A' B' + beta * C, with C broadcast."""
    a, b, c, y = node.x[0], node.x[1], node.input(2), node.y[0]
    rows, inner_a = (1, 0) if node.attr("transA", 0) else (0, 1)
    inner_b, columns = (1, 0) if node.attr("transB", 0) else (0, 1)
    yield _product(a, a[inner_a], b, b[inner_b])
    yield Tie(a[rows], y[0])
    yield Tie(b[columns], y[1])
    if c is not None:
        yield from broadcast([c], y)


def matmul(node: NodeView) -> Iterator[Relation]:
    """MatMul, FusedMatMul, as numpy.matmul: leading axes broadcast, vectors lose their axis."""
    a, b, y = node.x[0], node.x[1], node.y[0]
    if node.attr("transBatchA", 0) or node.attr("transBatchB", 0):
        for tensor in (a, b, y):
            yield from (Freeze(axis, "FusedMatMul moves its batch axes") for axis in tensor.axes)
        return
    rows, inner_a = (-1, -2) if node.attr("transA", 0) else (-2, -1)
    inner_b, columns = (-1, -2) if node.attr("transB", 0) else (-2, -1)
    if a.rank == 1:
        inner_a = -1
    if b.rank == 1:
        inner_b = -1
    yield _product(a, a[inner_a], b, b[inner_b])
    out = y.rank - 1
    if b.rank > 1:
        yield Tie(b[columns], y[out])
        out -= 1
    if a.rank > 1:
        yield Tie(a[rows], y[out])
        out -= 1
    for x in (a, b):
        for axis in range(3, x.rank + 1):
            if x[-axis].size == y[out + 3 - axis].size:
                yield Tie(x[-axis], y[out + 3 - axis])


def _product(a: TensorView, inner_a: Axis, b: TensorView, inner_b: Axis) -> Contract:
    """The sum over the inner axis; the data operand is the one that is not a constant."""
    if a.is_constant and not b.is_constant:
        return Contract(inner_b, inner_a, operand=1)
    return Contract(inner_a, inner_b, operand=0)


def einsum(node: NodeView) -> Iterator[Relation]:
    """Einsum without ellipsis and with each letter once per term."""
    equation = node.attr("equation", "").replace(" ", "")
    terms, _, result = equation.partition("->")
    letters = terms.split(",")
    unclear = "..." in equation or not result or any(len(set(t)) != len(t) for t in [*letters, result])
    if unclear or len(letters) > 2:
        for tensor in node.tensors:
            yield from (Freeze(axis, f"Einsum '{equation}' is not analysed") for axis in tensor.axes)
        return
    axes = [{letter: x[i] for i, letter in enumerate(t)} for t, x in zip(letters, node.x, strict=True)]
    for i, letter in enumerate(result):
        for term in axes:
            if letter in term and term[letter].size == node.y[0][i].size:
                yield Tie(term[letter], node.y[0][i])
    for number, term in enumerate(axes):
        for letter, axis in term.items():
            other = axes[1 - number].get(letter) if len(axes) == 2 else None
            if letter in result:
                continue
            if other is None:
                yield Contract(axis, None, operand=number)
            elif number == (1 if node.x[0].is_constant else 0):
                yield Contract(axis, other, operand=number)


def einsum_products(node: NodeView) -> Iterator[tuple[int, tuple[Axis, ...]]]:
    """Multiplications of Einsum over two operands: one for every combination of letters."""
    terms = node.attr("equation", "").replace(" ", "").partition("->")[0].split(",")
    if len(terms) != 2 or "..." in terms[0] + terms[1]:
        return
    axes: dict[str, Axis] = {}
    for term, x in zip(terms, node.x, strict=True):
        for letter, axis in zip(term, x.axes, strict=True):
            if letter not in axes or axes[letter].size == 1:
                axes[letter] = axis
    yield prod(axis.size for axis in axes.values()), tuple(axes.values())


Axes = tuple[tuple[Axis, ...], Axis | None]


def conv_macs(node: NodeView) -> int:
    """Multiplications of Conv: every output position has a kernel of its own."""
    return prod(node.y[0].shape) * prod(node.x[1].shape[1:])


def conv_macs_axes(node: NodeView, contract: Contract | None) -> Axes:
    """The axes that the multiplications of Conv are proportional to, and the one that is summed over."""
    return (*node.y[0].axes, node.x[1][1]), node.x[1][1]


def conv_transpose_macs(node: NodeView) -> int:
    """Multiplications of ConvTranspose: every input position puts down a kernel."""
    return prod(node.x[0].shape) * prod(node.x[1].shape[1:])


def conv_transpose_macs_axes(node: NodeView, contract: Contract | None) -> Axes:
    """The axes that those of ConvTranspose are proportional to, and the one that is summed over."""
    return (*node.x[0].axes, node.x[1][1]), node.x[0][1]


def product_macs(node: NodeView) -> int:
    """Multiplications of Gemm and MatMul."""
    transposed = node.attr("transA", 0) and node.x[0].rank > 1
    return prod(node.y[0].shape) * node.x[0].shape[-2 if transposed else -1]


def product_macs_axes(node: NodeView, contract: Contract | None) -> Axes:
    """The axes that those of a product are proportional to, and the one that is summed over."""
    axes = tuple(node.y[0].axes)
    return (axes, None) if contract is None else ((*axes, contract.data), contract.data)

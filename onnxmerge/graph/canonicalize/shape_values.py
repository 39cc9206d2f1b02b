"""Where the numbers in a computed shape come from.

Exporters write ``x.reshape(x.shape[0], 8, -1)`` as Shape -> Gather -> Unsqueeze -> Concat -> Reshape.
This follows such chains of integers element by element: a known number, the length of some axis,
or something else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxmerge.graph.constants import constant_values


@dataclass(frozen=True)
class Dim:
    """An element that is the length of an axis; ``value`` where the length is fixed."""

    tensor: str
    axis: int
    value: int | None = None


Element = int | Dim | None
# Longer integer vectors are data, not shapes.
MOST_ELEMENTS = 64


def _quotient(a: int, b: int) -> int | None:
    """Integer division as ONNX does it: towards zero."""
    return None if b == 0 else abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


_ARITHMETIC: dict[str, Callable[[int, int], int | None]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Div": _quotient,
    "Mod": lambda a, b: a % b if b else None,
    "Min": min,
    "Max": max,
}
CHAIN_OPERATORS = {
    "Cast", "Concat", "Gather", "Identity", "Reshape", "Shape", "Slice", "Squeeze", "Unsqueeze",
}  # fmt: skip
# (operator, input number) that takes a shape.
SHAPE_OPERANDS = {("Reshape", 1), ("Expand", 1), ("ConstantOfShape", 0), ("Resize", 3)}


class ShapeValues:
    """Element-wise view of integer tensors.

    Args:
        ranks: rank of every tensor that a Shape node may look at.
        static: for tensors whose fixed lengths are known, the shape with None for the others.
    """

    def __init__(self, ranks: Mapping[str, int], static: Mapping[str, Sequence[int | None]] | None = None):
        self._ranks = ranks
        self._static = static or {}
        self._seen: dict[str, list[Element] | None] = {}

    def elements(self, tensor: gs.Tensor) -> list[Element] | None:
        """The elements of an integer tensor of rank 0 or 1, or None where it is something else.

        Chains may be as long as a deep model: what a tensor is made of is looked at first, without recursion.
        """
        ahead = [(tensor, False)]
        while ahead:
            current, ready = ahead.pop()
            if ready:
                self._seen[current.name] = self._evaluate(current)
            elif current.name not in self._seen:
                self._seen[current.name] = None  # a cycle cannot be a shape
                ahead += [(current, True), *((operand, False) for operand in _operands(current))]
        return self._seen[tensor.name]

    def _evaluate(self, tensor: gs.Tensor) -> list[Element] | None:
        values = constant_values(tensor) if _small(tensor) else None
        if values is not None:
            if values.ndim > 1 or values.size > MOST_ELEMENTS or values.dtype.kind not in "iu":
                return None
            return [int(v) for v in values.reshape(-1)]
        if len(tensor.inputs) != 1:
            return None
        node = tensor.inputs[0]
        if node.op == "Shape":
            return self._shape(node)
        if node.op in _ARITHMETIC and len(node.inputs) == 2:
            return self._arithmetic(node)
        if is_choice(node):
            return self._choice(node)
        if node.op not in CHAIN_OPERATORS:
            return None
        if node.op == "Concat":
            parts = [self._seen[part.name] for part in node.inputs]
            return None if any(p is None for p in parts) else [e for p in parts for e in p or ()]
        data = self._seen[node.inputs[0].name]
        if data is None or node.op in ("Identity", "Unsqueeze", "Squeeze", "Reshape"):
            return data
        if node.op == "Cast":
            return data
        if node.op == "Gather":
            index = constant_values(node.inputs[1])
            if index is None or index.ndim > 1 or np.any(np.abs(index) >= len(data) + (index < 0)):
                return None
            return [data[int(i)] for i in index.reshape(-1)]
        return self._slice(node, data)

    def _shape(self, node: gs.Node) -> list[Element] | None:
        name = node.inputs[0].name
        if name not in self._ranks:
            return None
        rank = self._ranks[name]
        known = list(self._static.get(name) or [None] * rank)
        tiled = _tiled(node.inputs[0])
        if tiled is not None:
            # Inference gives up where one of the counts is computed; the others are known.
            before, counts = self._static.get(tiled[0].name), self._seen.get(tiled[1].name)
            if before and counts and len(before) == len(counts) == rank:
                same = [length if n == 1 else None for length, n in zip(before, counts, strict=True)]
                known = [b if a is None else a for a, b in zip(known, same, strict=True)]
        dims: list[Element] = [Dim(name, i, known[i]) for i in range(rank)]
        return dims[slice(node.attrs.get("start", 0), node.attrs.get("end"))]

    def _arithmetic(self, node: gs.Node) -> list[Element] | None:
        a, b = (self._seen[x.name] for x in node.inputs)
        if not a or not b or (len(a) != len(b) and 1 not in (len(a), len(b))):
            return None
        count = max(len(a), len(b))
        pairs = zip(a * (count // len(a)), b * (count // len(b)), strict=True)
        compute = _ARITHMETIC[node.op]
        return [
            None if (u := value_of(p)) is None or (v := value_of(q)) is None else compute(u, v)
            for p, q in pairs
        ]

    def _choice(self, node: gs.Node) -> list[Element] | None:
        """``Where(a == b, then, otherwise)``, as exporters replace -1 in the shape of an Expand."""
        operands = [*node.inputs[0].inputs[0].inputs, *node.inputs[1:]]
        lists = [self._seen[x.name] for x in operands]
        count = max(len(elements or ()) for elements in lists)
        if any(not elements or len(elements) not in (1, count) for elements in lists):
            return None
        chosen: list[Element] = []
        for a, b, then, otherwise in zip(*(e * (count // len(e)) for e in lists if e), strict=True):
            same = _equal(a, b)
            chosen.append(None if same is None else then if same else otherwise)
        return chosen

    def _slice(self, node: gs.Node, data: list[Element]) -> list[Element] | None:
        if len(node.inputs) == 1:
            return data[slice(node.attrs["starts"][0], node.attrs["ends"][0])]
        bounds = [constant_values(x) for x in node.inputs[1:3]]
        steps = [constant_values(x) for x in node.inputs[4:5] if x.name] or [np.ones(1, np.int64)]
        if any(b is None or b.size != 1 for b in (*bounds, *steps)):
            return None
        start, end, step = (int(np.ravel(b)[0]) for b in (*bounds, *steps) if b is not None)
        return data[start:end:step] if step else None


def _operands(tensor: gs.Tensor) -> list[gs.Tensor]:
    """The integers that a computed tensor's elements are made of."""
    if isinstance(tensor, gs.Constant) or len(tensor.inputs) != 1:
        return []
    node = tensor.inputs[0]
    if is_choice(node):
        return [*node.inputs[0].inputs[0].inputs, *node.inputs[1:]]
    if node.op == "Concat" or (node.op in _ARITHMETIC and len(node.inputs) == 2):
        return list(node.inputs)
    if node.op == "Shape":
        tiled = _tiled(node.inputs[0])
        return [] if tiled is None else [tiled[1]]
    return list(node.inputs[:1]) if node.op in CHAIN_OPERATORS else []


def _tiled(tensor: gs.Tensor) -> tuple[gs.Tensor, gs.Tensor] | None:
    """What a Tile repeats, and how often, where a tensor is made by one."""
    maker = tensor.inputs[0] if len(tensor.inputs) == 1 else None
    return (maker.inputs[0], maker.inputs[1]) if maker is not None and maker.op == "Tile" else None


def is_comparison(tensor: gs.Tensor) -> bool:
    """Whether a tensor says where two others are equal."""
    return len(tensor.inputs) == 1 and tensor.inputs[0].op == "Equal" and len(tensor.inputs[0].inputs) == 2


def is_choice(node: gs.Node) -> bool:
    """Whether a node chooses between two tensors by where two others are equal."""
    return node.op == "Where" and is_comparison(node.inputs[0])


def _equal(a: Element, b: Element) -> bool | None:
    """Whether two elements are equal; None where that is not known. A length is never negative."""
    u, v = value_of(a), value_of(b)
    if u is not None and v is not None:
        return u == v
    pairs = ((u, b), (v, a))
    return False if any(n is not None and n < 0 and isinstance(e, Dim) for n, e in pairs) else None


def _small(tensor: gs.Tensor) -> bool:
    stored = tensor if isinstance(tensor, gs.Constant) else None
    return stored is None or int(np.prod(stored.shape)) <= MOST_ELEMENTS


def value_of(element: Element) -> int | None:
    """The number, where it is known."""
    return element.value if isinstance(element, Dim) else element

"""Evaluate what depends on nothing but stored values: standardised weights, tables of positions, lengths.

Only what the rest of the graph reads is stored in place of what it was computed from; what lies between
vanishes. A file must not grow by it: a large result may not outgrow the values that it comes from, and
those that something else reads as they are stay, so that a large result would be a second copy.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, prod
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxmerge.graph.constants import constant_tensor, constant_values
from onnxmerge.graph.external_weights import Scratch
from onnxmerge.graph.extract import evaluate
from onnxmerge.graph.working_graph import export_node

# A result larger than this, and than its inputs, would only bloat the file.
MOST_FOLDED_ELEMENTS = 1 << 16
# Each result element is made from the operands' at its place.
_POINTWISE = {
    "Abs", "Acos", "Add", "And", "Asin", "Atan", "Cast", "CastLike", "Ceil", "Clip", "Cos", "Cosh", "Div",
    "Elu", "Equal", "Erf", "Exp", "Floor", "Greater", "GreaterOrEqual", "HardSigmoid", "Identity", "IsInf",
    "IsNaN", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or",
    "Pow", "Reciprocal", "Relu", "Round", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Sqrt", "Sub",
    "Sum", "Tan", "Tanh", "Where", "Xor",
}  # fmt: skip
# The results have no more elements than the operands together.
_REARRANGING = {
    "BatchNormalization", "Concat", "CumSum", "Flatten", "InstanceNormalization", "LayerNormalization",
    "LpNormalization", "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "ReduceSumSquare", "Reshape", "ScatterElements", "ScatterND", "Shape", "Size", "Slice",
    "Softmax", "Split", "Squeeze", "Transpose", "Trilu", "Unsqueeze",
}  # fmt: skip
_FOLDABLE = (
    _POINTWISE
    | _REARRANGING
    | {"ConstantOfShape", "Expand", "Gather", "GatherElements", "Gemm", "MatMul", "Range", "Tile"}
)


def fold_constants(graph: gs.Graph, scratch: Scratch | None = None) -> dict[str, np.ndarray]:
    """Replace what depends on stored values alone by its value.

    Quantised weights keep their DequantizeLinear.

    Args:
        graph: sorted; nodes that are not needed any more stay in it, without a use.
        scratch: where big results go; None: they stay in memory.

    Returns:
        The new constants by name.
    """
    folding = _Folding(graph, scratch)
    folding.run()
    return folding.stored


class _Folding:
    """One walk along the graph.

    Small results are stored at once. Large ones are only held, until the last node that is evaluated with
    them, unless a node that stays reads them.
    """

    def __init__(self, graph: gs.Graph, scratch: Scratch | None) -> None:
        self._graph, self._scratch = graph, scratch
        self._vanishing = _computable(graph)
        self._ahead = Counter(
            x.name for node in graph.nodes if id(node) in self._vanishing for x in node.inputs
        )
        self._held: dict[str, _Held] = {}
        self._spent: dict[str, int] = defaultdict(int)
        self._replaced: list[_Replaced] = []
        self.stored: dict[str, np.ndarray] = {}

    def run(self) -> None:
        for node in self._graph.nodes:
            if id(node) in self._vanishing:
                operands = list(node.inputs)
                if not self._fold(node):
                    self._vanishing.discard(id(node))
                self._let_go(operands)
        self._take_back()

    def _fold(self, node: gs.Node) -> bool:
        """Evaluate a node; its results are held, or stored in its place. False: the node stays."""
        operands: dict[str, np.ndarray] = {}
        origins: dict[str, gs.Tensor] = {}
        for x in node.inputs:
            held = self._held.get(x.name)
            values = constant_values(x) if held is None else held.values
            if x.name and values is None:
                return False  # what should have made it could not be evaluated
            if x.name and values is not None:
                operands[x.name] = values
                large = values.size > MOST_FOLDED_ELEMENTS
                origins |= held.origins if held is not None else {x.name: x} if large else {}
        allowed = max(MOST_FOLDED_ELEMENTS, sum(values.size for values in operands.values()))
        expected = _result_count(node, list(operands.values()))
        needed = self._read_by(node, vanishing=True)
        copied = expected > MOST_FOLDED_ELEMENTS and not needed and self._stay(origins)
        if expected > allowed or copied:
            return False
        results = _evaluate(node, operands, self._graph.opset or 1)
        size = sum(values.size for values in results.values())
        if not results or size > allowed:
            return False
        if size <= MOST_FOLDED_ELEMENTS:
            self._store(node, results)
            return True
        read = self._read_by(node, vanishing=False)
        if read and self._pays(origins, size):
            tensors = [(y, y.dtype, y.shape) for y in node.outputs]
            self._replaced.append(_Replaced(node, list(node.inputs), tensors, origins))
            self._store(node, results)
            return True
        self._held |= {name: _Held(values, origins) for name, values in results.items()}
        return not read

    def _read_by(self, node: gs.Node, *, vanishing: bool) -> bool:
        """Whether a node reads a result that will vanish, or one that will stay."""
        return any((id(user) in self._vanishing) == vanishing for y in node.outputs for user in y.outputs)

    def _stay(self, origins: Mapping[str, gs.Tensor]) -> bool:
        """Whether something reads one of these constants as it is."""
        return any(id(user) not in self._vanishing for x in origins.values() for user in x.outputs)

    def _pays(self, origins: Mapping[str, gs.Tensor], size: int) -> bool:
        """Whether a large result takes no more room than the largest constant that vanishes for it."""
        if not origins or self._stay(origins):
            return False
        room = {name: prod(_stored(x).shape) - self._spent[name] for name, x in origins.items()}
        largest = max(room, key=lambda name: room[name])
        if size > room[largest]:
            return False
        self._spent[largest] += size
        return True

    def _store(self, node: gs.Node, results: Mapping[str, np.ndarray]) -> None:
        """Turn a node's results into constants of the same names."""
        tensors = list(node.outputs)
        node.outputs.clear()
        node.inputs.clear()
        for tensor in tensors:
            if tensor.name in results:
                values = results[tensor.name]
                self.stored[tensor.name] = values if self._scratch is None else self._scratch.store(values)
                tensor.to_constant(self.stored[tensor.name])

    def _take_back(self) -> None:
        """Undo what was stored in the place of constants that are needed after all: it would be a copy."""
        for replaced in reversed(self._replaced):
            if self._stay(replaced.origins):
                self._vanishing.discard(id(replaced.node))
                replaced.node.inputs.extend(replaced.inputs)
                for tensor, dtype, shape in replaced.outputs:
                    if self.stored.pop(tensor.name, None) is not None:
                        tensor.to_variable(dtype, shape)
                    replaced.node.outputs.append(tensor)

    def _let_go(self, operands: Sequence[gs.Tensor]) -> None:
        """Forget held values that nothing is evaluated with any more."""
        self._ahead.subtract(x.name for x in operands)
        for x in operands:
            if self._ahead[x.name] <= 0:
                self._held.pop(x.name, None)


@dataclass(frozen=True, eq=False)
class _Held:
    """A large result, and the large stored constants that it comes from, by name."""

    values: np.ndarray
    origins: Mapping[str, gs.Tensor]


@dataclass(frozen=True, eq=False)
class _Replaced:
    """A node whose large results were stored: operands, results with types and shapes, and origins."""

    node: gs.Node
    inputs: Sequence[gs.Tensor]
    outputs: Sequence[tuple[gs.Tensor, Any, Any]]
    origins: Mapping[str, gs.Tensor]


def _computable(graph: gs.Graph) -> set[int]:
    """The nodes (by identity) that depend on nothing but stored values, and make no output of the model."""
    outputs = {tensor.name for tensor in graph.outputs}
    known: set[int] = set()
    for node in graph.nodes:
        operands = [x for x in node.inputs if x.name]
        if (
            node.op in _FOLDABLE
            and node.domain in (None, "", "ai.onnx")
            and operands
            and not any(y.name in outputs for y in node.outputs)
            and all(
                constant_tensor(x) is not None or (x.inputs and id(x.inputs[0]) in known) for x in operands
            )
        ):
            known.add(id(node))
    return known


def _stored(tensor: gs.Tensor) -> gs.Constant:
    stored = constant_tensor(tensor)
    assert stored is not None, "only stored constants come here"
    return stored


def _result_count(node: gs.Node, operands: Sequence[np.ndarray]) -> float:
    """About how many elements a node on constants gives, infinite where nothing sensible is stated."""
    shapes: list[tuple[int, ...]] = [operand.shape for operand in operands]
    try:
        if node.op in ("ConstantOfShape", "Expand"):
            wanted = [int(v) for v in operands[-1].reshape(-1)]
            return prod(np.broadcast_shapes(wanted, shapes[0] if node.op == "Expand" else ()))
        if node.op == "Tile":
            return prod(shapes[0]) * prod([int(v) for v in operands[1].reshape(-1)])
        if node.op == "Range":
            start, limit, delta = (float(x) for x in operands)
            return abs(limit - start) / abs(delta)
        if node.op == "Gather":
            return prod(shapes[0]) // max(shapes[0][int(node.attrs.get("axis", 0))], 1) * prod(shapes[1])
        if node.op == "GatherElements":
            return prod(shapes[1])
        if node.op in ("Gemm", "MatMul"):
            return prod(shapes[0][:-1]) * prod(shapes[1]) / max(shapes[1][0 if len(shapes[1]) < 2 else -2], 1)
        if node.op.startswith("Reduce"):
            axes = operands[1].reshape(-1).tolist() if len(operands) > 1 else node.attrs.get("axes")
            gone = {int(a) % len(shapes[0]) for a in axes or range(len(shapes[0]))}
            return prod(length for i, length in enumerate(shapes[0]) if i not in gone)
        if node.op in _REARRANGING:
            return sum(prod(shape) for shape in shapes)
        return prod(np.broadcast_shapes(*shapes))
    except (TypeError, ValueError, ZeroDivisionError, IndexError):
        return inf


def _evaluate(node: gs.Node, operands: Mapping[str, np.ndarray], opset: int) -> dict[str, np.ndarray]:
    """The results of a node by name; nothing where it cannot be evaluated."""
    made = [y.name for y in node.outputs if y.name and y.outputs]
    if node.op == "Identity":
        return {name: next(iter(operands.values())) for name in made}
    if node.op == "Transpose":
        values = np.transpose(operands[node.inputs[0].name], node.attrs.get("perm"))
        return {name: np.ascontiguousarray(values) for name in made}
    results = evaluate([export_node(node)], operands, made, opset)
    return {} if results is None else dict(zip(made, results, strict=True))

"""LSTM, GRU, RNN: a hidden unit owns its row in every gate and its column in the recurrence."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from onnxmerge.graph.view import Axis, NodeView
from onnxmerge.operators.relations import Contract, Relation, Size, Slot, Tie
from onnxmerge.operators.traits import Node, name_of

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
# The operands that are stored parameters: W, R, B and P; the others are lengths and states.
WEIGHTS = (1, 2, 3, 7)


def is_recurrent(node: Node) -> bool:
    """Whether a node is a recurrent layer."""
    return name_of(node) in _GATES


def recurrent(node: NodeView) -> Iterator[Relation]:
    """X [T, B, I], W [D, G*H, I], R [D, G*H, H], B [D, 2*G*H], states [D, B, H], P [D, 3*H]
    -> Y [T, D, B, H].

    The recurrence sums over the hidden units inside of the operator; a mask on the columns of R is
    the same as one on the hidden state.
    """
    x, w, r = node.x[0], node.x[1], node.x[2]
    gates = _GATES[node.op]
    hidden = r[2]
    yield Contract(x[2], w[2])
    yield Contract(hidden, None, operand=2)
    yield Tie(w[1], hidden.tiles(gates))
    yield Tie(r[1], hidden.tiles(gates))
    if node.input(3) is not None:
        yield Tie(node.x[3][1], hidden.tiles(2 * gates))
    for number in (5, 6):
        state = node.input(number)
        if state is not None:
            yield Tie(state[2], hidden)
    if node.input(7) is not None:
        yield Tie(node.x[7][1], hidden.tiles(3))
    for y in node.y:
        if y is not None:
            yield Tie(y[-1], hidden)
    yield Size(Slot("hidden_size"), hidden)


def products(node: NodeView) -> Iterator[tuple[int, tuple[Axis, ...]]]:
    """Multiplications by W and by R, at all steps, and the axes that their numbers are proportional to."""
    x = node.x[0]
    for weight in node.x[1:3]:
        yield prod(x.shape[:2]) * prod(weight.shape), (x[0], x[1], *weight.axes)

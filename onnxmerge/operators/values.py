"""What operators do with values, as far as data and answers go: who moves, selects, compares or decides.

For following a tensor through a file to where its numbers matter, by name alone and whatever the domain;
operators that no rule speaks for are among them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import Enum, auto
from math import prod

import onnx

from onnxmerge.operators.traits import attribute

_RESHAPING = frozenset(("Flatten", "Reshape", "Squeeze", "Unsqueeze"))
_SELECTING = frozenset(("Gather", "GatherElements", "GatherND", "Slice", "Split"))
# The first output has the values of the first input, only elsewhere or of another type.
_MOVING = frozenset(
    (*_RESHAPING, *_SELECTING, "Cast", "CastLike", "Expand", "Identity", "Pad", "Tile", "Transpose")
)
# All values are handed on in the same order along every axis.
_ORDERED = frozenset((*_RESHAPING, "Dropout", "Identity", "Transpose"))
# What may stand between the pixels and the first convolution: values are moved or rescaled one by one.
_PREPROCESSING = frozenset(
    (
        *("Add", "BatchNormalization", "Cast", "Clip", "Concat", "DequantizeLinear", "Div", "Identity"),
        *("Max", "Min", "Mul", "Pad", "Pow", "QuantizeLinear", "Relu", "Reshape", "Resize", "Slice"),
        *("Split", "Squeeze", "Sub", "Transpose", "Unsqueeze", "Upsample"),
    )
)
_CONVOLVING = frozenset(("Conv", "ConvInteger", "ConvTranspose", "QLinearConv"))
_NORMALISING = frozenset(("LogSoftmax", "Sigmoid", "Softmax"))
# Operators that decide, and the input that they decide on.
_DECIDING = {"ArgMax": 0, "TopK": 0, "Hardmax": 0, "NonMaxSuppression": 1}
_COMPARING = frozenset(("Greater", "GreaterOrEqual", "Less", "LessOrEqual"))
# Operators whose results are sequences, maps or optionals.
# What says more than its result, or the same: how many operands, counted from the first, -1 for all.
_HANDS_ON = {
    **dict.fromkeys((*_RESHAPING, *_NORMALISING), 1),
    **dict.fromkeys(("ArgMax", "Dropout", "Identity", "Transpose"), 1),
    "Concat": -1,
}
# Numbers are turned into others one by one, and hardly one of them is lost.
_RECODING = frozenset(("Add", "Cast", "Div", "Exp", "Mul", "Neg", "Pow", "Sqrt", "Sub"))
_NO_TENSORS = frozenset(
    (
        *("CastMap", "Optional", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert"),
        *("SequenceMap", "SplitToSequence", "ZipMap"),
    )
)


class Operand(Enum):
    """What the values of an input mean to an operator that does not compute with them."""

    CONDITION = auto()
    INDICES = auto()
    INITIAL_STATE = auto()
    SEQUENCE_LENGTHS = auto()
    SIZES = auto()


_OPERANDS = {
    **dict.fromkeys([("Where", 0), ("If", 0), ("Not", 0)], Operand.CONDITION),
    **dict.fromkeys([("And", 0), ("And", 1), ("Or", 0), ("Or", 1)], Operand.CONDITION),
    **dict.fromkeys([("Gather", 1), ("GatherElements", 1), ("GatherND", 1)], Operand.INDICES),
    **dict.fromkeys([("ScatterElements", 1), ("ScatterND", 1)], Operand.INDICES),
    **dict.fromkeys([("GRU", 5), ("LSTM", 5), ("LSTM", 6), ("RNN", 5)], Operand.INITIAL_STATE),
    **dict.fromkeys([("GRU", 4), ("LSTM", 4), ("RNN", 4)], Operand.SEQUENCE_LENGTHS),
    **dict.fromkeys([("Reshape", 1), ("Expand", 1), ("Tile", 1)], Operand.SIZES),
    **dict.fromkeys([("Resize", 3), ("ConstantOfShape", 0), ("TopK", 1)], Operand.SIZES),
}


def operand(node: onnx.NodeProto, slot: int) -> Operand | None:
    """What the values of an input mean to a node; None where it computes with them, or moves them."""
    return _OPERANDS.get((node.op_type, slot))


def indexed_axis(node: onnx.NodeProto) -> int | None:
    """The axis that the indices of a node select along; None for several axes at once."""
    return None if node.op_type.endswith("ND") else int(attribute(node, "axis", 0))


def moves(node: onnx.NodeProto, slot: int) -> bool:
    """Whether the values of an input are found in the outputs, elsewhere or of another type."""
    return node.op_type == "Concat" or (node.op_type in _MOVING and slot == 0)


def target_shape(node: onnx.NodeProto) -> int | None:
    """The number of the input of a node that states the shape of its output; None for other nodes."""
    return 1 if node.op_type == "Reshape" and len(node.input) > 1 else None


def preprocesses(node: onnx.NodeProto) -> bool:
    """Whether a node may stand between the pixels of an image and the first convolution."""
    return node.op_type in _PREPROCESSING


def convolves(node: onnx.NodeProto) -> bool:
    """Whether a node is a convolution of some kind, quantised ones included."""
    return node.op_type in _CONVOLVING


def makes_no_tensor(node: onnx.NodeProto) -> bool:
    """Whether the results are sequences, maps or optionals, which have no shape."""
    return node.op_type in _NO_TENSORS


def decided_on(node: onnx.NodeProto) -> int | None:
    """The number of the input whose scores a node chooses by; None for nodes that choose nothing."""
    return _DECIDING.get(node.op_type)


def normalises(node: onnx.NodeProto) -> bool:
    """Whether a node turns scores into probabilities, or their logarithms."""
    return node.op_type in _NORMALISING


def operands_that_say_all(op: str, operands: list[str]) -> list[str]:
    """The operands that say more than an operator's result, or the same; empty where none do."""
    count = _HANDS_ON.get(op, 0)
    return operands if count < 0 else operands[:count]


def recodes(op: str) -> bool:
    """Whether an operator turns numbers into others one by one, or leaves some of them out."""
    return op in _RECODING or op in _SELECTING


def competes(op: str) -> bool:
    """Whether an operator turns scores into probabilities that add up to 1."""
    return op == "Softmax"


def moves_or_selects(op: str) -> bool:
    """Whether the values of an operator's first input are found in its outputs, or some of them."""
    return op in _MOVING


def is_logistic(node: onnx.NodeProto) -> bool:
    """Whether a node turns every score into a probability of its own."""
    return node.op_type == "Sigmoid"


def judges_alone(node: onnx.NodeProto) -> bool:
    """Whether scores do not compete where a node normalises them or decides by them: each counts alone."""
    return node.op_type in ("NonMaxSuppression", "Sigmoid")


def compares(node: onnx.NodeProto) -> bool:
    """Whether a node compares scores, with each other or a threshold."""
    return node.op_type in _COMPARING


def chooses(node: onnx.NodeProto) -> bool:
    """Whether a node chooses among results, and makes no others of them."""
    return node.op_type in _SELECTING or node.op_type in ("Concat", "ReduceMax")


def joined_axis(node: onnx.NodeProto) -> int | None:
    """The axis that a node lays its inputs one after the other along; None for other nodes."""
    return int(attribute(node, "axis", 0)) if node.op_type == "Concat" else None


def suppression(node: onnx.NodeProto) -> tuple[str, str] | None:
    """The tensors that hold the overlap and the score that boxes are suppressed by; None for other nodes."""
    if node.op_type != "NonMaxSuppression":
        return None
    names = [*node.input, "", "", ""]
    return names[3], names[4]


def keeps_channels(node: onnx.NodeProto) -> bool:
    """Whether a node changes the size of maps and leaves their channels what they are."""
    return node.op_type in ("Resize", "Upsample")


def is_unit_length(node: onnx.NodeProto, maker: Callable[[str], onnx.NodeProto | None]) -> bool:
    """Whether a node brings vectors to length 1: at once, or as x / |x| with a guard against zero.

    Args:
        maker: the node that makes a tensor.
    """
    if node.op_type == "LpNormalization":
        return bool(attribute(node, "p", 2) == 2)
    if node.op_type not in ("Div", "Mul"):
        return False
    for data, norm in ((0, 1), (1, 0)) if node.op_type == "Mul" else ((0, 1),):
        name = node.input[norm]
        inverse = node.op_type == "Div"
        for _ in range(8):
            made = maker(name)
            if made is None:
                break
            if made.op_type in ("ReduceL2", "ReduceSumSquare", "ReduceSum"):
                if inverse and _squares(made, node.input[data], maker):
                    return True
                break
            if made.op_type == "Reciprocal":
                inverse = not inverse
            elif made.op_type not in _GUARDS:
                break
            name = made.input[0]
    return False


# What may stand between a sum of squares and the division by its root.
_GUARDS = frozenset(
    ("Add", "Clip", "Expand", "Identity", "Max", "Pow", "Reshape", "Shape", "Sqrt", "Unsqueeze", "Tile")
)


def _squares(reduced: onnx.NodeProto, of: str, maker: Callable[[str], onnx.NodeProto | None]) -> bool:
    """Whether a sum is one of the squares of a tensor."""
    if reduced.op_type != "ReduceSum":
        return reduced.input[0] == of
    inner = maker(reduced.input[0])
    return inner is not None and inner.op_type in ("Abs", "Mul", "Pow") and of in inner.input


def competing_axis(node: onnx.NodeProto, opset: int) -> tuple[int, bool]:
    """The axis along which scores compete in a node, and whether all axes from it on are one."""
    joint = opset < 13 and (normalises(node) or node.op_type == "Hardmax")
    usual = {"ArgMax": 0, "TopK": -1}.get(node.op_type, 1 if joint else -1)
    return attribute(node, "axis", usual), joint


def quantised_from(node: onnx.NodeProto) -> str | None:
    """The tensor of integers that a DequantizeLinear makes numbers of; None for other nodes."""
    return node.input[0] if node.op_type == "DequantizeLinear" else None


def passed_on(
    node: onnx.NodeProto, scalar: Callable[[str], float | None], floats: Sequence[int]
) -> int | None:
    """The input that a node hands on as it is, or scaled and shifted (a temperature); None for others.

    Args:
        scalar: the value of a stored tensor of one element; None for other tensors.
        floats: the element types that keep scores what they are.
    """
    op = node.op_type
    if op in _ORDERED:
        return 0
    if op == "Cast":
        return 0 if attribute(node, "to") in floats else None
    if op in ("QuantizeLinear", "DequantizeLinear"):
        return 0 if scalar(node.input[1]) is not None else None
    if op not in ("Mul", "Div", "Add", "Sub") or len(node.input) != 2:
        return None
    for slot in (0, 1) if op in ("Mul", "Add") else (0,):
        factor = scalar(node.input[1 - slot])
        if factor is not None and (factor > 0 or op in ("Add", "Sub")):
            return slot
    return None


def axis_pairs(
    node: onnx.NodeProto, x: Sequence[int | None], y: Sequence[int | None]
) -> Iterator[tuple[int, int]]:
    """Which axis of the input of a node that hands values on is which of its output.

    Args:
        x, y: the lengths of the axes of input and output, None where they are open.
    """
    if node.op_type == "Transpose":
        perm = attribute(node, "perm", list(range(len(x)))[::-1])
        yield from ((source, target) for target, source in enumerate(perm))
    elif node.op_type in _RESHAPING:
        for i, length in enumerate(x):
            for j, other in enumerate(y):
                if length not in (None, 1) and length == other:
                    behind, before = (_product(x[i + 1 :]), _product(y[j + 1 :])), list(x[:i]) == list(y[:j])
                    if (behind[0] == behind[1] and None not in behind) or before:
                        yield i, j
    elif len(x) == len(y):
        yield from ((i, i) for i in range(len(x)))


def _product(lengths: Sequence[int | None]) -> int | None:
    return None if None in lengths else prod(n or 0 for n in lengths)

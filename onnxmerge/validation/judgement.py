"""What an output means, and so how a change of it is judged: what the graph tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import onnx
from onnx import TensorProto

from onnxmerge.arguments import refused
from onnxmerge.errors import UsageError
from onnxmerge.operators.parameters import output_columns
from onnxmerge.operators.pointwise import is_add
from onnxmerge.operators.table import linear_of
from onnxmerge.operators.traits import Form
from onnxmerge.validation.kinds import (
    KINDS,
    Classes,
    Embeddings,
    Integers,
    Kind,
    Masks,
    Probabilities,
    Sequences,
    Values,
)
from onnxmerge.validation.scores import FLOATS, Scores, Use, declared_shape

_EXACT = (
    *(TensorProto.BOOL, TensorProto.STRING, TensorProto.UINT8, TensorProto.INT8, TensorProto.UINT16),
    *(TensorProto.INT16, TensorProto.UINT32, TensorProto.INT32, TensorProto.UINT64, TensorProto.INT64),
)
_LEAST_CLASSES = 10  # fewer outputs of a last Gemm are as likely coordinates or a regression
_LEAST_TOKENS = 1000  # fewer columns of a last layer over a sequence are as likely features

Shape = list[int | None] | None


@dataclass(frozen=True)
class Judgement:
    """How a change of one output is judged.

    Attributes:
        how: the kind, with what it needs to read the output.
        words: how and why, and what to pass for another judgement: one sentence for a person.
        outputs: those that are read together, in the order that ``how`` expects; empty: this one alone.
        asked: the kind that the user asked for; None where it was guessed.
        marked: whether an operator of the graph says so, and not the shape alone.
    """

    how: Kind
    words: str = ""
    outputs: tuple[str, ...] = ()
    asked: str | None = None
    marked: bool = True

    @property
    def kind(self) -> str:
        """The name of the kind."""
        return self.how.name


def output_kinds(model: onnx.ModelProto, overrides: Mapping[str, str] | None = None) -> dict[str, Judgement]:
    """How each output of the model is judged, in order, as far as the graph tells; see ``seen`` for the rest.

    Scores that are, or lead to, a Softmax, LogSoftmax, ArgMax or TopK are ``classes``, along the axis of
    that operator (of maps ``masks``, of sequences ``sequences``), and those that are or lead to a Sigmoid, or
    to a NonMaxSuppression, ``probabilities`` (of one map ``masks``): directly, through operators that only
    pass them on or scale them, or because another output is made of them. An only output is ``classes`` also
    where it ends in a Gemm or MatMul (and the Add of a bias) with at least 10 columns; with 1000 or more,
    and more than it is made of, at every step of a sequence, an output is ``sequences``. What is brought to
    length 1 is ``embeddings``. Other floats are ``values``; strings and booleans are compared like integers.

    Args:
        overrides: kinds by name, where the guess is wrong.

    Raises:
        UsageError: unknown names or kinds.
    """
    outputs = {output.name: output for output in model.graph.output}
    for name, kind in (overrides or {}).items():
        if name not in outputs:
            raise UsageError(f"output_kinds= names {name!r}; the model's outputs are {', '.join(outputs)}")
        if kind not in KINDS:
            raise refused("output_kinds", f"one of {', '.join(KINDS)}", kind, name)
    scores = Scores(model)
    found = {name: _judged(output, scores, alone=len(outputs) == 1) for name, output in outputs.items()}
    return found | {
        name: _asked(kind, found[name], outputs[name]) for name, kind in (overrides or {}).items()
    }


def class_scores(judgements: Mapping[str, Judgement]) -> list[str]:
    """The outputs that hold scores of classes."""
    return [name for name, judged in judgements.items() if judged.how.of_classes]


def _judged(output: onnx.ValueInfoProto, scores: Scores, alone: bool) -> Judgement:
    name, tensor, shape = output.name, output.type.tensor_type, declared_shape(output)
    if tensor.elem_type in _EXACT:
        texts, booleans = (tensor.elem_type == kind for kind in (TensorProto.STRING, TensorProto.BOOL))
        reason = f"it holds {'texts' if texts else 'booleans' if booleans else 'whole numbers'}"
        return Judgement(Integers(), words_of(Integers(), reason))
    # Where an exporter left out type or shape, the graph alone decides.
    if tensor.elem_type in (*FLOATS, 0):
        use = scores.use_of(name)
        how: Kind | None = None if use is None else _of_use(use, shape)
        if use is not None and how is not None:
            return Judgement(how, words_of(how, _reason(use), name))
        if use is None and scores.ends_in_unit_length(name):
            how = Embeddings(-1 if shape is None or len(shape) < 4 else 1)
            return Judgement(how, words_of(how, "its vectors are brought to length 1", name))
        columns, of = _columns(scores.behind(name), scores) if use is None else (0, 0)
        rank = len(shape or [0, 0])
        if rank == 2 and alone and columns >= _LEAST_CLASSES:
            reason = f"it is the only output, and ends in a layer with {columns} columns"
            return Judgement(Classes(), words_of(Classes(), reason, name), marked=False)
        if rank == 3 and columns >= _LEAST_TOKENS and columns > of:
            reason = f"it ends in a layer that makes {columns} columns of {of} at every position"
            return Judgement(Sequences(), words_of(Sequences(), reason, name), marked=False)
    reason = "it leads to no Softmax, Sigmoid, ArgMax or TopK"
    return Judgement(Values(), words_of(Values(), reason, name, "classes"), marked=False)


def _of_use(use: Use, shape: Shape) -> Kind | None:
    """The kind of scores that a graph marks; None where there is nothing to choose from."""
    maps = shape is not None and len(shape) == 4
    if use.alone:
        one = [axis for axis in (1, 3) if maps and shape is not None and shape[axis] == 1]
        if use.logistic and len(one) == 1 and shape is not None and _is_map(shape, one[0]):
            return Masks(one[0], threshold=0.5 if use.own else 0.0)
        return Probabilities(use.logistic and not use.own)
    axis = _competing(use, shape)
    if axis is None:
        return None
    if maps and shape is not None and _is_map(shape, axis % 4):
        return Masks(axis % 4)
    if shape is not None and len(shape) == 3 and axis % 3 == 2 and 1 not in (shape[1], shape[2]):
        return Sequences()
    return Classes(axis)


def _is_map(shape: list[int | None], axis: int) -> bool:
    """Whether there are pixels beside the axis of the classes."""
    return axis in (1, 3) and all(length != 1 for i, length in enumerate(shape) if i not in (0, axis))


def _asked(kind: str, found: Judgement, output: onnx.ValueInfoProto) -> Judgement:
    """The judgement that was asked for, along the axis that the graph tells, else the usual one."""
    if found.kind == kind:
        return replace(found, words=words_of(found.how, "as asked"), asked=kind)
    shape = declared_shape(output)
    rank = 0 if shape is None else len(shape)
    usual = 1 if rank > 3 else -1
    axis = getattr(found.how, "axis", usual)
    how: Kind
    match kind:
        case "classes" | "embeddings":
            how = KINDS[kind](axis)  # type: ignore[call-arg]
        case "masks":
            last = rank == 4 and shape is not None and (shape[3] or 1e9) < (shape[1] or 1e9)
            how = Masks(axis if rank != 4 else 3 if last else 1)
        case "detections":
            # How they lie in the outputs is seen in the values.
            how = found.how
        case _:
            how = KINDS[kind]()
    return Judgement(how, words_of(how, "as asked"), asked=kind)


def _competing(use: Use, shape: Shape) -> int | None:
    """The axis of class scores; None where there is none, or nothing to choose from along it."""
    axis = use.axis if use.axis is not None or shape is None or len(shape) != 2 else 1
    if axis is None or shape is None:
        return axis
    return axis if -len(shape) <= axis < len(shape) and shape[axis] != 1 else None


def _reason(use: Use) -> str:
    return f"it is a {use.op}" if use.own else f"it leads to the {use.op} '{use.name}'"


def words_of(how: Kind, reason: str, name: str | None = None, instead: str = "values") -> str:
    """One sentence; with a name it ends in how to get another kind for that output."""
    if name is None:
        return f"judged by {how.judged_by} ({reason})"
    option = f"output_kinds={{'{name}': '{instead}'}} (--output-kind {name}={instead})"
    otherwise = {"values": "compares the numbers instead", "integers": "counts the elements that differ"}
    return f"judged by {how.judged_by} ({reason}); {option} {otherwise.get(instead, 'if it holds scores')}"


def _columns(node: onnx.NodeProto | None, scores: Scores) -> tuple[int, int]:
    """The columns of the Gemm or MatMul (and Add of a constant) that ends here, and of its input; else 0."""
    added = node is not None and is_add(node)
    if node is not None and added:
        node = next((scores.behind(x) for x in node.input if scores.stored_shape(x) is None), None)
    linear = None if node is None else linear_of(node)
    if node is None or linear is None or linear.form is not Form.PRODUCT or linear.fused:
        return 0, 0
    weight = scores.stored_shape(node.input[1]) or ()
    if len(weight) < 2 or (added and linear.bias is not None):
        return 0, 0
    columns = output_columns(node, weight)
    return columns, weight[-1] * weight[-2] // max(columns, 1)

"""What an output means, and so how a change of it is judged."""

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
from onnxmerge.validation.scores import FLOATS, Scores, Use, declared_shape

KINDS = ("classes", "probabilities", "values", "integers")

_EXACT = (
    *(TensorProto.BOOL, TensorProto.STRING, TensorProto.UINT8, TensorProto.INT8, TensorProto.UINT16),
    *(TensorProto.INT16, TensorProto.UINT32, TensorProto.INT32, TensorProto.UINT64, TensorProto.INT64),
)
_LEAST_CLASSES = 10  # fewer outputs of a last Gemm are as likely coordinates or a regression


@dataclass(frozen=True)
class Judgement:
    """How a change of one output is judged.

    Attributes:
        kind: ``classes``: the share of answers whose highest score is another one; ``probabilities``: the
            share of the probability that moves; ``values``: |y' - y| / |y|; ``integers``: the share of
            elements that differ.
        axis: of class scores, along which the highest one is looked for.
        logits: of probabilities, whether a sigmoid is still to come.
        words: how and why, and what to pass for another judgement: one sentence for a person.
    """

    kind: str
    axis: int = -1
    logits: bool = False
    words: str = ""


def output_kinds(model: onnx.ModelProto, overrides: Mapping[str, str] | None = None) -> dict[str, Judgement]:
    """How each output of the model is judged, in order.

    Scores that are, or lead to, a Softmax, LogSoftmax, ArgMax or TopK are ``classes``, along the axis of
    that operator, and those that are or lead to a Sigmoid, or to a NonMaxSuppression, ``probabilities``:
    directly, through operators that only pass them on or scale them, or because another output is made of
    them. An only output is ``classes`` also where it ends in a Gemm or MatMul (and the Add of a bias) with
    at least 10 columns. Other floats are ``values``; strings and booleans are compared like integers.

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


def _judged(output: onnx.ValueInfoProto, scores: Scores, alone: bool) -> Judgement:
    name, tensor, shape = output.name, output.type.tensor_type, declared_shape(output)
    if tensor.elem_type in _EXACT:
        texts, booleans = (tensor.elem_type == kind for kind in (TensorProto.STRING, TensorProto.BOOL))
        reason = f"it holds {'texts' if texts else 'booleans' if booleans else 'whole numbers'}"
        return Judgement("integers", words=_words("integers", reason))
    # Where an exporter left out type or shape, the graph alone decides.
    if tensor.elem_type in (*FLOATS, 0):
        use = scores.use_of(name)
        if use is not None and use.alone:
            words = _words("probabilities", _reason(use), name, "values")
            return Judgement("probabilities", logits=use.logistic and not use.own, words=words)
        axis = None if use is None else _competing(use, shape)
        if use is not None and axis is not None:
            return Judgement(
                "classes", axis, words=_words("classes", _reason(use), name, "values", axis, shape)
            )
        columns = _columns(scores.behind(name), scores) if use is None and alone else 0
        if columns >= _LEAST_CLASSES and len(shape or [0, 0]) == 2:
            reason = f"it is the only output, and ends in a layer with {columns} columns"
            return Judgement("classes", words=_words("classes", reason, name, "values"))
    reason = "it leads to no Softmax, Sigmoid, ArgMax or TopK"
    return Judgement("values", words=_words("values", reason, name, "classes"))


def _asked(kind: str, found: Judgement, output: onnx.ValueInfoProto) -> Judgement:
    """The judgement that was asked for, along the axis that the graph tells, else the usual one."""
    shape = declared_shape(output)
    axis = found.axis if found.kind == "classes" else 1 if shape is not None and len(shape) > 3 else -1
    words = _words(kind, "as asked", axis=axis, shape=shape)
    return replace(found, kind=kind, axis=axis, words=words)


def _competing(use: Use, shape: list[int | None] | None) -> int | None:
    """The axis of class scores; None where there is none, or nothing to choose from along it."""
    axis = use.axis if use.axis is not None or shape is None or len(shape) != 2 else 1
    if axis is None or shape is None:
        return axis
    return axis if -len(shape) <= axis < len(shape) and shape[axis] != 1 else None


def _reason(use: Use) -> str:
    return f"it is a {use.op}" if use.own else f"it leads to the {use.op} '{use.name}'"


def _words(
    kind: str,
    reason: str,
    name: str | None = None,
    instead: str | None = None,
    axis: int = -1,
    shape: list[int | None] | None = None,
) -> str:
    """One sentence; with ``instead`` it ends in how to get that kind for the output ``name``."""
    place = f" along axis {axis}" if shape is not None and len(shape) > 2 else ""
    how = {
        "classes": f"the class with the highest score{place}",
        "probabilities": "how much of the probability moves",
        "values": "|y' - y| / |y|, the relative change of its numbers",
        "integers": "the share of its elements that differ",
    }[kind]
    if instead is None:
        return f"judged by {how} ({reason})"
    option = f"output_kinds={{'{name}': '{instead}'}} (--output-kind {name}={instead})"
    otherwise = (
        f"{option} compares the numbers instead" if instead == "values" else f"{option} if it holds scores"
    )
    return f"judged by {how} ({reason}); {otherwise}"


def _columns(node: onnx.NodeProto | None, scores: Scores) -> int:
    """The columns of the Gemm or MatMul (and Add of a constant) that ends here, 0 if it is neither."""
    added = node is not None and is_add(node)
    if node is not None and added:
        node = next((scores.behind(x) for x in node.input if scores.stored_shape(x) is None), None)
    linear = None if node is None else linear_of(node)
    if node is None or linear is None or linear.form is not Form.PRODUCT or linear.fused:
        return 0
    weight = scores.stored_shape(node.input[1]) or ()
    if len(weight) < 2 or (added and linear.bias is not None):
        return 0
    return output_columns(node, weight)

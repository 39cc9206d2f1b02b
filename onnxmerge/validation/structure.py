"""Is a file a valid ONNX model? The checks of the onnx package, as one sentence each."""

from __future__ import annotations

import os
import re

import onnx
from google.protobuf.message import DecodeError, EncodeError

from onnxmerge.errors import ModelError
from onnxmerge.graph import external_weights, wire_format
from onnxmerge.operators.parameters import invalid_count


def check_model(model: onnx.ModelProto | str | os.PathLike[str]) -> list[str]:
    """Check a model (by path if it is above 2 GB or has external data).

    Returns:
        Warnings of what onnxruntime may well accept: shapes that contradict strict inference, and operators
        of a domain that the model does not import.

    Raises:
        ModelError: the model breaks the specification; the message names the node.
    """
    source = _checkable(model) if isinstance(model, onnx.ModelProto) else os.fspath(model)
    warnings: list[str] = []
    try:
        onnx.checker.check_model(source)
    except onnx.checker.ValidationError as failure:
        text = _sentence(failure)
        if not re.search(r"No opset import for domain '(?!'|ai\.onnx')", text):
            raise ModelError(f"the model is not valid ONNX: {text}") from failure
        return [text]
    except (DecodeError, OSError) as failure:
        raise ModelError(f"not a readable ONNX model: {_sentence(failure)}") from failure
    except (EncodeError, ValueError) as failure:
        return [
            f"the model was not checked, because it is too large to check in memory: {_sentence(failure)}"
        ]
    if isinstance(source, onnx.ModelProto):
        _check_counts(source.graph)
    try:
        onnx.checker.check_model(source, full_check=True)
    except Exception as failure:  # inference raises its own class, and others for shapes it cannot follow
        warnings.append(f"strict shape inference fails: {_sentence(failure)}")
    return warnings


def _checkable(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, or, where its weights lie in files, one that takes them as inputs: as valid as the model.

    The checker refuses absolute paths, and the weights themselves are nothing to it.
    """
    references = external_weights.references(model)
    if not references:
        return model
    changed = wire_format.frame(model)
    names = {tensor.name for tensor in references}
    inputs = {value.name for value in model.graph.input}
    changed.graph.initializer.extend(t for t in model.graph.initializer if t.name not in names)
    changed.graph.input.extend(
        onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims)
        for t in references
        if t.name not in inputs
    )
    return changed


def _check_counts(graph: onnx.GraphProto) -> None:
    """Refuse counts of zero that the specification forbids, no checker sees, and onnxruntime divides by."""
    for node in graph.node:
        bad = invalid_count(node)
        if bad is not None:
            name = node.name or next(iter(node.output), "?")
            raise ModelError(
                f"the model is not valid ONNX: {bad[0]} of {node.op_type} '{name}' is {bad[1]}, "
                "it is at least 1"
            )


def _sentence(failure: BaseException) -> str:
    lines = [line.strip() for line in str(failure).splitlines() if line.strip()]
    text = "; ".join(lines).replace("==> Context: ", "")
    return text[:400].rstrip(". ") or type(failure).__name__

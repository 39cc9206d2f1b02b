"""What an output means, and so how a change of it is counted."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import TensorProto

from onnxmerge.errors import UsageError

KINDS = ("classes", "values", "integers")

_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_EXACT = (
    *(TensorProto.BOOL, TensorProto.STRING, TensorProto.UINT8, TensorProto.INT8, TensorProto.UINT16),
    *(TensorProto.INT16, TensorProto.UINT32, TensorProto.INT32, TensorProto.UINT64, TensorProto.INT64),
)
# Operators that hand the scores on as they are.
_PASSES = ("Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Dropout")
_LEAST_CLASSES = 10  # fewer outputs of a last Gemm are as likely coordinates or a regression


def output_kinds(model: onnx.ModelProto, overrides: Mapping[str, str] | None = None) -> dict[str, str]:
    """'classes', 'values' or 'integers' for each output of the model, in order.

    Class scores are [N, C] floats that are a Softmax or feed an ArgMax, or the only output where that
    ends in a Gemm or MatMul (and the Add of a bias) with at least 10 columns. Strings and booleans are
    compared like integers. `overrides` decide by name. Raises UsageError for unknown names or kinds.
    """
    graph = model.graph
    chosen = dict(overrides or {})
    names = [output.name for output in graph.output]
    for name, kind in chosen.items():
        if name not in names:
            raise UsageError(f"--output-kind names {name!r}; the model's outputs are {', '.join(names)}")
        if kind not in KINDS:
            raise UsageError(f"--output-kind {name} is one of {', '.join(KINDS)}, not {kind!r}")
    makers = {out: node for node in graph.node for out in node.output if out}
    widths = {init.name: tuple(init.dims) for init in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            widths.update((node.output[0], tuple(a.t.dims)) for a in node.attribute if a.name == "value")
    arguments = {node.input[0] for node in graph.node if node.op_type == "ArgMax"}
    return {
        output.name: chosen.get(output.name)
        or _kind(output, makers, widths, arguments, alone=len(names) == 1)
        for output in graph.output
    }


def _kind(
    output: onnx.ValueInfoProto,
    makers: Mapping[str, onnx.NodeProto],
    widths: Mapping[str, tuple[int, ...]],
    arguments: set[str],
    alone: bool,
) -> str:
    tensor = output.type.tensor_type
    if tensor.elem_type in _EXACT:
        return "integers"
    # Where an exporter left out type or shape, the graph alone decides.
    if tensor.elem_type not in (*_FLOATS, 0) or (tensor.HasField("shape") and len(tensor.shape.dim) != 2):
        return "values"
    name, path = output.name, [output.name]
    while name in makers and makers[name].op_type in _PASSES:
        name = makers[name].input[0]
        path.append(name)
    last = makers.get(name)
    if last is not None and last.op_type in ("Softmax", "LogSoftmax"):
        return "classes"
    if arguments.intersection(path):
        return "classes"
    return "classes" if alone and _columns(last, makers, widths) >= _LEAST_CLASSES else "values"


def _columns(
    node: onnx.NodeProto | None, makers: Mapping[str, onnx.NodeProto], widths: Mapping[str, tuple[int, ...]]
) -> int:
    """The columns of the Gemm or MatMul (and Add of a constant) that ends here, 0 if it is neither."""
    if node is not None and node.op_type == "Add":
        node = next((makers[name] for name in node.input if name in makers and name not in widths), None)
        if node is not None and node.op_type != "MatMul":
            return 0
    if node is None or node.op_type not in ("Gemm", "MatMul"):
        return 0
    weight = widths.get(node.input[1], ())
    if len(weight) < 2:
        return 0
    flipped = any(a.name == "transB" and a.i for a in node.attribute)
    return weight[-2] if flipped else weight[-1]

"""Small models, broken at random: in their bytes, or in what they say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import test_operators
from onnx import AttributeProto, TensorProto
from random_graphs import random_graph
from random_steps import STEPS

from onnxmerge.validation import check_model

Rng = np.random.Generator
MOST_TRIES = 12
OPTIONS = onnxruntime.SessionOptions()
OPTIONS.log_severity_level = 4


def mutated(rng: Rng) -> tuple[str, bytes]:
    """The name of the model that was broken, and the bytes of a broken model file."""
    name, proto = _base(rng)
    if rng.random() < 0.25:
        return name, _broken_bytes(rng, proto.SerializeToString())
    # Most broken models are caught at the door: of two thirds the first is taken that is not.
    for _ in range(1 if rng.random() < 0.3 else MOST_TRIES):
        broken, changes = onnx.ModelProto(), []
        broken.CopyFrom(proto)
        for _ in range(1 if rng.random() < 0.7 else 3):
            changes.append(_one(rng, CHANGES))
            changes[-1](rng, broken)
        if _passes(broken):
            break
    return " ".join([name, *(change.__name__ for change in changes)]), broken.SerializeToString()


def _passes(proto: onnx.ModelProto) -> bool:
    try:
        check_model(proto)
        onnxruntime.InferenceSession(proto.SerializeToString(), OPTIONS, providers=["CPUExecutionProvider"])
    except Exception:
        return False
    return True


def _base(rng: Rng) -> tuple[str, onnx.ModelProto]:
    if rng.random() < 0.3:
        return "random graph", random_graph(lambda count: int(rng.integers(0, count)), STEPS)
    case = _one(rng, test_operators.CASES)
    return str(case), case.model()


def _broken_bytes(rng: Rng, data: bytes) -> bytes:
    array = np.frombuffer(data, np.uint8).copy()
    kind = int(rng.integers(4))
    if kind == 0:
        return data[: int(rng.integers(len(data)))]
    if kind == 1:
        start, end = sorted(int(i) for i in rng.integers(0, len(data), 2))
        return data[:start] + data[end:]
    if kind == 2:
        start = int(rng.integers(len(data)))
        return data[:start] + rng.bytes(int(rng.integers(1, 20))) + data[start:]
    places = rng.integers(0, len(array), int(rng.integers(1, 12)))
    array[places] = rng.integers(0, 256, len(places))
    return array.tobytes()


def _one(rng: Rng, options):
    return options[int(rng.integers(len(options)))]


def _odd_number(rng: Rng) -> int:
    """Mostly a number that could be meant: what the checkers let through is what has to be survived."""
    if rng.random() < 0.8:
        return int(rng.integers(-2, 9))
    return int(_one(rng, [64, 1000, 2**31, -(2**63), 2**63 - 1]))


def _node(rng: Rng, proto: onnx.ModelProto) -> onnx.NodeProto:
    return _one(rng, proto.graph.node)


UNARY = [
    "Relu", "Softmax", "Flatten", "Transpose", "Shape", "GlobalMaxPool", "ReduceMean", "ReduceSum",
    "Identity", "LRN", "Tanh", "Not", "ArgMax",
]  # fmt: skip
BINARY = [
    "Add", "Mul", "MatMul", "Gemm", "Conv", "PRelu", "Reshape", "Expand", "Gather", "Concat", "Max",
    "Tile", "Where", "Split", "TopK", "Pad",
]  # fmt: skip


def attribute(rng: Rng, proto: onnx.ModelProto) -> None:
    """One attribute of one node: another value, another type, gone, or new."""
    node = _node(rng, proto)
    if not node.attribute or rng.random() < 0.05:
        name = str(
            _one(rng, ["axis", "group", "num_heads", "perm", "axes", "keepdims", "to", "blocksize", "split"])
        )
        value = [_odd_number(rng), _odd_number(rng)] if rng.random() < 0.3 else _odd_number(rng)
        node.attribute.append(onnx.helper.make_attribute(name, value))
        return
    chosen = _one(rng, node.attribute)
    if rng.random() < 0.1:
        node.attribute.remove(chosen)
    elif chosen.type == AttributeProto.INT:
        chosen.i = _odd_number(rng)
    elif chosen.type == AttributeProto.INTS and chosen.ints:
        chosen.ints[int(rng.integers(len(chosen.ints)))] = _odd_number(rng)
    elif chosen.type == AttributeProto.FLOAT:
        chosen.f = float(_one(rng, [0.0, -1.0, np.inf, np.nan, 1e30]))
    elif chosen.type == AttributeProto.STRING:
        chosen.s = rng.bytes(4)
    else:
        chosen.type = int(rng.integers(0, 15))


def operator(rng: Rng, proto: onnx.ModelProto) -> None:
    node = _node(rng, proto)
    """Another operator, most of the time one that takes as many inputs."""
    alike = (
        UNARY
        if len(node.input) == 1
        else BINARY
        if len(node.input) == 2
        else [case.op for case in test_operators.CASES]
    )
    node.op_type = str(_one(rng, alike)) if rng.random() < 0.9 else "Unheard"
    if rng.random() < 0.1:
        node.domain = str(_one(rng, ["com.microsoft", "ai.onnx", "elsewhere"]))


def wiring(rng: Rng, proto: onnx.ModelProto) -> None:
    """One input or output: swapped, doubled, left out, or of a name that nothing makes."""
    node = _node(rng, proto)
    names = [name for n in proto.graph.node for name in n.input] + [""]
    side = node.input if rng.random() < 0.9 else node.output
    if side and rng.random() < 0.9:
        side[int(rng.integers(len(side)))] = str(_one(rng, names))
    else:
        side.append(str(_one(rng, names)))


def nodes(rng: Rng, proto: onnx.ModelProto) -> None:
    """A node gone, doubled, or moved."""
    node = onnx.NodeProto()
    node.CopyFrom(_node(rng, proto))
    if rng.random() < 0.5:
        proto.graph.node.append(node)
    else:
        del proto.graph.node[int(rng.integers(len(proto.graph.node)))]
        if rng.random() < 0.3:
            proto.graph.node.insert(0, node)


def weight(rng: Rng, proto: onnx.ModelProto) -> None:
    """A tensor's type, shape, data or name."""
    if not proto.graph.initializer:
        return
    tensor = _one(rng, proto.graph.initializer)
    kind = int(_one(rng, [0, 1, 2, 3, 3, 3, 4, 5, 5]))
    if kind == 5 and tensor.data_type == TensorProto.INT64:  # a shape, an axis, an index
        values = onnx.numpy_helper.to_array(tensor).copy().reshape(-1)
        if values.size:
            values[int(rng.integers(values.size))] = _odd_number(rng)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.reshape(tuple(tensor.dims)), tensor.name))
    elif kind == 0:
        tensor.data_type = int(_one(rng, [*TensorProto.DataType.values(), 99]))
    elif kind == 1 and tensor.dims:
        tensor.dims[int(rng.integers(len(tensor.dims)))] = _odd_number(rng)
    elif kind == 2:
        tensor.raw_data = tensor.raw_data[: len(tensor.raw_data) // 2]
    elif kind == 3:
        values = np.frombuffer(tensor.raw_data, np.uint8).copy()
        values[rng.random(len(values)) < 0.2] = 255  # NaN and huge numbers
        tensor.raw_data = values.tobytes()
    else:
        tensor.name = str(_one(rng, ["", "x", tensor.name + "_", "y"]))


def interface(rng: Rng, proto: onnx.ModelProto) -> None:
    """The types and shapes of inputs and outputs."""
    values = [*proto.graph.input, *proto.graph.output]
    value = _one(rng, values) if values else None
    if value is None:
        return
    kind = int(rng.integers(4))
    if kind == 0:
        value.type.tensor_type.elem_type = int(_one(rng, [0, 1, 6, 7, 9, 10, 11, 16, 55]))
    elif kind == 1 and value.type.tensor_type.shape.dim:
        _one(rng, value.type.tensor_type.shape.dim).dim_value = _odd_number(rng)
    elif kind == 2:
        value.type.Clear()
    else:
        (proto.graph.output if rng.random() < 0.5 else proto.graph.input).append(value)


def version(rng: Rng, proto: onnx.ModelProto) -> None:
    if rng.random() < 0.5 and proto.opset_import:
        _one(rng, proto.opset_import).version = int(_one(rng, [0, 1, 5, 7, 9, 11, 13, 18, 21, 99, -1]))
    elif rng.random() < 0.5:
        del proto.opset_import[:]
    else:
        proto.ir_version = int(_one(rng, [0, 1, 3, 4, 7, 99]))


CHANGES: tuple[Callable[[Rng, onnx.ModelProto], None], ...] = (
    attribute, attribute, attribute, operator, wiring, nodes, weight, weight, interface, version,
)  # fmt: skip

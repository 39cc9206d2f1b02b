"""Operators that work element by element; broadcasting is torch's, which is ONNX's."""

from __future__ import annotations

import functools
from collections.abc import Callable

import onnx
import torch
import torch.nn.functional as F
from torch import Tensor

from onnxmerge.train.executor.call import Call, Function

_DTYPES = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.DOUBLE: torch.float64,
    onnx.TensorProto.FLOAT16: torch.float16,
    onnx.TensorProto.BFLOAT16: torch.bfloat16,
    onnx.TensorProto.INT64: torch.int64,
    onnx.TensorProto.INT32: torch.int32,
    onnx.TensorProto.INT16: torch.int16,
    onnx.TensorProto.INT8: torch.int8,
    onnx.TensorProto.UINT8: torch.uint8,
    onnx.TensorProto.BOOL: torch.bool,
}


def _unary(function: Callable[[Tensor], Tensor]) -> Function:
    return lambda call, x: function(x)


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Function:
    return lambda call, a, b: function(*together(a, b))


def _variadic(function: Callable[[Tensor, Tensor], Tensor]) -> Function:
    return lambda call, *x: functools.reduce(lambda a, b: function(*together(a, b)), x)


def together(*tensors: Tensor) -> list[Tensor]:
    """All on one device: lengths are worked out on the CPU and meet the data here."""
    device = next((t.device for t in tensors if t.device.type != "cpu"), tensors[0].device)
    return [t.to(device) for t in tensors]


def _divide(a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _cast(call: Call, x: Tensor) -> Tensor:
    return x.to(_DTYPES[call("to")])


def _clip(call: Call, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    bounds = [call("min"), call("max")] if call.opset < 11 else [low, high]
    return x.clamp(*(None if b is None else float(b) for b in bounds))


def _hard_sigmoid(call: Call, x: Tensor) -> Tensor:
    return (call("alpha", 0.2) * x + call("beta", 0.5)).clamp(0, 1)


def _gelu(call: Call, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=call("approximate", "none"))


def _selu(call: Call, x: Tensor) -> Tensor:
    alpha, gamma = call("alpha", 1.67326319217681884765625), call("gamma", 1.05070102214813232421875)
    return gamma * torch.where(x > 0, x, alpha * torch.expm1(x.clamp(max=0)))


def _prelu(call: Call, x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x >= 0, x, x * slope)


def _thresholded_relu(call: Call, x: Tensor) -> Tensor:
    return torch.where(x > call("alpha", 1.0), x, torch.zeros_like(x))


def _mod(call: Call, a: Tensor, b: Tensor) -> Tensor:
    return torch.fmod(a, b) if call("fmod", 0) else torch.remainder(a, b)


def _mean(call: Call, *x: Tensor) -> Tensor:
    return functools.reduce(torch.add, x) / len(x)


def _softmax(function: Callable[..., Tensor]) -> Function:
    def run(call: Call, x: Tensor) -> Tensor:
        axis = call("axis", -1 if call.opset >= 13 else 1)
        if call.opset >= 13:
            return function(x, dim=axis)
        # Before opset 13 all axes from this one on are one.
        return function(x.flatten(axis % x.ndim), dim=-1).reshape(x.shape)

    return run


_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs,
    "Atan": torch.atan,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "HardSwish": F.hardswish,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Mish": F.mish,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Softplus": F.softplus,
    "Softsign": F.softsign,
    "Sqrt": torch.sqrt,
    "Tanh": torch.tanh,
}
_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add,
    "And": torch.logical_and,
    "Div": _divide,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Mul": torch.mul,
    "Or": torch.logical_or,
    "Pow": torch.pow,
    "Sub": torch.sub,
    "Xor": torch.logical_xor,
}
FUNCTIONS: dict[str, Function] = {
    **{op: _unary(function) for op, function in _UNARY.items()},
    **{op: _binary(function) for op, function in _BINARY.items()},
    "Cast": _cast,
    "Identity": lambda call, x: x,
    "Celu": lambda call, x: F.celu(x, call("alpha", 1.0)),
    "Clip": _clip,
    # What training would add is not in the file.
    "Dropout": lambda call, x, *_: x,
    "Elu": lambda call, x: F.elu(x, call("alpha", 1.0)),
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "LeakyRelu": lambda call, x: F.leaky_relu(x, call("alpha", 0.01)),
    "LogSoftmax": _softmax(torch.log_softmax),
    "Max": _variadic(torch.maximum),
    "Mean": _mean,
    "Min": _variadic(torch.minimum),
    "Mod": _mod,
    "PRelu": _prelu,
    # Numbers that nothing can be taught about; what hangs on them is seen to change from run to run.
    "RandomNormalLike": lambda call, x: torch.randn_like(x) * call("scale", 1.0) + call("mean", 0.0),
    "RandomUniformLike": lambda call, x: torch.empty_like(x).uniform_(call("low", 0.0), call("high", 1.0)),
    "Selu": _selu,
    "Softmax": _softmax(torch.softmax),
    "Sum": _variadic(torch.add),
    "ThresholdedRelu": _thresholded_relu,
    "Where": lambda call, *x: torch.where(*together(*x)),
}

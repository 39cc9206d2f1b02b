"""Operators that slide a window: convolutions and pooling, with ONNX's paddings."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxmerge.errors import ModelError
from onnxmerge.train.executor.call import Call, Function

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def paddings(call: Call, lengths: list[int], kernel: list[int]) -> tuple[list[int], list[int]]:
    """What is padded before and after every spatial axis."""
    count = len(lengths)
    strides, dilations = call("strides", [1] * count), call("dilations", [1] * count)
    how = call("auto_pad", "NOTSET")
    if how == "NOTSET":
        stated = call("pads", [0] * 2 * count)
        return list(stated[:count]), list(stated[count:])
    if how == "VALID":
        return [0] * count, [0] * count
    before, after = [], []
    for length, size, stride, dilation in zip(lengths, kernel, strides, dilations, strict=True):
        total = max(0, (ceil(length / stride) - 1) * stride + (size - 1) * dilation + 1 - length)
        small, large = total // 2, total - total // 2
        before.append(small if how == "SAME_UPPER" else large)
        after.append(large if how == "SAME_UPPER" else small)
    return before, after


def _pad(x: Tensor, before: list[int], after: list[int], value: float = 0.0) -> Tensor:
    amounts = [n for pair in reversed(list(zip(before, after, strict=True))) for n in pair]
    return F.pad(x, amounts, value=value)


def _conv(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    count = weight.ndim - 2
    before, after = paddings(call, list(x.shape[2:]), list(weight.shape[2:]))
    if before != after:
        x, before = _pad(x, before, after), [0] * count
    return _CONV[count](
        x,
        weight,
        bias,
        call("strides", [1] * count),
        before,
        call("dilations", [1] * count),
        call("group", 1),
    )


def _conv_transpose(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    count = weight.ndim - 2
    if "output_shape" in call.attributes or call("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise ModelError("ConvTranspose with a stated output shape or automatic padding is not covered")
    stated = call("pads", [0] * 2 * count)
    before, after = stated[:count], stated[count:]
    y = _CONV_TRANSPOSE[count](
        x,
        weight,
        bias,
        stride=call("strides", [1] * count),
        output_padding=call("output_padding", [0] * count),
        groups=call("group", 1),
        dilation=call("dilations", [1] * count),
    )
    return _pad(y, [-n for n in before], [-n for n in after])


def _max_pool(call: Call, x: Tensor) -> Tensor:
    kernel = list(call("kernel_shape"))
    count = len(kernel)
    before, after = paddings(call, list(x.shape[2:]), kernel)
    small = all(2 * n <= size for n, size in zip(before, kernel, strict=True))
    if before != after or not small:
        x, before = _pad(x, before, after, float("-inf")), [0] * count
    strides, dilations = call("strides", [1] * count), call("dilations", [1] * count)
    return _MAX[count](x, kernel, strides, before, dilations, bool(call("ceil_mode", 0)))


def _average_pool(call: Call, x: Tensor) -> Tensor:
    kernel = list(call("kernel_shape"))
    count = len(kernel)
    if any(d != 1 for d in call("dilations", [1] * count)):
        raise ModelError("AveragePool with dilations is not covered")
    before, after = paddings(call, list(x.shape[2:]), kernel)
    strides, up, counted = (
        call("strides", [1] * count),
        bool(call("ceil_mode", 0)),
        bool(call("count_include_pad", 0)),
    )
    small = all(2 * n <= size for n, size in zip(before, kernel, strict=True))
    if before == after and small:
        return _AVERAGE[count](x, kernel, strides, before, up, counted)
    total = _AVERAGE[count](_pad(x, before, after), kernel, strides, 0, up)
    if counted:
        return total
    inside = _pad(torch.ones_like(x[:1, :1]), before, after)
    return total / _AVERAGE[count](inside, kernel, strides, 0, up)


def _global(function: Callable[[Tensor, tuple[int, ...]], Tensor]) -> Function:
    return lambda call, x: function(x, tuple(range(2, x.ndim)))


FUNCTIONS: dict[str, Function] = {
    "AveragePool": _average_pool,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "GlobalAveragePool": _global(lambda x, axes: x.mean(axes, keepdim=True)),
    "GlobalMaxPool": _global(lambda x, axes: x.amax(axes, keepdim=True)),
    "MaxPool": _max_pool,
}

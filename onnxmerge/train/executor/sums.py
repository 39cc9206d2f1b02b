"""Products with matrices, reductions and normalisations."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxmerge.train.executor.call import Call, Function


def _gemm(call: Call, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    a = a.T if call("transA", 0) else a
    b = b.T if call("transB", 0) else b
    y = call("alpha", 1.0) * (a @ b) if call("alpha", 1.0) != 1 else a @ b
    if c is None:
        return y
    return y + (call("beta", 1.0) * c if call("beta", 1.0) != 1 else c)


def _einsum(call: Call, *x: Tensor) -> Tensor:
    return torch.einsum(call("equation"), *x)


def _reduction(function: Callable[[Tensor, list[int], bool], Tensor]) -> Function:
    def run(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
        chosen = call.numbers("axes", axes)
        if not chosen:
            if call("noop_with_empty_axes", 0):
                return x
            chosen = list(range(x.ndim))
        return function(x, chosen, bool(call("keepdims", 1)))

    return run


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((a % x.ndim for a in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _extreme(function: Callable[..., Tensor]) -> Function:
    def run(call: Call, x: Tensor) -> Tensor:
        axis = call("axis", 0)
        if call("select_last_index", 0):
            return x.shape[axis] - 1 - function(x.flip(axis), dim=axis, keepdim=bool(call("keepdims", 1)))
        return function(x, dim=axis, keepdim=bool(call("keepdims", 1)))

    return run


def _batch_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    momentum = 1 - call("momentum", 0.9)
    return F.batch_norm(x, mean, variance, scale, bias, call.training, momentum, call("epsilon", 1e-5))


def _instance_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return F.instance_norm(x, weight=scale, bias=bias, eps=call("epsilon", 1e-5))


def _layer_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    axis = call("axis", -1) % x.ndim
    shape, epsilon = x.shape[axis:], call("epsilon", 1e-5)
    if scale.shape == shape and (bias is None or bias.shape == shape):
        return F.layer_norm(x, shape, scale, bias, epsilon)
    # ONNX lets them broadcast.
    y = F.layer_norm(x, shape, eps=epsilon) * scale
    return y if bias is None else y + bias


def _group_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    groups = call("num_groups")
    if call.opset < 21:  # one scale per group
        scale, bias = (p.repeat_interleave(x.shape[1] // groups) for p in (scale, bias))
    return F.group_norm(x, groups, scale, bias, call("epsilon", 1e-5))


def _lrn(call: Call, x: Tensor) -> Tensor:
    return F.local_response_norm(x, call("size"), call("alpha", 1e-4), call("beta", 0.75), call("bias", 1.0))


def _lp_norm(call: Call, x: Tensor) -> Tensor:
    return F.normalize(x, p=call("p", 2), dim=call("axis", -1))


FUNCTIONS: dict[str, Function] = {
    "ArgMax": _extreme(torch.argmax),
    "ArgMin": _extreme(torch.argmin),
    "BatchNormalization": _batch_norm,
    "CumSum": lambda call, x, axis: torch.cumsum(x, int(axis)),
    "Einsum": _einsum,
    "Gemm": _gemm,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LRN": _lrn,
    "LayerNormalization": _layer_norm,
    "LpNormalization": _lp_norm,
    "MatMul": lambda call, a, b: torch.matmul(a, b),
    "ReduceL1": _reduction(lambda x, axes, keep: x.abs().sum(axes, keepdim=keep)),
    "ReduceL2": _reduction(lambda x, axes, keep: x.square().sum(axes, keepdim=keep).sqrt()),
    "ReduceLogSum": _reduction(lambda x, axes, keep: x.sum(axes, keepdim=keep).log()),
    "ReduceLogSumExp": _reduction(lambda x, axes, keep: x.logsumexp(axes, keepdim=keep)),
    "ReduceMax": _reduction(lambda x, axes, keep: x.amax(axes, keepdim=keep)),
    "ReduceMean": _reduction(lambda x, axes, keep: x.mean(axes, keepdim=keep)),
    "ReduceMin": _reduction(lambda x, axes, keep: x.amin(axes, keepdim=keep)),
    "ReduceProd": _reduction(_product),
    "ReduceSum": _reduction(lambda x, axes, keep: x.sum(axes, keepdim=keep)),
    "ReduceSumSquare": _reduction(lambda x, axes, keep: x.square().sum(axes, keepdim=keep)),
}

"""Operators that pick and place elements by indices."""

from __future__ import annotations

import torch
from torch import Tensor

from onnxmerge.errors import ModelError
from onnxmerge.train.executor.call import Call, Function

_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _from_front(index: Tensor, length: int) -> Tensor:
    """Indices counted from the front; ONNX lets them count from the back."""
    return torch.where(index < 0, index + length, index).long()


def _gather(call: Call, x: Tensor, index: Tensor) -> Tensor:
    axis = call("axis", 0) % max(x.ndim, 1)
    if not index.ndim and index.device.type == "cpu":
        return x.select(axis, int(index))  # nothing is copied
    index = _from_front(index.to(x.device), x.shape[axis])
    chosen = x.index_select(axis, index.flatten())
    return chosen.reshape([*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]])


def _gather_elements(call: Call, x: Tensor, index: Tensor) -> Tensor:
    axis = call("axis", 0)
    return x.gather(axis, _from_front(index.to(x.device), x.shape[axis]))


def _gather_nd(call: Call, x: Tensor, index: Tensor) -> Tensor:
    batch = call("batch_dims", 0)
    places = _places(x, index.to(x.device), batch)
    return x[places]


def _places(x: Tensor, index: Tensor, batch: int = 0) -> tuple[Tensor, ...]:
    """One index tensor for every axis that the last axis of ``index`` names, and for the batch axes."""
    named = [_from_front(part, x.shape[batch + i]) for i, part in enumerate(index.unbind(-1))]
    for axis in reversed(range(batch)):
        shape = [1] * (index.ndim - 1)
        shape[axis] = -1
        named.insert(0, torch.arange(x.shape[axis], device=x.device).reshape(shape))
    return tuple(named)


def _scatter_elements(call: Call, x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
    axis, how = call("axis", 0), call("reduction", "none")
    index = _from_front(index.to(x.device), x.shape[axis])
    if how == "none":
        return x.scatter(axis, index, updates)
    return x.scatter_reduce(axis, index, updates, _REDUCTIONS[how])


def _scatter_nd(call: Call, x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
    how = call("reduction", "none")
    if how not in ("none", "add"):
        raise ModelError(f"ScatterND with the reduction {how} is not covered")
    return x.index_put(_places(x, index.to(x.device)), updates, accumulate=how == "add")


def _one_hot(call: Call, index: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    count, axis = int(depth.reshape(-1)[0]), call("axis", -1)
    places = _from_front(index, count)
    axis = axis % (index.ndim + 1)
    shape = [1] * (index.ndim + 1)
    shape[axis] = count
    hot = places.unsqueeze(axis) == torch.arange(count, device=index.device).reshape(shape)
    return torch.where(hot, values[1].to(index.device), values[0].to(index.device))


def _top_k(call: Call, x: Tensor, k: Tensor | None = None) -> tuple[Tensor, ...]:
    count = (call.numbers("k", k) or [1])[0]
    return tuple(x.topk(count, call("axis", -1), bool(call("largest", 1)), bool(call("sorted", 1))))


def _trilu(call: Call, x: Tensor, diagonal: Tensor | None = None) -> Tensor:
    k = 0 if diagonal is None else int(diagonal)
    return x.triu(k) if call("upper", 1) else x.tril(k)


FUNCTIONS: dict[str, Function] = {
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "OneHot": _one_hot,
    # The name that ScatterElements had before opset 11.
    "Scatter": _scatter_elements,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "TopK": _top_k,
    "Trilu": _trilu,
}

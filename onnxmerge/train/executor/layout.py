"""Operators that rearrange elements, and the arithmetic of shapes."""

from __future__ import annotations

from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxmerge.errors import ModelError
from onnxmerge.train.executor.call import Call, Function, integers


def _reshape(call: Call, x: Tensor, shape: Tensor | None = None) -> Tensor:
    target = call.numbers("shape", shape) or []
    if not call("allowzero", 0):
        target = [x.shape[i] if n == 0 else n for i, n in enumerate(target)]
    return x.reshape(target)


def _flatten(call: Call, x: Tensor) -> Tensor:
    axis = call("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(prod(x.shape[:axis]), -1)


def _transpose(call: Call, x: Tensor) -> Tensor:
    return x.permute(call("perm", list(range(x.ndim))[::-1]))


def _squeeze(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
    chosen = call.numbers("axes", axes)
    return x.squeeze() if chosen is None else x.squeeze(tuple(chosen))


def _unsqueeze(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
    chosen = call.numbers("axes", axes) or []
    rank = x.ndim + len(chosen)
    for axis in sorted(a % rank for a in chosen):
        x = x.unsqueeze(axis)
    return x


def _split(call: Call, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    axis = call("axis", 0)
    stated = call.numbers("split", sizes)
    if stated is None:
        # The last part is the smaller one where the length is no multiple.
        part = -(-x.shape[axis] // call.outputs)
        stated = [min(part, x.shape[axis] - i * part) for i in range(call.outputs)]
    return x.split(stated, axis)


def _slice(
    call: Call,
    x: Tensor,
    starts: Tensor | None = None,
    ends: Tensor | None = None,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    first, last = call.numbers("starts", starts) or [], call.numbers("ends", ends) or []
    chosen = call.numbers("axes", axes) or list(range(len(first)))
    by = integers(steps) if steps is not None else [1] * len(first)
    for start, end, axis, step in zip(first, last, chosen, by, strict=True):
        places = range(x.shape[axis])[_bounds(start, end, step)]
        if step > 0:
            x = x.narrow(axis, places.start, max(0, places.stop - places.start))
            x = (
                x
                if step == 1
                else x.index_select(axis, torch.arange(0, x.shape[axis], step, device=x.device))
            )
        else:
            x = x.index_select(axis, torch.tensor(list(places), device=x.device))
    return x


def _bounds(start: int, end: int, step: int) -> slice:
    """A Python slice; an end far below zero of a backward slice means: to the very first."""
    return slice(start, None if step < 0 and end < -(2**31) else end, step)


def _pad(
    call: Call,
    x: Tensor,
    pads: Tensor | None = None,
    value: Tensor | None = None,
    axes: Tensor | None = None,
) -> Tensor:
    amounts = call.numbers("pads", pads) or []
    count = len(amounts) // 2
    chosen = integers(axes) if axes is not None else list(range(count))
    both = [(0, 0)] * x.ndim
    for i, axis in enumerate(chosen):
        both[axis] = (amounts[i], amounts[count + i])
    mode = call("mode", "constant")
    if mode == "constant":
        filler = float(value) if value is not None else call("value", 0.0)
        return F.pad(x, [n for pair in reversed(both) for n in pair], value=filler)
    for axis, (before, after) in enumerate(both):
        if before or after:
            x = x.index_select(axis, _mirrored(mode, x.shape[axis], before, after).to(x.device))
    return x


def _mirrored(mode: str, length: int, before: int, after: int) -> Tensor:
    """Which element every place of a padded axis shows."""
    places = torch.arange(-before, length + after)
    if mode == "edge":
        return places.clamp(0, length - 1)
    if mode == "wrap":
        return places % length
    if mode == "reflect":
        period = max(1, 2 * (length - 1))
        places = places.abs() % period
        return torch.where(places < length, places, period - places)
    raise ModelError(f"Pad mode {mode} is not covered")


def _expand(call: Call, x: Tensor, shape: Tensor) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, tuple(integers(shape))))


def _shape(call: Call, x: Tensor) -> Tensor:
    return torch.tensor(x.shape, dtype=torch.int64)[call("start", 0) : call("end", None)]


def constant(call: Call) -> Tensor:
    """The forms that hold plain numbers; a stored tensor is no node any more when a graph gets here."""
    for name, dtype in (("int", torch.int64), ("float", torch.float32)):
        for stated in (call(f"value_{name}"), call(f"value_{name}s")):
            if stated is not None:
                return torch.tensor(stated, dtype=dtype)
    value = call("value")
    if value is None:
        raise ModelError("a Constant that holds no numbers is not covered")
    return torch.as_tensor(value.values.copy())


def _constant_of_shape(call: Call, shape: Tensor) -> Tensor:
    value = call("value")
    filler = torch.zeros(1) if value is None else torch.as_tensor(value.values.copy())
    return filler.reshape(()).expand(integers(shape)).clone()


def _depth_to_space(call: Call, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    size = call("blocksize")
    if call("mode", "DCR") == "DCR":
        x = x.reshape(n, size, size, -1, h, w).permute(0, 3, 4, 1, 5, 2)
    else:
        x = x.reshape(n, -1, size, size, h, w).permute(0, 1, 4, 2, 5, 3)
    return x.reshape(n, c // size**2, h * size, w * size)


def _space_to_depth(call: Call, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    size = call("blocksize")
    x = x.reshape(n, c, h // size, size, w // size, size).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(n, c * size**2, h // size, w // size)


def _range(call: Call, start: Tensor, limit: Tensor, step: Tensor) -> Tensor:
    return torch.arange(start.item(), limit.item(), step.item(), dtype=start.dtype)


FUNCTIONS: dict[str, Function] = {
    "Concat": lambda call, *x: torch.cat(x, call("axis", 1)),
    "Constant": constant,
    "ConstantOfShape": _constant_of_shape,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Flatten": _flatten,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": lambda call, x: torch.tensor(x.numel(), dtype=torch.int64),
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": lambda call, x, repeats: x.repeat(integers(repeats)),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}

"""Resize and Upsample in every coordinate mode: each axis is a small matrix of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from onnxmerge.errors import ModelError
from onnxmerge.train.executor.call import Call, Function, integers


def _upsample(call: Call, x: Tensor, scales: Tensor | None = None) -> Tensor:
    stated = scales.tolist() if scales is not None else call("scales")
    asymmetric = Call(
        {
            "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": "floor",
            "mode": call("mode", "nearest"),
        },
        call.opset,
        1,
        call.training,
    )
    return _along(asymmetric, x, list(range(x.ndim)), stated, None)


def _resize(
    call: Call,
    x: Tensor,
    roi: Tensor | None = None,
    scales: Tensor | None = None,
    sizes: Tensor | None = None,
) -> Tensor:
    if call.opset < 11:
        return _upsample(call, x, roi)  # the second input of that opset is the scales
    if call("coordinate_transformation_mode") == "tf_crop_and_resize" or call("antialias", 0):
        raise ModelError("Resize with a region of interest or antialiasing is not covered")
    axes = call("axes") or list(range(x.ndim))
    if sizes is not None and sizes.numel():
        if call("keep_aspect_ratio_policy", "stretch") != "stretch":
            raise ModelError("Resize that keeps the aspect ratio is not covered")
        return _along(call, x, axes, None, integers(sizes))
    assert scales is not None
    return _along(call, x, axes, scales.tolist(), None)


def _along(
    call: Call, x: Tensor, axes: Sequence[int], scales: list[float] | None, sizes: list[int] | None
) -> Tensor:
    for i, axis in enumerate(axes):
        length = x.shape[axis]
        target = sizes[i] if sizes is not None else int(length * scales[i])  # type: ignore[index]
        scale = target / length if scales is None else scales[i]
        if target == length and scale == 1:
            continue
        places = _source(call, torch.arange(target, dtype=torch.float64), length, target, scale)
        if call("mode", "nearest") == "nearest":
            x = x.index_select(axis, _nearest(call, places).clamp(0, length - 1).to(x.device))
        else:
            matrix = _matrix(call, places, length).to(x)
            x = torch.tensordot(x, matrix, dims=([axis], [1])).movedim(-1, axis)
    return x


def _source(call: Call, places: Tensor, length: int, target: int, scale: float) -> Tensor:
    """Where in the input every output position lies."""
    mode = call("coordinate_transformation_mode", "half_pixel")
    if mode == "asymmetric":
        return places / scale
    if mode == "align_corners":
        return places * (length - 1) / (target - 1) if target > 1 else places * 0
    if mode == "pytorch_half_pixel" and target == 1:
        return places * 0
    if mode == "half_pixel_symmetric":
        exact = length * scale
        return length / 2 * (1 - target / exact) + (places + 0.5) / scale - 0.5
    if mode in ("half_pixel", "pytorch_half_pixel"):
        return (places + 0.5) / scale - 0.5
    raise ModelError(f"Resize with coordinates by {mode} is not covered")


def _nearest(call: Call, places: Tensor) -> Tensor:
    rounding = {
        "floor": torch.floor,
        "ceil": torch.ceil,
        "round_prefer_floor": lambda p: torch.ceil(p - 0.5),
        "round_prefer_ceil": lambda p: torch.floor(p + 0.5),
    }
    return rounding[call("nearest_mode", "round_prefer_floor")](places).long()


def _matrix(call: Call, places: Tensor, length: int) -> Tensor:
    """Interpolation as a matrix [output, input]."""
    base = torch.floor(places)
    t = places - base
    if call("mode") == "linear":
        taps = {0: 1 - t, 1: t}
    else:
        a = call("cubic_coeff_a", -0.75)
        taps = {offset: _cubic((t - offset).abs(), a) for offset in (-1, 0, 1, 2)}
    matrix = torch.zeros(len(places), length, dtype=torch.float64)
    rows = torch.arange(len(places))
    for offset, weight in taps.items():
        index = base.long() + offset
        if call("exclude_outside", 0):
            weight = weight * ((index >= 0) & (index < length))
        matrix.index_put_((rows, index.clamp(0, length - 1)), weight, accumulate=True)
    return matrix / matrix.sum(1, keepdim=True)


def _cubic(distance: Tensor, a: float) -> Tensor:
    """Keys' kernel."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return torch.where(distance <= 1, near, torch.where(distance < 2, far, torch.zeros_like(distance)))


FUNCTIONS: dict[str, Function] = {"Resize": _resize, "Upsample": _upsample}

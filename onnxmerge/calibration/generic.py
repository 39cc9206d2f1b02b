"""Calibration data where none is given and the model takes images: generic photographs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx

from onnxmerge.calibration.dataset import Dataset, Feed
from onnxmerge.calibration.image_inputs import ImageInput, image_input
from onnxmerge.calibration.images import ImageOptions
from onnxmerge.calibration.made_up import made_up_inputs
from onnxmerge.calibration.normalisation import Normalisation, infer_normalisation
from onnxmerge.calibration.pictures import generic_images
from onnxmerge.errors import ModelError
from onnxmerge.runtime import Runtime
from onnxmerge.runtime_types import TensorInfo

# Sides tried where the model leaves the size open: what classifiers and detectors are usually fed first.
_SIDES = (224, 256, 320, 192, 160, 128, 96, 64, 48, 32, 512)
_MOST_BYTES = 320 << 20  # of images held at once: larger inputs get fewer samples
_FEWEST = 16
_PROBE_PIXELS = 600_000  # shown to the first layers under every candidate
_PROBE_IMAGES = 32


def generic_dataset(
    model: onnx.ModelProto,
    session_inputs: Sequence[TensorInfo],
    runtime: Runtime,
    images: ImageOptions | None = None,
    samples: int = 512,
    seed: int = 0,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> Dataset | None:
    """Generic photographs for the image input of a model, or None where there is not exactly one.

    `images` settles the normalisation and the layout; without it they are inferred. Further inputs get
    made-up values. Large inputs get fewer than `samples` images, so that memory stays bounded. `shapes`
    gives input shapes by name, as for made-up inputs. The result is marked as made up, and its source
    names the pack and the normalisation.

    Raises ModelError if the model runs at no size, UsageError for shapes that contradict the model.
    """
    inputs = tuple(session_inputs)
    target = image_input(model, inputs, images.layout if images else None)
    if target is None:
        return None
    fixed = _with_size(model, inputs, target, dict(shapes or {}), runtime, seed)
    if fixed is None:
        return None
    shape = fixed[target.name]
    height, width = (shape[2], shape[3]) if target.layout == "nchw" else (shape[1], shape[2])
    info = next(i for i in inputs if i.name == target.name)
    assert info.dtype is not None
    count = _affordable(samples, height * width * target.channels * info.dtype.itemsize)
    others = len(inputs) > 1
    frame = made_up_inputs(model, inputs, fixed, seed, count if others else 2, runtime)
    if images is None:
        chosen = _infer(model, runtime, target, info.dtype, frame, (height, width), seed)
    else:
        chosen = Normalisation("given", images.mean, images.std, images.scale, "given")
    pixels = generic_images(
        max(count, len(frame)) if others else count, (height, width), target.channels, seed
    )
    values = _numbers(pixels, target, chosen, info.dtype)
    reason = f" ({chosen.evidence})" if images is None else ""
    source = (
        f"{len(values)} crops of the generic photographs shipped with onnxmerge, {height} x {width}, "
        f"normalised to {_described(chosen)}{reason}"
    )
    return _joined(frame, target.name, values, source, others)


def _with_size(
    model: onnx.ModelProto,
    inputs: tuple[TensorInfo, ...],
    target: ImageInput,
    given: dict[str, tuple[int, ...]],
    runtime: Runtime,
    seed: int,
) -> dict[str, tuple[int, ...]] | None:
    """`given` with a shape of the image input at which the model runs; None if no tried one does."""
    if target.name in given:
        return given
    info = next(i for i in inputs if i.name == target.name)
    batch = info.shape[0] if info.shape and isinstance(info.shape[0], int) else 1
    for side in (None,) if target.height and target.width else _SIDES:
        shape = target.shape(batch, target.height or side or 0, target.width or side or 0)
        try:
            made_up_inputs(model, inputs, given | {target.name: shape}, seed, 1, runtime)
        except ModelError:
            continue
        return given | {target.name: shape}
    return None


def _affordable(samples: int, size: int) -> int:
    return max(min(samples, _MOST_BYTES // max(size, 1)), min(samples, _FEWEST))


def _infer(
    model: onnx.ModelProto,
    runtime: Runtime,
    target: ImageInput,
    dtype: np.dtype,
    frame: Dataset,
    size: tuple[int, int],
    seed: int,
) -> Normalisation:
    count = min(max(_PROBE_PIXELS // math.prod(size), 2), _PROBE_IMAGES)
    template = next(iter(frame.feeds(1)))
    batch = len(template[target.name])
    pixels = generic_images(math.ceil(count / batch) * batch, size, target.channels, seed)

    def feeder(candidate: Normalisation) -> Iterator[Feed]:
        values = _numbers(pixels, target, candidate, dtype)
        for start in range(0, len(values), batch):
            yield template | {target.name: values[start : start + batch]}

    return infer_normalisation(
        model,
        runtime,
        feeder,
        channels=target.channels,
        smallest_side=min(size),
        whole=dtype.kind in "iu",
    )


def _numbers(pixels: np.ndarray, target: ImageInput, how: Normalisation, dtype: np.dtype) -> np.ndarray:
    values = how.apply(pixels)
    if dtype.kind in "iu":
        values = np.clip(np.rint(values), np.iinfo(dtype).min, np.iinfo(dtype).max)
    if target.layout == "nchw":
        values = values.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(values, dtype)


def _joined(frame: Dataset, name: str, values: np.ndarray, source: str, others: bool) -> Dataset:
    """The images, beside the made-up values of the other inputs where there are any."""
    if not others:
        return Dataset(source, arrays={name: values}, batch=frame.batch, made_up=True)
    if frame.arrays is not None:
        arrays = {k: a if k in frame.shared else a[: len(values)] for k, a in frame.arrays.items()}
        count = min(len(a) for k, a in arrays.items() if k not in frame.shared)
        arrays = {k: a if k in frame.shared else a[:count] for k, a in arrays.items()}
        return Dataset(
            source, arrays | {name: values[:count]}, batch=frame.batch, shared=frame.shared, made_up=True
        )
    feeds, start = [], 0
    for feed in frame.feeds():
        rows = len(feed[name])
        if start + rows > len(values):
            break
        feeds.append(feed | {name: values[start : start + rows]})
        start += rows
    return Dataset(source, ready=tuple(feeds), made_up=True)


def _described(how: Normalisation) -> str:
    numbers = f"mean {_listed(how.mean)}, std {_listed(how.std)}, scale {how.scale:.4g}"
    return numbers if how.name == "given" else f"{how.name}: {numbers}"


def _listed(values: Sequence[float]) -> str:
    return "/".join(f"{value:.4g}" for value in values)

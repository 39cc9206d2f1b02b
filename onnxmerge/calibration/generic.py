"""Calibration data where none is given and the model takes images: generic photographs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnxmerge.calibration.conventions import Convention, candidates
from onnxmerge.calibration.dataset import Dataset, Feed, mixture
from onnxmerge.calibration.evidence import Evidence, Witness
from onnxmerge.calibration.image_inputs import ImageInput, image_input
from onnxmerge.calibration.images import ImageOptions
from onnxmerge.calibration.made_up import made_up_inputs
from onnxmerge.calibration.pictures import generic_images
from onnxmerge.calibration.plausible import Plausible, assumed, plausible
from onnxmerge.errors import ModelError
from onnxmerge.runtime import Runtime
from onnxmerge.runtime_types import TensorInfo

# Sides tried where the model leaves the size open: what classifiers and detectors are usually fed first.
_SIDES = (224, 256, 320, 192, 160, 128, 96, 64, 48, 32, 512)
_MOST_BYTES = 320 << 20  # of images held at once: larger inputs get fewer samples
_FEWEST = 16
# Images that are kept for the proof, the same under every convention: the worst of several figures would be
# the unluckiest one if each were of a few images.
_FRESH_PIXELS = 6_000_000
_FEWEST_FRESH, _MOST_FRESH = 32, 128
_PROBE_PIXELS = 600_000  # shown to the model under every convention, and as many mirrored
_FEWEST_PROBES, _MOST_PROBES = 8, 32


@dataclass(frozen=True)
class GenericData:
    """Generic photographs as the model takes them.

    Attributes:
        fit: for statistics and reconstruction; a mixture where several conventions are plausible.
        fresh: others, under the same conventions, that nothing was fitted to.
        plausible: the conventions.
        stated: whether the user gave the convention.
    """

    fit: Dataset
    fresh: Dataset
    plausible: Plausible
    stated: bool


def generic_dataset(
    model: onnx.ModelProto,
    session_inputs: Sequence[TensorInfo],
    runtime: Runtime,
    images: ImageOptions | None = None,
    samples: int = 512,
    seed: int = 0,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    scores: Sequence[str] = (),
) -> GenericData | None:
    """Generic photographs for the image input of a model, or None where there is not exactly one.

    `images` settles the convention and the layout; without it what is plausible is inferred, and each
    plausible convention gets its share of the samples. Further inputs get made-up values. Large inputs get
    fewer than `samples` images, so that memory stays bounded. `shapes` gives input shapes by name, as for
    made-up inputs, and `scores` names the outputs that hold class scores.

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
    size = (shape[2], shape[3]) if target.layout == "nchw" else (shape[1], shape[2])
    info = next(i for i in inputs if i.name == target.name)
    assert info.dtype is not None
    count = _affordable(samples, math.prod(size) * target.channels * info.dtype.itemsize)
    others = len(inputs) > 1
    frame = made_up_inputs(model, inputs, fixed, seed, count if others else 2, runtime)
    if images is None:
        found = _infer(model, runtime, target, info.dtype, frame, size, seed, scores)
    else:
        found = Plausible((_stated(images, target.channels),), (1.0,))
    unit = frame.batch or 1
    shares = [_whole(max(count * p, _FEWEST), unit) for p in found.probabilities]
    proof = _FRESH_PIXELS // (math.prod(size) * len(shares))
    fresh = _whole(min(max(proof, _FEWEST_FRESH), _MOST_FRESH, samples), unit)
    pixels = generic_images(sum(shares) + fresh, size, target.channels, seed)
    source = f"crops of the photographs shipped with onnxmerge, {size[0]} x {size[1]}"

    def part(convention: Convention, rows: slice) -> Dataset:
        values = _numbers(pixels[rows], target, convention, info.dtype)
        return _joined(frame, target.name, values, source, others, str(convention))

    ends = np.cumsum([0, *shares])
    parts = [part(c, slice(a, b)) for c, a, b in zip(found.conventions, ends, ends[1:], strict=False)]
    last = slice(sum(shares), None)
    return GenericData(
        mixture(parts), mixture([part(c, last) for c in found.conventions]), found, images is not None
    )


def _stated(images: ImageOptions, channels: int) -> Convention:
    order = "grey" if channels == 1 else images.order
    # Where the colours are in BGR order, so are the numbers that were given for them.
    mean, std = (v[::-1] if order == "bgr" else v for v in (images.mean, images.std))
    return Convention(images.described, mean, std, images.scale, order)


def _whole(count: float, unit: int) -> int:
    """The next lower multiple of a batch, at least one."""
    return max(int(count) // unit, 1) * unit


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
    scores: Sequence[str],
) -> Plausible:
    known = candidates(target.channels, whole=dtype.kind in "iu")
    template = next(iter(frame.feeds(1)))
    batch = len(template[target.name])
    count = min(max(_PROBE_PIXELS // math.prod(size), _FEWEST_PROBES), _MOST_PROBES)
    pixels = generic_images(math.ceil(count / batch) * batch, size, target.channels, seed)

    def feeds(convention: Convention, shown: np.ndarray) -> Iterator[Feed]:
        values = _numbers(shown, target, convention, dtype)
        for start in range(0, len(values), batch):
            yield template | {target.name: values[start : start + batch]}

    try:
        witness = Witness(model, runtime, scores)
        seen: dict[Convention, Evidence] = {
            c: witness.observe(feeds(c, pixels), feeds(c, pixels[:, :, ::-1])) for c in known
        }
    except ModelError:
        return assumed(known, min(size))
    return plausible(seen, min(size))


def _numbers(pixels: np.ndarray, target: ImageInput, how: Convention, dtype: np.dtype) -> np.ndarray:
    values = how.apply(pixels)
    if dtype.kind in "iu":
        values = np.clip(np.rint(values), np.iinfo(dtype).min, np.iinfo(dtype).max)
    if target.layout == "nchw":
        values = values.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(values, dtype)


def _joined(
    frame: Dataset, name: str, values: np.ndarray, source: str, others: bool, convention: str
) -> Dataset:
    """The images, beside the made-up values of the other inputs where there are any."""
    same = {"made_up": True, "conventions": (convention,)}
    if not others:
        return Dataset(source, arrays={name: values}, batch=frame.batch, **same)
    if frame.arrays is not None:
        arrays = {k: a if k in frame.shared else a[: len(values)] for k, a in frame.arrays.items()}
        count = min(len(a) for k, a in arrays.items() if k not in frame.shared)
        arrays = {k: a if k in frame.shared else a[:count] for k, a in arrays.items()}
        arrays[name] = values[:count]
        return Dataset(source, arrays, batch=frame.batch, shared=frame.shared, **same)
    feeds, start = [], 0
    for feed in frame.feeds():
        rows = len(feed[name])
        if start + rows > len(values):
            break
        feeds.append(feed | {name: values[start : start + rows]})
        start += rows
    return Dataset(source, ready=tuple(feeds), **same)

"""Calibration data where none is given and the model takes images: generic photographs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import onnx

from onnxmerge import limits
from onnxmerge.data.columns import PIECE, Column, folder_for
from onnxmerge.data.conventions import Convention, candidates
from onnxmerge.data.dataset import Dataset, mixture
from onnxmerge.data.generic.evidence import Evidence, Witness
from onnxmerge.data.generic.photographs import generic_images, let_go, one_by_one
from onnxmerge.data.generic.plausible import Plausible, assumed, plausible
from onnxmerge.data.image_inputs import ImageInput, image_input
from onnxmerge.data.images import ImageOptions
from onnxmerge.data.synthetic import made_up_inputs
from onnxmerge.errors import ModelError
from onnxmerge.graph.external_weights import Scratch
from onnxmerge.runtime import Runtime
from onnxmerge.runtime.session import Feed
from onnxmerge.runtime.tensor_info import TensorInfo

# Sides tried where the model leaves the size open: what classifiers and detectors are usually fed first.
_SIDES = (224, 256, 320, 192, 160, 128, 96, 64, 48, 32, 512)
_FEWEST = 16  # samples, however large
# Images that are kept for the proof, the same under every convention: the worst of several figures would be
# the unluckiest one if each were of a few images.
_FRESH_PIXELS = 6_000_000
_FEWEST_FRESH, _MOST_FRESH = 32, 128
# Images that are shown to the model under every convention: as many as these activations take, in numbers.
_PROBED = 3 << 30
_FEWEST_PROBES, _MOST_PROBES = 8, 32
_PROBE_BATCH_PIXELS = 100_000


@dataclass(frozen=True)
class GenericData:
    """Generic photographs as the model takes them.

    Attributes:
        fit: for statistics and reconstruction; a mixture where several conventions are plausible.
        fresh: others, under the same conventions, that nothing was fitted to.
        plausible: the conventions; one alone where the user gave it.
        target: the input that takes the images.
    """

    fit: Dataset
    fresh: Dataset
    plausible: Plausible
    target: ImageInput


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

    ``images`` settles the convention and the layout; without it what is plausible is inferred, and each
    plausible convention gets its share of the samples. Further inputs get made-up values. Large inputs get
    fewer than ``samples`` images, so that memory stays bounded. ``shapes`` gives input shapes by name, as for
    made-up inputs, and ``scores`` names the outputs that hold class scores.

    Raises:
        ModelError: the model runs at no size.
        UsageError: shapes that contradict the model.
    """
    entry = _Entry.of(model, tuple(session_inputs), runtime, images, samples, seed, shapes)
    if entry is None:
        return None
    if images is None or not images.states_numbers:
        found = _inferred(model, runtime, entry, scores, seed)
    else:
        found = Plausible((images.convention(entry.target.channels),), (1.0,))
    unit, area = entry.frame.batch or 1, math.prod(entry.size)
    shares = [_whole(max(entry.count * p, _FEWEST), unit) for p in found.probabilities]
    proof = _FRESH_PIXELS // (area * len(shares))
    fresh = _whole(min(max(proof, _FEWEST_FRESH), _MOST_FRESH, samples), unit)
    pictures = one_by_one(sum(shares) + fresh, entry.size, entry.target.channels, seed)
    folder = folder_for((sum(shares) + fresh * len(shares)) * entry.bytes_each)
    source = f"crops of the generic photographs shipped with onnxmerge, {entry.size[0]} x {entry.size[1]}"
    # Images are made one by one, and a few at a time brought under a convention: they have hundreds of MB.
    fit = mixture(
        [
            entry.dataset(islice(pictures, share), c, source, folder)
            for c, share in zip(found.conventions, shares, strict=True)
        ]
    )
    shown = list(pictures)
    proving = mixture([entry.dataset(shown, c, source, folder) for c in found.conventions])
    if folder is not None:
        let_go()
    return GenericData(fit, proving, found, entry.target)


def look(
    model: onnx.ModelProto,
    session_inputs: Sequence[TensorInfo],
    runtime: Runtime,
    *,
    scores: Sequence[str] = (),
    seed: int = 0,
) -> tuple[dict[Convention, Evidence], int] | None:
    """What a model does with photographs under every convention, and the shorter side of its input in pixels.

    None where there is not exactly one input that takes images.

    Raises:
        ModelError: the model does not run.
    """
    entry = _Entry.of(model, tuple(session_inputs), runtime, None, _FEWEST, seed, None)
    return None if entry is None else (_seen(model, runtime, entry, scores, seed), min(entry.size))


def conventions_of(
    model: onnx.ModelProto,
    session_inputs: Sequence[TensorInfo],
    runtime: Runtime,
    images: ImageOptions | None = None,
    seed: int = 0,
    scores: Sequence[str] = (),
) -> tuple[Plausible, ImageInput] | None:
    """The conventions that are plausible for the image input of a model, and that input.

    None where there is not exactly one.

    Raises:
        ModelError: the model runs at no size.
    """
    entry = _Entry.of(model, tuple(session_inputs), runtime, images, _FEWEST, seed, None)
    return None if entry is None else (_inferred(model, runtime, entry, scores, seed), entry.target)


@dataclass(frozen=True, eq=False)
class _Entry:
    """Where photographs enter a model.

    Attributes:
        size: height and width in pixels.
        dtype: of the input.
        frame: made-up values for all inputs.
        count: how many images are affordable.
        alone: whether there are no other inputs.
    """

    target: ImageInput
    size: tuple[int, int]
    dtype: np.dtype
    frame: Dataset
    count: int
    alone: bool

    @staticmethod
    def of(
        model: onnx.ModelProto,
        inputs: tuple[TensorInfo, ...],
        runtime: Runtime,
        images: ImageOptions | None,
        samples: int,
        seed: int,
        shapes: Mapping[str, tuple[int, ...]] | None,
    ) -> _Entry | None:
        """None where there is not exactly one image input, or no size at which the model runs."""
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
        alone = len(inputs) == 1
        frame = made_up_inputs(model, inputs, fixed, seed, 2 if alone else count, runtime)
        return _Entry(target, size, info.dtype, frame, count, alone)

    def values(self, pixels: np.ndarray, convention: Convention) -> np.ndarray:
        """Pixels [N, height, width, channels] as the input takes them."""
        return convention.values(pixels, self.target.layout == "nchw", self.dtype)

    @property
    def bytes_each(self) -> int:
        """The size of an image as the input takes it."""
        return math.prod(self.size) * self.target.channels * self.dtype.itemsize

    def dataset(
        self, images: Iterable[np.ndarray], convention: Convention, source: str, folder: Scratch | None
    ) -> Dataset:
        """Images of pixels, beside the made-up values of the other inputs where there are any.

        Args:
            folder: where they are kept; None: in memory.
        """
        name, frame, few = self.target.name, self.frame, max(PIECE // self.bytes_each, 1)
        left = iter(images)
        pieces = iter(lambda: list(islice(left, few)), [])
        values = Column.gathered((self.values(np.stack(piece), convention) for piece in pieces), folder)
        bare = Dataset(source, arrays={name: values}, made_up=True, conventions=(str(convention),))
        if self.alone:
            return replace(bare, batch=frame.batch)
        if frame.arrays is None:
            return replace(bare, arrays=None, ready=_filled(frame, name, values))
        rows = {k: len(a) for k, a in frame.arrays.items() if k not in frame.shared}
        count = min(len(values), *rows.values())
        arrays = {
            k: a.rows(np.arange(count)) if isinstance(a, Column) else a for k, a in frame.arrays.items()
        }
        arrays[name] = values.rows(np.arange(count))
        return replace(bare, arrays=arrays, batch=frame.batch, shared=frame.shared)


def _filled(frame: Dataset, name: str, values: Column) -> tuple[Feed, ...]:
    """The feeds of a frame with images in the place of one input, as far as they last."""
    feeds, start = [], 0
    for feed in frame.feeds():
        rows = len(feed[name])
        if start + rows > len(values):
            break
        feeds.append(feed | {name: values[start : start + rows]})
        start += rows
    return tuple(feeds)


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
    """``given`` with a shape of the image input at which the model runs; None if no tried one does."""
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
    return max(min(samples, limits.LIMITS.photographs // max(size, 1)), min(samples, _FEWEST))


def _seen(
    model: onnx.ModelProto, runtime: Runtime, entry: _Entry, scores: Sequence[str], seed: int
) -> dict[Convention, Evidence]:
    """What the model does with the same pictures under every convention."""
    template = next(iter(entry.frame.feeds(1)))
    batch = len(template[entry.target.name])
    known = candidates(entry.target.channels, whole=entry.dtype.kind in "iu")
    witness = Witness(model, runtime, scores)
    count = _PROBED // max(witness.size(template) // batch * len(known), 1)
    count = min(max(count, _FEWEST_PROBES), _MOST_PROBES)
    if entry.alone and entry.frame.batch is None:
        batch = max(min(_PROBE_BATCH_PIXELS // math.prod(entry.size), _FEWEST_PROBES), 1)
    pixels = generic_images(math.ceil(count / batch) * batch, entry.size, entry.target.channels, seed)

    def feeds(convention: Convention, shown: np.ndarray) -> Iterator[Feed]:
        for start in range(0, len(shown), batch):
            yield template | {entry.target.name: entry.values(shown[start : start + batch], convention)}

    seen = {c: witness.observe(feeds(c, pixels)) for c in known}
    # Whether answers make sense is asked of the most plausible convention only.
    best = plausible(seen, min(entry.size)).conventions[0]
    seen[best] = witness.observe(feeds(best, pixels), feeds(best, pixels[:, :, ::-1]))
    return seen


def _inferred(
    model: onnx.ModelProto, runtime: Runtime, entry: _Entry, scores: Sequence[str], seed: int
) -> Plausible:
    try:
        return plausible(_seen(model, runtime, entry, scores, seed), min(entry.size))
    except ModelError:
        # A part of the model does not run by itself: what is common remains.
        return assumed(candidates(entry.target.channels, whole=entry.dtype.kind in "iu"), min(entry.size))

"""Images that were given without the numbers that the model expects its pixels to be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnxmerge.data.columns import Column, folder_for
from onnxmerge.data.conventions import Convention
from onnxmerge.data.dataset import Dataset, mixture
from onnxmerge.data.generic.plausible import Plausible
from onnxmerge.data.image_inputs import ImageInput


def under_conventions(
    raw: Dataset, target: ImageInput, found: Plausible, held_out: tuple[float, int, float], seed: int
) -> tuple[Dataset, Dataset | None]:
    """(fit, held out): images under every plausible convention.

    What is fitted shares the images among the conventions; what is held out is the same images under each,
    None where there are too few to hold any out.

    Args:
        raw: pixels in 0..255, RGB or grey.
        held_out: the share of the samples, the fewest, and the largest share.
    """
    fit, judged = raw.split(*held_out, seed=seed)
    unit = raw.batch or 1
    order = np.random.default_rng(seed).permutation(len(fit) // unit)
    ends = np.rint(np.cumsum([0.0, *found.probabilities]) * len(order)).astype(int)
    parts = []
    for convention, start, end in zip(found.conventions, ends, ends[1:], strict=False):
        # Of very few images every convention gets one.
        chosen = np.sort(order[start:end]) if end > start else order[:1]
        rows = (chosen[:, None] * unit + np.arange(unit)).reshape(-1)
        parts.append(_under(fit.rows(rows), target, convention))
    return mixture(parts), None if judged is fit else under_each(judged, target, found)


def under_each(raw: Dataset, target: ImageInput, found: Plausible) -> Dataset:
    """The same images under every plausible convention."""
    return mixture([_under(raw, target, convention) for convention in found.conventions])


def _under(raw: Dataset, target: ImageInput, convention: Convention) -> Dataset:
    planes = target.layout == "nchw"

    def values(pixels: np.ndarray) -> np.ndarray:
        rows = pixels.transpose(0, 2, 3, 1) if planes else pixels
        return convention.values(rows, planes, pixels.dtype)

    if raw.ready is not None:  # images of different sizes
        ready = tuple({target.name: values(feed[target.name])} for feed in raw.ready)
        return replace(raw, ready=ready, conventions=(str(convention),))
    assert raw.arrays is not None
    pixels = Column.of(raw.arrays[target.name])
    changed = Column.gathered(map(values, pixels.pieces()), folder_for(pixels.nbytes))
    return replace(raw, arrays={target.name: changed}, conventions=(str(convention),))

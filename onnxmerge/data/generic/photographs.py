"""Generic natural images: endless crops of the photographs that the package ships.

What helps is structure and variety. Regions of every scale are drawn from all pictures, the flat ones are
dropped (photographers do not take pictures of empty sky), and a second region is often pasted into the
first one behind an irregular outline, as objects stand before a background. Colours change mildly only:
strong jitter, noise and channel swaps made calibration worse.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources

import numpy as np
from PIL import Image

_OFFERED = 3  # regions drawn for each that is used
_THUMB = 32  # pixels of the copy on which a region's structure is judged
_GAP = 2.0
_STRETCH = 0.1  # log of the largest change of a region's proportions
_OBJECTS = 0.6  # share of images with something pasted in
_SATURATION, _COLOUR_CAST, _CONTRAST = 0.3, 0.1, 0.15  # standard deviations of log factors
_BRIGHTNESS = 15.0  # standard deviation, of 255
_USUAL_MEAN, _USUAL_DEVIATION, _EXPOSED = 118.0, 52.0, 0.3  # what cameras aim at, and how far we follow


@dataclass(frozen=True)
class _Region:
    picture: int
    box: tuple[float, float, float, float]
    mirrored: bool


def generic_images(count: int, size: tuple[int, int], channels: int = 3, seed: int = 0) -> np.ndarray:
    """Natural images, float32 [count, height, width, channels] in 0..255, RGB or grey.

    Args:
        count: number of images; regions are spread evenly over the pictures of the pack.
        size: (height, width) in pixels.
        channels: 1 or 3.
        seed: the same seed gives the same images.
    """
    images = np.empty((count, *size, channels), np.float32)
    for i, image in enumerate(one_by_one(count, size, channels, seed)):
        images[i] = image
    return images


def one_by_one(count: int, size: tuple[int, int], channels: int = 3, seed: int = 0) -> Iterator[np.ndarray]:
    """The same images, each float32 [height, width, channels] and made when it is asked for."""
    generator = np.random.default_rng(seed)
    regions = _structured(count, size, generator)
    for i in range(count):
        pixels = _pixels(regions[i], size, generator)
        if generator.random() < _OBJECTS:
            other = _pixels(regions[generator.integers(count)], size, generator)
            outline = _outline(size, generator)
            pixels += outline * (other - pixels)
        pixels = np.clip(_exposed(pixels), 0.0, 255.0)
        yield pixels if channels == 3 else pixels.mean(axis=2, keepdims=True)


def let_go() -> None:
    """Free the pictures that images are made from, which have 50 MB; they are read again when needed."""
    _pack.cache_clear()


@functools.cache
def _pack() -> tuple[tuple[Image.Image, ...], ...]:
    """Every picture at full size, half, a quarter, ...: large regions are scaled from the smaller copies."""
    folder = resources.files("onnxmerge.data.generic") / "images"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".webp")), key=lambda f: f.name)
    pictures = []
    for file in files:
        with file.open("rb") as stream, Image.open(stream) as opened:
            copies = [opened.convert("RGB")]
        while min(copies[-1].size) >= 2 * _THUMB:
            copies.append(copies[-1].reduce(2))
        pictures.append(tuple(copies))
    return tuple(pictures)


def _structured(count: int, size: tuple[int, int], generator: np.random.Generator) -> list[_Region]:
    """The ``count`` regions with most structure of ``_OFFERED`` times as many, in random order."""
    drawn = count * _OFFERED
    turns = generator.permutation(np.arange(drawn) % len(_pack()))
    offered = [_region(int(picture), size, generator) for picture in turns]
    structure = np.array([_structure(region) for region in offered])
    chosen = np.sort(np.argsort(-structure, kind="stable")[:count])
    return [offered[i] for i in chosen]


def _region(picture: int, size: tuple[int, int], generator: np.random.Generator) -> _Region:
    """A box of the input's proportions, from the input's size in pixels to the whole picture, log-uniform."""
    width, height = _pack()[picture][0].size
    largest = min(height / size[0], width / size[1])
    factor = np.exp(generator.uniform(min(np.log(largest), 0.0), np.log(largest)))
    stretch = np.exp(generator.uniform(-_STRETCH, _STRETCH))
    w, h = min(factor * size[1] * stretch, width), min(factor * size[0] / stretch, height)
    left, top = generator.uniform(0, width - w), generator.uniform(0, height - h)
    return _Region(picture, (left, top, left + w, top + h), bool(generator.random() < 0.5))


def _resized(region: _Region, size: tuple[int, int]) -> np.ndarray:
    """The region scaled with antialiasing, float32 [height, width, 3]."""
    copies = _pack()[region.picture]
    shrinks = min((region.box[2] - region.box[0]) / size[1], (region.box[3] - region.box[1]) / size[0])
    # At least _GAP source pixels for each of ours: the rest of the antialiasing is exact.
    level = int(np.clip(np.log2(max(shrinks / _GAP, 1.0)), 0, len(copies) - 1))
    width, height = (copies[level].size[i] / copies[0].size[i] for i in (0, 1))
    left, top, right, bottom = region.box
    box = (left * width, top * height, right * width, bottom * height)
    image = copies[level].resize((size[1], size[0]), Image.Resampling.BICUBIC, box=box)
    pixels = np.asarray(image, np.float32)
    return pixels[:, ::-1] if region.mirrored else pixels


def _structure(region: _Region) -> float:
    grey = _resized(region, (_THUMB, _THUMB)).mean(axis=2)
    edges = np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean()
    return float(0.5 * grey.std() + edges)


def _pixels(region: _Region, size: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    """The region with its colours changed a little."""
    pixels = _resized(region, size)
    grey = pixels.mean(axis=2, keepdims=True)
    saturation = np.exp(generator.normal(0, _SATURATION))
    cast = np.exp(generator.normal(0, _COLOUR_CAST, 3))
    pixels = (grey + (pixels - grey) * saturation) * cast
    mean = pixels.mean()
    contrast = np.exp(generator.normal(0, _CONTRAST))
    pixels = mean + (pixels - mean) * contrast + generator.normal(0, _BRIGHTNESS)
    return np.clip(pixels, 0.0, 255.0).astype(np.float32)


def _outline(size: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    """A soft irregular blob, float32 [height, width, 1] in 0..1."""
    height, width = size
    y = (np.arange(height, dtype=np.float32) / height - generator.uniform(0.3, 0.7))[:, None]
    x = (np.arange(width, dtype=np.float32) / width - generator.uniform(0.3, 0.7))[None, :]
    angle, distance = np.arctan2(y, x), np.hypot(y, x)
    radius = np.full_like(angle, generator.uniform(0.15, 0.4))
    for wave in range(1, 6):
        swing = generator.normal(0, 0.35 / wave)
        radius *= 1 + swing * np.cos(wave * angle + generator.uniform(0, 2 * np.pi))
    softness = generator.uniform(1.0, 2.0)  # pixels
    return np.clip((radius - distance) * max(size) / softness + 0.5, 0.0, 1.0)[..., None]


def _exposed(pixels: np.ndarray) -> np.ndarray:
    """Part of the way to the brightness and contrast that photographs usually have."""
    mean, deviation = float(pixels.mean()), max(float(pixels.std()), 4.0)
    contrast = min(max((_USUAL_DEVIATION / deviation) ** _EXPOSED, 0.5), 2.5)
    return _USUAL_MEAN + (1 - _EXPOSED) * (mean - _USUAL_MEAN) + (pixels - mean) * contrast

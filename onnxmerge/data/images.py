"""Folders of images as calibration data."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from PIL import Image

from onnxmerge.arguments import lengths, number, numbers, word
from onnxmerge.data.conventions import Convention
from onnxmerge.data.files import ensure_fits
from onnxmerge.errors import CalibrationError, UsageError

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm"))


@dataclass(frozen=True)
class ImageOptions:
    """How pixels become numbers: (x * scale - mean) / std with x in 0..255.

    What is None is not stated; where anything else is, it counts as 0, 1, 1 and 'rgb'.

    Attributes:
        mean, std: one value, or one per colour in the order of the model's input.
        layout: 'nchw', 'nhwc' or None: inferred from the input's shape.
        resize: (height, width) in pixels that every image is stretched to before the centre is cropped; None:
            the shorter side is fitted to the model's input.
        order: of the colours in the model's input, 'rgb' or 'bgr'.

    Raises:
        UsageError: values out of range.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    scale: float | None = None
    layout: str | None = None
    resize: tuple[int, int] | None = None
    order: str | None = None

    def __post_init__(self) -> None:
        what = "one number or one per colour channel"
        checked: dict[str, object] = {}
        if self.mean is not None:
            checked["mean"] = numbers("mean", self.mean, what, _per_channel)
        if self.std is not None:
            whole = f"{what}, none of them 0"
            checked["std"] = numbers("std", self.std, whole, lambda v: _per_channel(v) and all(v))
        if self.scale is not None:
            fits = "a number that is not 0"
            checked["scale"] = number("scale", self.scale, fits, lambda v: np.isfinite(v) and v != 0)
        if self.layout is not None:
            word("layout", self.layout, ("nchw", "nhwc"))
        if self.order is not None:
            word("order", self.order, ("rgb", "bgr"))
        if self.resize is not None:
            checked["resize"] = lengths("resize", self.resize, "a height and a width in pixels", count=2)
        for name, value in checked.items():
            object.__setattr__(self, name, value)  # lists become tuples, numpy's numbers Python's

    @property
    def states_numbers(self) -> bool:
        """Whether anything is said of the numbers that the model expects, and not of sizes alone."""
        return any(value is not None for value in (self.mean, self.std, self.scale, self.order))

    @property
    def stated(self) -> tuple[str, ...]:
        """The names of what is stated."""
        return tuple(f.name for f in fields(self) if getattr(self, f.name) is not None)

    @property
    def doubt(self) -> str | None:
        """What to ask where these are most likely numbers for pixels of 0..1; they count for 0..255."""
        mean, std = (max(map(abs, values), default=0.0) for values in (self.mean or (), self.std or ()))
        if self.scale is not None or not (0 < std < 1 or (0 < mean <= 1 and std <= 1)):
            return None
        most = (255 - mean) / (std or 1)
        return (
            f"without scale= pixels are 0..255, and mean= and std= make numbers of up to {most:.0f} of them: "
            "if they are for pixels of 0..1, give scale= of 0.00392157, too"
        )

    def convention(self, channels: int) -> Convention:
        """The same as a convention for inputs of so many colour channels."""
        mean, std, scale = self.mean or (0.0,), self.std or (1.0,), self.scale or 1.0
        listed = ("/".join(f"{value:.4g}" for value in values) for values in (mean, std))
        name = "mean {}, std {}, scale {:.4g}".format(*listed, scale)
        order = "grey" if channels == 1 else self.order or "rgb"
        if order == "bgr":
            # Their numbers are in the order of the colours; a convention's are in RGB order.
            mean, std = mean[::-1], std[::-1]
        return Convention(name, mean, std, scale, order)


def _per_channel(values: tuple[float, ...]) -> bool:
    return len(values) in (1, 3) and bool(np.all(np.isfinite(values)))


@dataclass(frozen=True)
class _Frame:
    """Where the pixels go: the size None means that of the image."""

    channels: int
    height: int | None
    width: int | None
    last: bool


def find_images(folder: Path) -> list[Path]:
    """The image files below a folder, at any depth, sorted by path."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())


def load_images(
    paths: Sequence[Path],
    name: str,
    shape: Sequence[int | str | None],
    dtype: np.dtype,
    options: ImageOptions,
) -> list[np.ndarray]:
    """Images for the input ``name`` of this shape (rank 4) and type: N,C,H,W or N,H,W,C.

    Returns:
        One array of all; or one of each (N = 1) where they differ along the only side that the model leaves
        open, as lines of text do: the other side is fitted to the input.

    Raises:
        CalibrationError: an unreadable image, images of different sizes where the model leaves both sides
            open, and an input that is no image.
    """
    frame = _frame(name, shape, options)
    convention = options.convention(frame.channels)
    stacked: np.ndarray | None = None
    apart: list[np.ndarray] = []
    for i, path in enumerate(paths):
        pixels = convention.values(_load(path, frame, options)[None], not frame.last, dtype)
        if stacked is None:
            ensure_fits(len(paths) * pixels.nbytes, f"{len(paths)} images")
            stacked = np.empty((len(paths), *pixels.shape[1:]), dtype)
        if not apart and pixels.shape[1:] != stacked.shape[1:]:
            if frame.height is None and frame.width is None:
                raise CalibrationError(
                    f"{path} has another size than {paths[0]}, and the model leaves the size open: "
                    "give resize="
                )
            apart = list(stacked[:i, None])
        if apart:
            apart.append(pixels)
        else:
            stacked[i] = pixels[0]
    if stacked is None:
        raise CalibrationError("there are no images to calibrate on")
    return apart or [stacked]


def _frame(name: str, shape: Sequence[int | str | None], options: ImageOptions) -> _Frame:
    if len(shape) != 4:
        raise CalibrationError(
            f"images were given, but the input {name!r} has shape {list(shape)}: an image input has 4 axes"
        )
    layout = options.layout
    if layout is None:
        layout = "nchw" if shape[1] in (1, 3) else "nhwc" if shape[3] in (1, 3) else None
    if layout is None:
        raise CalibrationError(
            f"the input {name!r} of shape {list(shape)} does not show where its colour channels are: "
            "say it with layout= (nchw or nhwc)"
        )
    last = layout == "nhwc"
    channels, height, width = (shape[3], shape[1], shape[2]) if last else shape[1:]
    channels = channels if isinstance(channels, int) else 3
    if channels not in (1, 3):
        raise CalibrationError(
            f"the input {name!r} has {channels} channels under {layout}; images have 1 or 3"
        )
    if channels == 1 and 3 in (len(options.mean or ()), len(options.std or ())):
        raise UsageError(f"the input {name!r} is grey: give one number for mean= and std=")
    return _Frame(
        channels, height if isinstance(height, int) else None, width if isinstance(width, int) else None, last
    )


def _load(path: Path, frame: _Frame, options: ImageOptions) -> np.ndarray:
    """Pixels of one image, [height, width, channels] uint8, at the size of the frame."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                if opened.mode.startswith(("I", "F")):
                    raise CalibrationError(
                        f"{path} has grey values of more than 8 bits, which would be cut off at 255: turn "
                        "your images into 8 bits as the model expects them, or give its inputs as .npy"
                    )
                image = opened.convert("RGB" if frame.channels == 3 else "L")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as failure:
        raise CalibrationError(f"{path} is refused: {failure}") from failure
    except (OSError, ValueError, SyntaxError, EOFError) as failure:
        raise CalibrationError(f"{path} is not a readable image: {failure}") from failure
    width, height = image.size
    goal_h, goal_w = frame.height, frame.width
    if options.resize is not None:
        height, width = options.resize
    elif goal_h is not None or goal_w is not None:
        # The smallest copy that still covers the input, so that the crop cuts one axis only.
        factor = max((goal_h or 0) / height, (goal_w or 0) / width)
        height, width = max(round(height * factor), goal_h or 1), max(round(width * factor), goal_w or 1)
    ensure_fits(height * width * 3, f"{path}, resized to {height} x {width},")
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    goal_h, goal_w = goal_h or height, goal_w or width
    if height < goal_h or width < goal_w:
        raise CalibrationError(f"resize= is {height} x {width}, smaller than the input, {goal_h} x {goal_w}")
    top, left = (height - goal_h) // 2, (width - goal_w) // 2
    pixels = np.asarray(image.crop((left, top, left + goal_w, top + goal_h)))
    return pixels.reshape(goal_h, goal_w, frame.channels)

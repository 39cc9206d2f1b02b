"""Which inputs of a model are images: by shape, by what the graph does with them, and by name."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from onnxmerge.operators.values import convolves, preprocesses
from onnxmerge.runtime.tensor_info import TensorInfo

# Pictures of sound have the shape of images and none of their statistics.
_SOUND = re.compile(
    r"(^|[^a-z])(mel|mfcc|fbank|spec|spectro\w*|audio|wave?|waveform|speech|log_?mel\w*)([^a-z]|$)"
)
_LEAST = 8  # pixels: below, no photograph is left
_MOST = 4096
_WIDEST = 8.0  # lines of text
_WIDEST_GREY = 2.0  # one channel and a long side: sensors and spectrograms


@dataclass(frozen=True)
class ImageInput:
    """An input that takes images: float or uint8 of rank 4.

    ``layout`` is 'nchw' or 'nhwc'; ``height`` and ``width`` are None where the model leaves them open.
    """

    name: str
    layout: str
    channels: int
    height: int | None
    width: int | None

    def shape(self, batch: int, height: int, width: int) -> tuple[int, int, int, int]:
        """The input's shape for a batch of images of this size in pixels."""
        if self.layout == "nchw":
            return (batch, self.channels, height, width)
        return (batch, height, width, self.channels)


def image_input(
    model: onnx.ModelProto, session_inputs: Sequence[TensorInfo], layout: str | None = None
) -> ImageInput | None:
    """The one input that takes images, or None where there is none or more than one.

    An image has rank 4, one or three channels, sides of plausible length, and feeds a convolution directly
    or through operators that only move and rescale values. ``layout`` settles where the channels are.
    """
    found = [image for info in session_inputs if (image := _frame(info, layout)) is not None]
    found = [image for image in found if _feeds_convolution(model.graph, image.name)]
    return found[0] if len(found) == 1 else None


def _frame(info: TensorInfo, layout: str | None) -> ImageInput | None:
    dtype, shape = info.dtype, info.shape
    if dtype is None or shape is None or len(shape) != 4:
        return None
    if dtype.kind != "f" and dtype != "uint8":
        return None
    if _SOUND.search(info.name.lower()):
        return None
    orders = {"nchw": (1, 2, 3), "nhwc": (3, 1, 2)}
    for name, (channel, row, column) in orders.items():
        if layout in (None, name) and shape[channel] in (1, 3):
            height, width = (d if isinstance(d, int) else None for d in (shape[row], shape[column]))
            channels = int(shape[channel] or 0)
            if _plausible(channels, height, width):
                return ImageInput(info.name, name, channels, height, width)
    return None


def _plausible(channels: int, height: int | None, width: int | None) -> bool:
    sides = [side for side in (height, width) if side is not None]
    if any(not _LEAST <= side <= _MOST for side in sides):
        return False
    ratio = max(sides) / min(sides) if len(sides) == 2 else 1.0
    return ratio <= (_WIDEST if channels == 3 else _WIDEST_GREY)


def _feeds_convolution(graph: onnx.GraphProto, name: str) -> bool:
    consumers = defaultdict(list)
    for node in graph.node:
        for tensor in node.input:
            consumers[tensor].append(node)
    pending, seen = [name], {name}
    while pending:
        for node in consumers[pending.pop()]:
            if convolves(node):
                return True
            if preprocesses(node):
                new = [tensor for tensor in node.output if tensor and tensor not in seen]
                seen.update(new)
                pending.extend(new)
    return False

"""A fold site as a linear regression: rows of features, rows of targets, and the matrix between them.

``targets = features @ matrix.T + bias`` holds row by row: a row is one output position of one sample,
its features are the receptive field (all taps of a convolution, ordered tap by tap), one problem per
block of a grouped convolution.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np

from onnxmerge.channels.sites import FoldSite
from onnxmerge.graph.view import Axis
from onnxmerge.operators.parameters import alpha_of, is_plain_sum
from onnxmerge.operators.table import linear_of
from onnxmerge.operators.traits import Form

# One position of so many, or fewer: bringing all channels together first would take longer.
_SPARSE = 4
# Which positions of the data axis matter: an index.
Taken = slice | np.ndarray
# Padded data, channels last, float32 [N, spatial..., C]; strides; dilations.
Geometry = tuple[np.ndarray, list[int], list[int]]


@dataclass(frozen=True, eq=False)
class LinearForm:
    """The regression behind a site.

    Attributes:
        taps: places of the kernel (1 for products).
        blocks: independent problems (groups of a convolution).
        channel: the channel of every feature of a block, int64 [F].
        outputs: targets per block.
        output: the axis of the site's output that carries them.
    """

    site: FoldSite
    taps: int
    blocks: int
    channel: np.ndarray
    outputs: int
    output: Axis
    _to_matrix: Callable[[np.ndarray], np.ndarray]
    _to_weight: Callable[[np.ndarray], np.ndarray]
    _gather: Callable[[np.ndarray, tuple[int, ...], np.ndarray, Taken], np.ndarray]

    @property
    def features(self) -> int:
        """Features per block."""
        return len(self.channel)

    def matrix(self) -> np.ndarray:
        """The stored weight as [blocks, outputs, features], precision of ``site.values``; maybe a view."""
        return self._to_matrix(self.site.values)

    def matrix_of(self, weight: np.ndarray) -> np.ndarray:
        """A weight in the layout of the file as a matrix [blocks, outputs, features]; often a view of it."""
        return self._to_matrix(weight)

    def weight(self, matrix: np.ndarray) -> np.ndarray:
        """The weight in the layout of the file from a matrix [blocks, outputs, features]; often a view."""
        return self._to_weight(matrix)

    def count(self, y: np.ndarray) -> int:
        """The number of rows in the site's output (or a tensor of that shape)."""
        return int(y.size // y.shape[self.output.axis])

    def rows(
        self, x: np.ndarray, y_shape: tuple[int, ...], chosen: np.ndarray, taken: np.ndarray | None = None
    ) -> np.ndarray:
        """The features of the chosen rows, float32 [blocks, rows, features].

        Args:
            taken: bool, the positions of the data axis that matter, as many in every block; None: all.
        """
        if taken is not None and not taken.any():
            return np.zeros((self.blocks, len(chosen), 0), dtype=np.float32)
        return self._gather(x, y_shape, chosen, np.s_[:] if taken is None or taken.all() else taken)

    def targets(self, y: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """The targets of the chosen rows, float32 [blocks, rows, outputs]."""
        last = np.moveaxis(y, self.output.axis, -1)
        found = _rows(last, chosen).reshape(len(chosen), self.blocks, self.outputs)
        return np.ascontiguousarray(found.transpose(1, 0, 2), dtype=np.float32)


def _rows(last: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Some rows, [n, size], of an array [..., size]; a vector is one row."""
    index = np.unravel_index(chosen, last.shape[:-1]) if last.ndim > 1 else chosen
    found: np.ndarray = (last if last.ndim > 1 else last[None])[index]
    return found


def linear_form(site: FoldSite) -> LinearForm | None:
    """The regression of a site, or None where its output is no plain linear map of its data."""
    if site.rows is None or site.output is None or site.node.y[0] is None:
        return None
    rows, output = site.rows, site.output
    linear = linear_of(site.node)
    # A fused activation hides what the product computed.
    if linear is None or not is_plain_sum(site.node):
        return None
    if linear.form is Form.PRODUCT:
        return _product(site, rows, output) if site.weight.rank == 2 else None
    return _convolution(site, output) if site.contract.operand == 0 else None


def _product(site: FoldSite, rows: int, output: Axis) -> LinearForm | None:
    if len(site.columns) != site.data.size or not np.array_equal(site.columns, np.arange(site.data.size)):
        return None
    alpha = alpha_of(site.node)
    order = (rows, site.axis)
    if alpha == 0:
        return None

    def gather(x: np.ndarray, y_shape: tuple[int, ...], chosen: np.ndarray, taken: Taken) -> np.ndarray:
        last = np.moveaxis(x, site.data.axis, -1)
        return _rows(last, chosen)[:, taken].astype(np.float32, copy=False)[None]

    # Views where they can be: such weights have hundreds of MB.
    def to_matrix(w: np.ndarray) -> np.ndarray:
        return _times(w.transpose(order)[None], alpha)

    def to_weight(m: np.ndarray) -> np.ndarray:
        return _times(m[0].transpose(np.argsort(order)), 1 / alpha)

    return LinearForm(
        site,
        1,
        1,
        site.channel[site.columns],
        site.weight.shape[rows],
        output,
        to_matrix,
        to_weight,
        gather,
    )


def _times(values: np.ndarray, factor: float) -> np.ndarray:
    return values if factor == 1 else factor * values


def _convolution(site: FoldSite, output: Axis) -> LinearForm:
    shape, blocks = site.weight.shape, site.node.attr("group", 1)
    kernel = shape[2:]
    taps = prod(kernel)
    linear = linear_of(site.node)
    transposed = linear is not None and linear.form is Form.TRANSPOSED_CONVOLUTION
    inner = shape[0] // blocks if transposed else shape[1]
    outputs = shape[1] if transposed else shape[0] // blocks
    flip: tuple[Any, ...] = (..., *(slice(None, None, -1) for _ in kernel))

    def to_matrix(w: np.ndarray) -> np.ndarray:
        if transposed:
            w = w.reshape(blocks, inner, outputs, *kernel)[flip]
            return w.reshape(blocks, inner, outputs, taps).transpose(0, 2, 3, 1).reshape(blocks, outputs, -1)
        return w.reshape(blocks, outputs, inner, taps).transpose(0, 1, 3, 2).reshape(blocks, outputs, -1)

    def to_weight(m: np.ndarray) -> np.ndarray:
        m = m.reshape(blocks, outputs, taps, inner)
        if transposed:
            w = m.transpose(0, 3, 1, 2).reshape(blocks, inner, outputs, *kernel)[flip]
            return np.ascontiguousarray(w).reshape(shape)
        return m.transpose(0, 1, 3, 2).reshape(shape)

    geometry = _transposed_geometry if transposed else _geometry
    pointwise = taps == 1 and not transposed and not any(site.node.attr("pads", []))
    pointwise &= _attributes(site, kernel)[0] == [1] * len(kernel)

    def gather(x: np.ndarray, y_shape: tuple[int, ...], chosen: np.ndarray, taken: Taken) -> np.ndarray:
        if pointwise and len(chosen) * _SPARSE < x.size // x.shape[1]:
            return _at(x, y_shape, chosen, taken, blocks)
        padded, stride, dilation = geometry(site, x[:, taken], y_shape, kernel)
        return _patches(padded, y_shape, chosen, kernel, stride, dilation, blocks)

    return LinearForm(
        site,
        taps,
        blocks,
        np.tile(site.channel[site.columns][:inner], taps),
        outputs,
        output,
        to_matrix,
        to_weight,
        gather,
    )


def _at(x: np.ndarray, y_shape: tuple[int, ...], chosen: np.ndarray, taken: Taken, blocks: int) -> np.ndarray:
    """What a kernel of one tap reads for a few of many output positions."""
    sample, place = np.divmod(chosen, prod(y_shape[2:]))
    found = x.reshape(*x.shape[:2], -1)[sample, :, place][:, taken].astype(np.float32, copy=False)
    return np.ascontiguousarray(
        found.reshape(len(chosen), blocks, found.shape[1] // blocks).transpose(1, 0, 2)
    )


def _patches(
    padded: np.ndarray,
    y_shape: tuple[int, ...],
    chosen: np.ndarray,
    kernel: tuple[int, ...],
    stride: list[int],
    dilation: list[int],
    blocks: int,
) -> np.ndarray:
    """Receptive fields of the chosen output positions; ``padded`` is [N, spatial..., C]."""
    sample, *place = np.unravel_index(chosen, (y_shape[0], *y_shape[2:]))
    spatial = padded.shape[1:-1]
    steps = np.cumprod([1, *spatial[::-1]])[::-1]
    start = sample * steps[0]
    for p, s, step in zip(place, stride, steps[1:], strict=True):
        start = start + p * (s * step)
    offsets = [
        sum(t * d * step for t, d, step in zip(tap, dilation, steps[1:], strict=True))
        for tap in product(*map(range, kernel))
    ]
    width = padded.shape[-1]
    index = start[:, None] + np.array(offsets, dtype=np.int64)[None]
    found: np.ndarray = padded.reshape(-1, width)[index]
    if blocks == 1:
        return found.reshape(1, len(chosen), len(offsets) * width)
    found = found.reshape(len(chosen), len(offsets), blocks, width // blocks).transpose(2, 0, 1, 3)
    return np.ascontiguousarray(found).reshape(blocks, len(chosen), len(offsets) * (width // blocks))


def _attributes(site: FoldSite, kernel: tuple[int, ...]) -> tuple[list[int], list[int]]:
    node, rank = site.node, len(kernel)
    return list(node.attr("strides", [1] * rank)), list(node.attr("dilations", [1] * rank))


def _geometry(site: FoldSite, x: np.ndarray, y_shape: tuple[int, ...], kernel: tuple[int, ...]) -> Geometry:
    """The padded data of a convolution, channels last, with stride and dilation."""
    stride, dilation = _attributes(site, kernel)
    rank = len(kernel)
    needed = [
        max(0, (out - 1) * s + d * (k - 1) + 1 - size)
        for out, s, d, k, size in zip(y_shape[2:], stride, dilation, kernel, x.shape[2:], strict=True)
    ]
    automatic = site.node.attr("auto_pad", "NOTSET")
    if automatic == "SAME_UPPER":
        low = [n // 2 for n in needed]
    elif automatic == "SAME_LOWER":
        low = [n - n // 2 for n in needed]
    elif automatic == "VALID":
        low = [0] * rank
    else:
        low = list(site.node.attr("pads", [0] * 2 * rank))[:rank]
    # Stride and padding together can leave a border that no output reads, or read less than is there.
    size = [
        max(low[i] + x.shape[2 + i], (y_shape[2 + i] - 1) * stride[i] + dilation[i] * (kernel[i] - 1) + 1)
        for i in range(rank)
    ]
    padded = np.zeros((x.shape[0], *size, x.shape[1]), dtype=np.float32)
    inside = tuple(slice(low[i], low[i] + x.shape[2 + i]) for i in range(rank))
    padded[(slice(None), *inside)] = np.moveaxis(x, 1, -1)
    return padded, stride, dilation


def _transposed_geometry(
    site: FoldSite, x: np.ndarray, y_shape: tuple[int, ...], kernel: tuple[int, ...]
) -> Geometry:
    """A transposed convolution as a plain one: data spread by the stride, the kernel flipped."""
    stride, dilation = _attributes(site, kernel)
    rank = len(kernel)
    extra = site.node.attr("output_padding", [0] * rank)
    automatic = site.node.attr("auto_pad", "NOTSET")
    pads = list(site.node.attr("pads", [0] * 2 * rank))
    if automatic != "NOTSET" or site.node.attr("output_shape") is not None:
        total = [
            stride[i] * (x.shape[2 + i] - 1) + extra[i] + dilation[i] * (kernel[i] - 1) + 1 - y_shape[2 + i]
            for i in range(rank)
        ]
        pads = [t - t // 2 if automatic != "SAME_UPPER" else t // 2 for t in total]
    spread = [y_shape[2 + i] + dilation[i] * (kernel[i] - 1) for i in range(rank)]
    padded = np.zeros((x.shape[0], *spread, x.shape[1]), dtype=np.float32)
    source, target = [], []
    for i in range(rank):
        low = dilation[i] * (kernel[i] - 1) - pads[i]
        places = low + stride[i] * np.arange(x.shape[2 + i])
        inside = np.flatnonzero((places >= 0) & (places < spread[i]))
        source.append(slice(inside[0], inside[-1] + 1))
        target.append(slice(places[inside[0]], places[inside[-1]] + 1, stride[i]))
    padded[(slice(None), *target)] = np.moveaxis(x, 1, -1)[(slice(None), *source)]
    return padded, [1] * rank, dilation

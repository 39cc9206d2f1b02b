"""What the four numbers of boxes are, and which cells of which grids rows belong to: seen in their values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxmerge.validation.kinds import Detections
from onnxmerge.validation.kinds.heads import Form, Level

# The share of rows by which a form is told: some boxes of any model are degenerate.
MOST = 0.98
# Rows that are fewer are no map of places to look at.
FEWEST_ROWS = 16
# Of the rows, those of the highest scores by which sizes are told.
_STRONG = 0.01
_STRIDES = (4, 8, 16, 32, 64, 128)


@dataclass(frozen=True)
class Detector:
    """Outputs that are read together, how, and by what that was told."""

    outputs: tuple[str, ...]
    how: Detections
    reason: str


def grid_of(rows: int, image: tuple[int, int] | None) -> list[tuple[int, int, int]] | None:
    """Strides, cells across and cells, of the levels that make so many rows; None where none do."""
    if image is None:
        return None
    cells = [(s, -(-image[1] // s), -(-image[0] // s) * -(-image[1] // s)) for s in _STRIDES]
    for count in (3, 4, 1, 2, 5):
        for start in range(len(cells) - count + 1):
            levels = cells[start : start + count]
            if sum(number for _, _, number in levels) == rows:
                return levels
    return None


def across_of(grid: Sequence[tuple[int, int, int]], rows: int) -> np.ndarray:
    """Of every row the column of its cell, in units of the width of the picture, float64 [rows].

    Args:
        rows: those of some pictures, one after the other.
    """
    one = np.concatenate([np.arange(count) % columns / columns for _, columns, count in grid])
    return np.tile(one, rows // len(one))


def on_grid(level: Level, grid: Sequence[tuple[int, int, int]]) -> tuple[Level, ...]:
    """The rows of a level, divided among the strides of a grid."""
    bounds = [int(n) for n in np.cumsum([0, *(count for _, _, count in grid)])]
    return tuple(
        replace(level, rows=(first, last), stride=stride, across=columns)
        for (stride, columns, _), first, last in zip(grid, bounds[:-1], bounds[1:], strict=True)
    )


def strongest(confidence: np.ndarray) -> np.ndarray:
    """The rows of the highest scores, int64."""
    return np.argsort(-confidence, kind="stable")[: max(int(_STRONG * len(confidence)), 1)]


def is_corners(boxes: np.ndarray) -> bool:
    """Whether four numbers are the corners of boxes, from values [rows, 4]."""
    return bool(((boxes[:, 2] >= boxes[:, 0]) & (boxes[:, 3] >= boxes[:, 1])).mean() >= MOST)


def form_of(boxes: np.ndarray, across: np.ndarray | None, widest: int, strong: np.ndarray) -> Form | None:
    """What four numbers are, from values [rows, 4]; None where they are no numbers.

    Args:
        across: of every row the column of its cell, where rows are cells of grids: boxes in one frame lie
            where their cell is.
        widest: the most cells in a line of a grid.
        strong: the rows of the highest scores.
    """
    if not len(boxes) or not np.isfinite(boxes).all():
        return None
    placed = True
    if across is not None and across.std() > 0:
        middle = boxes[:, 0] - boxes[:, 0].mean()
        placed = float(middle @ (across - across.mean())) > 0.5 * len(boxes) * middle.std() * across.std()
    if placed and is_corners(boxes):
        return Form.CORNERS
    if placed and (boxes[:, 2:] > 0).mean() >= MOST and (boxes[:, :2] >= -boxes[:, 2:]).mean() >= MOST:
        return Form.CENTRES
    if across is None:
        return Form.UNKNOWN
    # What is found is larger than the cell that finds it, nothing is larger than the picture, and offsets go
    # both ways.
    sizes = boxes[:, 2:]
    sound = float(np.median(sizes[strong])) >= 0 and (sizes <= np.log(2 * widest)).mean() >= MOST
    both_ways = (boxes[:, :2] < 0).any(axis=1).mean() > 1 - MOST
    return Form.CELLS if sound and both_ways and np.abs(boxes[:, :2]).max() < widest else Form.UNKNOWN

"""A picture of a table: accuracy against the share of MACs kept, a line for every method."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from tables import METHODS, Row, Table

from onnxmerge.graph.output import atomic_write

_COLUMNS = 4
_COLOURS = {
    "prune": "tab:gray",
    "merge": "tab:red",
    "lbyl": "tab:brown",
    "folding": "tab:olive",
    "gaussian": "tab:purple",
    "photographs": "tab:blue",
    "images": "tab:green",
    "recovered": "k",
}


def draw(table: Table, filled: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """A panel for every net (and criterion); all lines of a panel start at the whole net."""
    panels: dict[str, list[Row]] = {}
    for row in table.rows:
        if row.key("prune") in filled:
            panels.setdefault(row.label, []).append(row)
    wide = min(len(panels), _COLUMNS)
    high = math.ceil(len(panels) / wide)
    # Text as text, and names of parts that do not change from run to run.
    with matplotlib.rc_context({"svg.hashsalt": "onnxmerge", "svg.fonttype": "none", "font.size": 8}):
        figure = Figure(figsize=(max(4.5, 2.5 * wide), 2.3 * high + 0.6), layout="constrained")
        axes = figure.subplots(high, wide, squeeze=False).flat
        for (label, rows), axis in zip(panels.items(), axes, strict=False):
            _panel(axis, rows, filled)
            axis.set_title(label, fontsize=8)
        for axis in list(axes)[len(panels) :]:
            axis.axis("off")
        figure.supxlabel("share of MACs kept")
        figure.supylabel("test images right, %")
        lines = {line.get_label(): line for axis in figure.axes for line in axis.lines}
        ordered = [m.title for m in METHODS.values() if m.title in lines]
        figure.legend([lines[t] for t in ordered], ordered, loc="outside upper center", ncols=4)
        with atomic_write(path) as part:
            figure.savefig(part, format="svg", metadata={"Date": None})


def _panel(axis: Any, rows: list[Row], filled: Mapping[str, Mapping[str, Any]]) -> None:
    for name, method in METHODS.items():
        found = [filled[row.key(name)] for row in rows if row.key(name) in filled]
        points = sorted(
            {(cell["macs"], cell["right"]) for cell in found} | {(1.0, c["dense"]) for c in found}
        )
        if len(points) > 1:
            style = "o-" if method.own else "s--"
            axis.plot(
                *zip(*points, strict=True), style, color=_COLOURS.get(name), markersize=3, label=method.title
            )
    axis.grid(alpha=0.3)

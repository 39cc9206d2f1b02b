"""The picture of the table: what was said to change, what did, and what the task lost."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from method_pictures import box, drawing, text

_LINE, _LEFT, _WIDTH, _TOP = 46, 250, 540, 64
_BARS = (("said", "box"), ("did change", "cell"), ("lost", "out"))


def picture(rows: Sequence[dict[str, Any]]) -> str:
    """An SVG with three bars for every run that wrote a model; losses below zero are drawn as none."""
    done = [row for row in rows if not row["exit"]]
    most = max((max(row["change"], row["differing"]) for row in done), default=0.0) or 1.0
    parts = [text(_LEFT, 26, "what onnxmerge said, what changed, and what the task lost", anchor="start")]
    for number, (name, kind) in enumerate(_BARS):
        x = _LEFT + 150 * number
        parts += [box(x, 38, 12, 12, kind), text(x + 18, 49, name, "small", "start")]
    for number, row in enumerate(done):
        y = _TOP + _LINE * number
        parts.append(text(_LEFT - 12, y + 16, row["application"], anchor="end"))
        parts.append(
            text(_LEFT - 12, y + 32, f"{row['budget']}: {row['time']:.2f} of the time", "small", "end")
        )
        values = (row["change"], row["differing"], (row["original"] - row["score"]) / row["unit"])
        for place, (value, (_, kind)) in enumerate(zip(values, _BARS, strict=True)):
            long = round(_WIDTH * max(value, 0.0) / most, 1)
            parts.append(box(_LEFT, y + 12 * place + 2, long, 10, kind))
            parts.append(text(_LEFT + long + 6, y + 12 * place + 11, f"{value:.1%}", "small", "start"))
    height = _TOP + _LINE * len(done) + 12
    return drawing(_LEFT + _WIDTH + 80, height, "Said, changed and lost in five applications", parts)

"""The coordinates of a curve: what a template draws as an SVG."""

from __future__ import annotations

import math
from dataclasses import dataclass

from onnxmerge.report.report import Sweep

# Units of the drawing, of which a screen shows about one as one pixel.
WIDTH, HEIGHT = 640.0, 300.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 20.0, 12.0, 44.0
_MOST_TICKS = 6


@dataclass(frozen=True)
class Tick:
    """A place on an axis, in units of the drawing, and the share that it stands for."""

    place: float
    share: float


@dataclass(frozen=True)
class Line:
    """One curve: places [(x, y), ..] in units of the drawing, from left to right."""

    name: str
    points: tuple[tuple[float, float], ...]

    @property
    def path(self) -> str:
        """The points as an SVG polyline takes them."""
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in self.points)


@dataclass(frozen=True)
class Chart:
    """Curves over the share of MACs kept, with the ticks of both axes.

    Attributes:
        frame: left, top, right, bottom.
    """

    lines: tuple[Line, ...]
    x: tuple[Tick, ...]
    y: tuple[Tick, ...]
    frame: tuple[float, float, float, float] = (_LEFT, _TOP, WIDTH - _RIGHT, HEIGHT - _BOTTOM)
    width: float = WIDTH
    height: float = HEIGHT


def curve(report: Sweep, what: str) -> Chart:
    """One figure against the MACs kept: ``what`` is ``change``, ``relative_error`` or ``latency``.

    With the change come its upper 90% bound, and the change after teaching where that was measured. Figures
    that are not finite are left out.
    """
    points = sorted(report.points, key=lambda point: point.macs)
    series: dict[str, list[float | None]] = {what: [getattr(p, what) for p in points]}
    if what == "change":
        series = {"upper bound": [p.change_upper_90 for p in points], "change": [p.change for p in points]}
        taught = [p.recovered_change for p in points]
        series |= {"after recovery": taught} if any(v is not None for v in taught) else {}
    known = {
        name: [(p.macs, v) for p, v in zip(points, values, strict=True) if v is not None and math.isfinite(v)]
        for name, values in series.items()
    }
    left, top, right, bottom = Chart((), (), ()).frame
    ticks = _ticks(max((v for line in known.values() for _, v in line), default=0.0))

    def across(share: float) -> float:
        return left + share * (right - left)

    def up(value: float) -> float:
        return bottom - value / ticks[-1] * (bottom - top)

    lines = (Line(name, tuple((across(x), up(y)) for x, y in line)) for name, line in known.items())
    shares = (0.0, 0.25, 0.5, 0.75, 1.0)
    return Chart(
        tuple(lines), tuple(Tick(across(s), s) for s in shares), tuple(Tick(up(t), t) for t in ticks)
    )


def _ticks(most: float) -> list[float]:
    """Round numbers from 0 to the first one that is not below ``most``, at most six."""
    most = max(most, 1e-3)
    power = 10.0 ** math.floor(math.log10(most / _MOST_TICKS))
    step = next(power * k for k in (1, 2, 5, 10, 20) if math.ceil(most / (power * k)) < _MOST_TICKS)
    return [step * i for i in range(math.ceil(most / step - 1e-9) + 1)]

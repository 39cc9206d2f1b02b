"""The trade-off curve as a picture; needs matplotlib, which only this module imports."""

from __future__ import annotations

from pathlib import Path

from onnxmerge.errors import UsageError
from onnxmerge.graph.output import atomic_write
from onnxmerge.report import Sweep


def ensure_drawn(path: Path) -> None:
    """Before any work: raise UsageError where matplotlib is not installed, or does not know the suffix."""
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError as error:
        raise UsageError('--plot needs matplotlib: pip install "onnxmerge[plot]"') from error
    known = FigureCanvasBase.get_supported_filetypes()
    if _format(path) not in known:
        raise UsageError(f"--plot {path}: a picture is .png, .svg, .pdf or another of {', '.join(known)}")


def _format(path: Path) -> str:
    return path.suffix.removeprefix(".").lower() or "png"


def save_curve(report: Sweep, path: Path) -> None:
    """Change and latency against the share of MACs kept, in the format of the file's suffix.

    Raises:
        OutputError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    points = sorted(report["points"], key=lambda point: point["macs"])
    shares = [point["macs"] for point in points]
    scored = report.score is not None
    figure = Figure(figsize=(6.4, 7.2 if scored else 4.2), layout="constrained")
    change = figure.add_subplot(2 if scored else 1, 1, 1)
    change.plot(shares, [point["change"] for point in points], "o-", color="tab:blue", label="change")
    if any(point["recovered_change"] is not None for point in points):
        taught = [point["recovered_change"] for point in points]
        change.plot(shares, taught, "o-", color="tab:green", label="change after recovery")
        change.legend(loc="upper right")
    change.set_xlabel("share of MACs kept")
    stand_in = ", on stand-in data" if report["stand_in"] else ""
    change.set_ylabel(f"change of the answers{stand_in}", color="tab:blue")
    change.set_ylim(bottom=0)
    latency = change.twinx()
    latency.plot(shares, [point["latency"] for point in points], "s--", color="tab:orange", label="latency")
    latency.set_ylabel("latency, share of the input's", color="tab:orange")
    latency.set_ylim(bottom=0)
    if report.score is not None:
        score = figure.add_subplot(2, 1, 2, sharex=change)
        score.axhline(report.score, color="tab:grey", linestyle=":", label="of the input")
        score.plot(shares, [point["score"] for point in points], "o-", color="tab:red", label="score")
        if any(point["recovered_score"] is not None for point in points):
            taught = [point["recovered_score"] for point in points]
            score.plot(shares, taught, "o-", color="tab:green", label="score after recovery")
        score.set_xlabel("share of MACs kept")
        score.set_ylabel(f"score by {report.measure}")
        score.legend()
    with atomic_write(path) as part:
        figure.savefig(part, format=_format(path))

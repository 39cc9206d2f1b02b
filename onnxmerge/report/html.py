"""Reports as pages: one file each, without scripts, which loads nothing and reads as well on paper.

The markup is written through jinja2, which escapes every value: names of nodes and outputs come from the
model file, and are text whatever they hold. Bars are boxes with a width and the one curve is an SVG of a few
lines, so that both follow the reader's font, width and colours; a plotting library would weigh megabytes, in
the package or in every page, for less than that.
"""

from __future__ import annotations

import math
from base64 import b64encode
from functools import cache
from typing import TYPE_CHECKING

from onnxmerge.report.chart import curve
from onnxmerge.report.comparison import Comparison
from onnxmerge.report.document import Document
from onnxmerge.report.report import Inspection, Report, Sweep
from onnxmerge.validation import percent

if TYPE_CHECKING:
    from jinja2 import Environment

_PAGES: dict[type[Document], str] = {
    Report: "report.html",
    Inspection: "inspection.html",
    Sweep: "sweep.html",
    Comparison: "comparison.html",
}
_BYTES = ("bytes", "kB", "MB", "GB", "TB")


def page(document: Document) -> str:
    """A whole page, HTML5 in UTF-8."""
    return _environment().get_template(_PAGES[type(document)]).render(report=document)


def summary(document: Document) -> str:
    """The headline and a table, to stand in another page."""
    return _environment().get_template(f"summary/{_PAGES[type(document)]}").render(report=document)


@cache
def _environment() -> Environment:
    """The templates; loaded on first use, for most runs write no page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    found = Environment(
        loader=PackageLoader("onnxmerge.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {
        "share": share, "number": number, "score": score, "size": size, "seconds": seconds,
        "data_uri": data_uri,
    }  # fmt: skip
    found.globals["curve"] = curve
    return found


def share(value: float | None) -> str:
    """A share in percent; a dash where there is none."""
    if value is None or math.isnan(value):
        return "\N{EN DASH}"
    return percent(value) if math.isfinite(value) else "any amount"


def number(value: float | int | None) -> str:
    """A count with its thousands set apart; another number with four digits."""
    if value is None:
        return "\N{EN DASH}"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def score(value: float | None) -> str:
    """A score of the user's own as the terminal shows it."""
    return "\N{EN DASH}" if value is None else f"{value:.6g}"


def size(count: float) -> str:
    """Bytes in the unit that leaves the fewest digits."""
    unit = 0
    while count >= 1000 and unit < len(_BYTES) - 1:
        count, unit = count / 1000, unit + 1
    return f"{count:.3g} {_BYTES[unit]}" if unit else f"{count:.0f} bytes"


def seconds(value: float) -> str:
    """A duration as people say it."""
    if value >= 100:
        return f"{value / 60:.0f} min"
    return f"{value:.1f} s" if value >= 0.95 else f"{1000 * value:.0f} ms"


def data_uri(png: bytes) -> str:
    """A picture inside of the page."""
    return f"data:image/png;base64,{b64encode(png).decode()}"

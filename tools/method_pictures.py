"""Draw the two pictures that explain the method: docs/images/channel.svg and docs/images/proof.svg.

python tools/method_pictures.py
"""

from __future__ import annotations

from pathlib import Path

IMAGES = Path(__file__).parents[1] / "docs" / "images"
STYLE = """<style>
text { font: 14px system-ui, "DejaVu Sans", sans-serif; fill: #24292f; }
.small { font-size: 12px; fill: #57606a; } .gone { fill: #cf222e; } .keep { fill: #1a7f4b; }
.cell { fill: #dbe7fb; stroke: #2f6fdd; } .out { fill: #fbe3e4; stroke: #cf222e; stroke-dasharray: 3 2; }
.new { fill: #d8f0e2; stroke: #1a7f4b; } .box { fill: #f6f8fa; stroke: #8c959f; }
.arrow { stroke: #57606a; stroke-width: 1.5; fill: none; marker-end: url(#head); }
</style>
<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">
<path d="M0 0 8 4 0 8z" fill="#57606a"/></marker></defs>"""


def drawing(width: int, height: int, title: str, parts: list[str]) -> str:
    """An SVG on a white card, which reads on dark pages too."""
    card = f'<rect width="{width}" height="{height}" rx="8" fill="#ffffff"/>'
    body = "\n".join([f"<title>{title}</title>", STYLE, card, *parts])
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">'
    return f"{head}\n{body}\n</svg>\n"


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "middle") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" class="{kind}">{words}</text>'


def box(x: float, y: float, width: float, height: float, kind: str) -> str:
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" class="{kind}"/>'


def arrow(*points: tuple[float, float]) -> str:
    return f'<polyline class="arrow" points="{" ".join(f"{x},{y}" for x, y in points)}"/>'


def grid(x: float, y: float, rows: int, columns: int, kind_of, size: int = 22) -> list[str]:
    return [
        box(x + c * size, y + r * size, size, size, kind_of(r, c))
        for r in range(rows)
        for c in range(columns)
    ]


def channel() -> str:
    """One channel in two layers, taken out, and what it carried folded into the reader."""
    gone = 2
    parts = [text(230, 28, "before: channel 2 is one row, one bias, one column")]
    parts += grid(30, 80, 5, 4, lambda r, _: "out" if r == gone else "cell")
    parts += [text(74, 70, "weight that makes it", "small"), text(74, 212, "one row a channel", "small")]
    parts += grid(150, 80, 5, 1, lambda r, _: "out" if r == gone else "cell")
    parts += [text(161, 70, "bias", "small"), arrow((185, 135), (228, 135)), text(206, 127, "ReLU", "small")]
    parts += grid(240, 80, 3, 5, lambda _, c: "out" if c == gone else "cell")
    parts += [text(295, 70, "weight that reads it", "small"), text(295, 168, "one column a channel", "small")]
    parts += grid(370, 80, 3, 1, lambda r, c: "cell")
    parts += [text(381, 70, "bias", "small")]
    parts += [arrow((415, 125), (465, 125)), text(640, 28, "after: narrower, and the reader is refitted")]
    parts += grid(490, 80, 4, 4, lambda r, c: "cell")
    parts += grid(605, 80, 4, 1, lambda r, c: "cell")
    parts += [arrow((635, 125), (672, 125)), text(653, 117, "ReLU", "small")]
    parts += grid(685, 80, 3, 4, lambda r, c: "new")
    parts += grid(790, 80, 3, 1, lambda r, c: "new")
    parts += [
        text(740, 168, "least squares: what is left", "keep"),
        text(740, 186, "stands in for what went", "keep"),
    ]
    return drawing(
        850, 235, "A channel is removed from the layer that makes it and the one that reads it", parts
    )


def proof() -> str:
    """What is compared with what: the masked reference, and the three uses of the samples."""
    parts = [text(425, 28, "two checks that every run makes of its own result")]
    for x, label, note in (
        (30, "the input", "untouched widths"),
        (320, "the input, masked", "0 where a channel goes, refitted alike"),
        (610, "the output", "channels cut out"),
    ):
        parts += [box(x, 55, 210, 62, "box"), text(x + 105, 82, label), text(x + 105, 102, note, "small")]
    parts += [
        text(565, 94, "=", "keep"),
        text(570, 140, "1. must agree but for rounding: nothing else was changed", "keep"),
        arrow((135, 120), (135, 165), (795, 165), (795, 122)),
        text(425, 185, "2. how far apart are the answers, on samples that nothing was fitted to?"),
    ]
    for x, width, kind, label in (
        (30, 430, "cell", "samples that are fitted"),
        (460, 200, "new", "that choose widths"),
        (660, 160, "out", "that judge"),
    ):
        parts += [box(x, 215, width, 34, kind), text(x + width / 2, 237, label)]
    parts += [
        text(
            425,
            272,
            "no sample that judges was fitted or chose; unless it is taught, the file is then fitted to all",
            "small",
        )
    ]
    return drawing(850, 290, "The output is compared with a masked reference and with the input", parts)


def main() -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name, picture in (("channel", channel()), ("proof", proof())):
        (IMAGES / f"{name}.svg").write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()

"""The table and the picture of the rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

Row = dict
HEAD = """# Beside other tools

One draw of calibration inputs, and the first 500 of the test images at the most: the standard error of an
accuracy is 1.3 points and more, so that gains over the network itself are chance (on all 2,000 test images
the defaults lose 1.15 points on resnet20_bn at 0.7, and on 250 of mobilenetv2 1.2, 4.4 and 17.6 at 0.9, 0.8
and 0.7: `accuracy.md`). No option was chosen by the test images. A cell is {what} (share of the
multiplications kept, ratio of processor time of one thread to the original; runs took turns on a machine that
others used, so the second digit of a ratio is uncertain). Asked for are {shares} of the multiplications;
`--latency` asks for these shares of the time. Nobody fine-tunes with labels.

- **onnxmerge**: the defaults, with the calibration inputs, which most of the others do not take; *no data*:
  the defaults with nothing given (on all test images: `accuracy.md`). The times of its rows (methods of
  others in it, too) hold what it saves by storing weights better, which is most of them in the two models
  of the corpus (`storage.md`: 0.3 of the time with all channels).
- **model folding** (Wang et al. 2025, Fold-AR), **lbyl** (Lee et al. 2025) and **neuron merging** (Kim et
  al. 2020) are onnxmerge's own implementations (`--compensation`), from weights alone, with l1 and the same
  share of every group: of all groups, residual streams included, where a channel that goes takes part of
  every block with it; or of those in no sum (`--scope chain`), as neuron merging was published for residual
  nets. The authors' own programs were not run.
- **onnxsim** and **torch-pruning** are the published packages{versions}, in the ways that they can be
  called for structured pruning, each at the least strength (in hundredths) that meets the share. They take
  the same calibration inputs where they take any. Torch-Pruning gets the model by onnx2torch and gives it
  back by torch.onnx.export; "not in sums" leaves the channels of residual sums alone, too; pooled
  ("global") l1 was left out.
- In the picture the line of others is the best of their ways at every point, chosen by the same test
  images: that flatters them. Where a tool declines, the cell is its reason.

{missing}`python tools/rivals run --shared FOLDER --out tools/results/rivals.jsonl`, then `python tools/rivals
table tools/results/rivals.jsonl`, which writes this page.

![Accuracy against the share of multiplications](rivals.svg)
"""
NETWORKS = ("resnet56_bn", "resnet20_bn", "mobilenetv2")
METHODS = ("model folding", "lbyl", "neuron merging")
RUNS = (
    "onnxmerge", "onnxmerge --latency", "onnxmerge, no data",
    *(f"{name}{where}" for name in METHODS for where in ("", ", not in sums")),
    "onnxsim", "torch-pruning",
)  # fmt: skip
TOOLS = ("onnxsim", "torch-pruning")
COLOURS = {
    "onnxmerge": "tab:blue", "onnxmerge, no data": "tab:cyan", "model folding": "tab:green",
    "lbyl": "tab:olive", "neuron merging": "tab:purple", "onnxsim": "tab:orange", "torch-pruning": "tab:red",
}  # fmt: skip
_BEST = ", its best way"


def write(path: Path) -> None:
    """Write ``.md`` and ``.svg`` beside the rows."""
    stored = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in stored if "asked" in row]
    shares = sorted({row["asked"] for row in rows}, reverse=True)
    versions = sorted({row["version"] for row in rows if row.get("version")})
    page = HEAD.format(
        what="top-1 in percent, or the change of the answers as `onnxmerge.compare` counts it",
        shares=", ".join(f"{share:g}" for share in shares),
        versions=f" ({', '.join(versions)})" if versions else "",
        missing=_missing(stored, len(shares)),
    )
    for network in dict.fromkeys(row["network"] for row in rows):
        page += "\n" + _section(network, [row for row in rows if row["network"] == network], shares)
    path.with_suffix(".md").write_text(page, encoding="utf-8")
    _picture([row for row in rows if "top1" in row], path.with_suffix(".svg"))


def _missing(rows: list[Row], shares: int) -> str:
    """What was not run, or not to its end: rows that a cut-off run left out are no result of anybody."""
    known = dict.fromkeys((*NETWORKS, *(row["network"] for row in rows)))
    gaps = []
    for network in known:
        runs = [row["run"] for row in rows if row["network"] == network]
        through = {row["run"] for row in rows if row["network"] == network and "complete" in row}
        through |= {run for run in RUNS if run not in TOOLS and runs.count(run) >= shares}
        left = [f"{run} in part" if run in runs else run for run in RUNS if run not in through]
        if left:
            gaps.append(f"{network} ({', '.join(left) if runs else 'everything'})")
    others = [] if {*known} - {*NETWORKS} else ["of the corpus, nothing"]
    if not gaps and not others:
        return ""
    text = f"Not run yet, for want of processor time: {'; '.join(gaps + others)}. "
    return text + "Of a tool's ways a network shows those that its run has reached.\n\n"


def _section(network: str, rows: list[Row], shares: list[float]) -> str:
    dense = next((row["dense"] for row in rows if "dense" in row), None)
    whole = "" if dense is None else f" The network itself: {dense:.1f}."
    lines = [f"## {network}", "", f"{rows[0]['about']}.{whole}", ""]
    lines += [f"| way | {' | '.join(f'{share:g}' for share in shares)} |", "|---|" + "---|" * len(shares)]
    for way in sorted({row["way"] for row in rows}, key=_order):
        cells = {row["asked"]: _cell(row) for row in rows if row["way"] == way}
        if len({*cells.values()}) == 1 and next(iter(cells.values())).startswith("none"):
            cells = {shares[0]: next(iter(cells.values())), **dict.fromkeys(shares[1:], "none")}
        lines.append(f"| {way} | {' | '.join(cells.get(share, '') for share in shares)} |")
    level = [*_level(rows)]
    return "\n".join([*lines, *([""] if level else []), *level]) + "\n"


def _level(rows: list[Row]) -> Iterator[str]:
    """Where another way answers as well as onnxmerge's defaults do, and what time the two take."""
    measured = [row for row in rows if "reason" not in row]
    others = [row for row in measured if not row["way"].startswith("onnxmerge")]
    for own in (row for row in measured if row["way"] == "onnxmerge"):
        for row in (row for row in others if row["asked"] == own["asked"] and _loss(row) <= _loss(own)):
            yield (
                f"- At {row['asked']:g} {row['way']} answers as well as onnxmerge; it takes "
                f"{row['time']:.2f} of the network's time, onnxmerge {own['time']:.2f}."
            )


def _loss(row: Row) -> float:
    return float(-row["top1"] if "top1" in row else row["change"])


def _cell(row: Row) -> str:
    if "reason" in row:
        return "none: " + row["reason"].replace("|", "/")
    value = f"{row['top1']:.1f}" if "top1" in row else f"{row['change']:.3f}"
    return f"{value} ({row['macs']:.2f}, {row['time']:.2f})"


def _order(way: str) -> tuple[int, str]:
    return (RUNS.index(way), "") if way in RUNS else (len(RUNS), way)


def _picture(rows: list[Row], path: Path) -> None:
    """A panel for every classifier, a line for every method."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "onnxmerge"
    networks = list(dict.fromkeys(row["network"] for row in rows))
    figure = Figure(figsize=(4.2 * max(len(networks), 1), 4.0), layout="constrained")
    for number, network in enumerate(networks, start=1):
        axes = figure.add_subplot(1, len(networks), number)
        own = [row for row in rows if row["network"] == network]
        axes.axhline(own[0]["dense"], color="tab:grey", linestyle=":", label="the network itself")
        for name, points in _lines(own).items():
            colour = COLOURS[name.removesuffix(_BEST)]
            axes.plot(*zip(*points, strict=True), "o-", color=colour, label=name, markersize=4)
        axes.set_title(network)
        axes.set_xlabel("share of the multiplications kept")
        axes.set_ylabel("top-1 on test images, %")
        axes.set_ylim(bottom=0)
    shown = {line.get_label(): line for axes in figure.axes for line in axes.lines}
    figure.legend(shown.values(), shown.keys(), fontsize="small", loc="outside lower center", ncols=4)
    figure.savefig(path, format="svg", metadata={"Date": None})


def _lines(rows: list[Row]) -> dict[str, list[tuple[float, float]]]:
    """(MACs, top-1) of every method; of others the best of their ways at every share."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for name in ("onnxmerge", "onnxmerge, no data"):
        lines[name] = [(row["macs"], row["top1"]) for row in rows if row["way"] == name]
    for name in (*METHODS, *TOOLS):
        best: dict[float, Row] = {}
        for row in (row for row in rows if row["run"].removesuffix(", not in sums") == name):
            if row["top1"] > best.get(row["asked"], {"top1": -1})["top1"]:
                best[row["asked"]] = row
        lines[name + _BEST] = [(row["macs"], row["top1"]) for row in best.values()]
    return {name: sorted(points) for name, points in lines.items() if points}

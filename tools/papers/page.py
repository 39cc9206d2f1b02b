"""The page with all tables, made of the cells that are filled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from networks import RECIPES
from pictures import draw
from running import cells
from tables import METHODS, SAMPLES, STEPS, TABLES, Row, Table

from onnxmerge.graph.output import atomic_write

Cells = Mapping[str, Mapping[str, Any]]

_HEAD = f"""# Neuron merging as published, and beyond

`python tools/papers train | run | page`. Accuracy in percent of test images: 2,000 of CIFAR-10 (a
standard error of about one point; differences between columns of a row, on the same images, have less)
and 10,000 of Fashion-MNIST. One net each, one draw of {SAMPLES} calibration images: no spread was
measured. All columns of a row keep the same number of channels in every group. `prune`, `merge`, `lbyl`
and `gaussian` take the channels of the row's criterion (l1 where none is named) and see weights alone;
`folding` sees weights alone, too, and makes clusters of channels whatever the criterion; `lstsq` chooses
channels again from its data: photographs in the package, under the input conventions that it finds
plausible, or {SAMPLES} training images without labels. `merge` has the published thresholds
(cosine 0.45 for dense layers, 0.1 for convolutions); `lbyl` and `folding` are onnxmerge's own
implementations of what others published, with the options that they have by default. "Recovered" is
`--recover {STEPS}` on the same images: at most {STEPS} steps, trials of rates included. Nothing was chosen
by the test images. *gain* is what merging adds to pruning here, in points, and *published* what it added in
the publications, where known: at full width, after full training, on other weights than ours (but for the
published LeNet). 6.50% and 11.65% are the shares of single classes of the 2,000 images: what a net gets
that gives one answer always. Rows of several criteria share the cells of the methods that choose channels
themselves, and each such row counts. Cells were filled in several states of the code (ResNet-20 with
{SAMPLES} images, measured again in the last one, came out the same). A dash is a cell that was not measured;
every table says which these are.
"""
RIVALS = ("lbyl", "folding")
_NAMES = {name: method.title for name, method in METHODS.items()}
_NAMES |= {"prune": "pruning", "merge": "merging", "recovered": f"lstsq, {SAMPLES} images, recovered"}


def write(rows: Path, out: Path) -> None:
    """Write the page, and a picture beside it for every table that has a cell."""
    filled: Cells = {cell["key"]: cell for cell in cells(rows)}
    parts, pictures = [_HEAD], []
    for table in TABLES:
        lines = list(_table(table, filled))
        if not lines:
            parts.append(f"## {table.title}\n\n{table.text} Not measured: the nets are not there.\n")
            continue
        picture = out.with_name(f"{out.stem}_{table.name}.svg")
        pictures.append((table, picture))
        told = "\n".join(_findings(table, filled))
        parts.append(
            f"## {table.title}\n\n{table.text}{_trained(table, filled)}\n\n"
            + "\n".join(lines)
            + f"\n\n{told}\n\n![{table.title}: accuracy against the share of MACs kept]({picture.name})\n"
        )
    with atomic_write(out) as part:
        part.write_text("\n".join(parts), encoding="utf-8")
    for table, picture in pictures:
        draw(table, filled, picture)


def value(filled: Cells, row: Row, name: str) -> float | None:
    """Percent of the test images right; None where the cell is not filled."""
    cell = filled.get(row.key(name))
    return None if cell is None else cell["right"]


def _shown(table: Table, filled: Cells) -> list[str]:
    """The methods that have a cell in a table."""
    return [name for name in METHODS if any(row.key(name) in filled for row in table.rows)]


def _table(table: Table, filled: Cells) -> Iterator[str]:
    names = _shown(table, filled)
    if not names:
        return
    head = ["net", "removed", "MACs kept", "whole", *(METHODS[n].title for n in names), "gain", "published"]
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    for row in table.rows:
        if row.key("prune") not in filled:
            continue
        found = [filled[row.key(n)] for n in names if row.key(n) in filled]
        values = {n: value(filled, row, n) for n in names}
        best = max(v for v in values.values() if v is not None)
        texts = [_cell(values[n], best, filled.get(row.key(n))) for n in names]
        gain = _difference(values.get("merge"), values.get("prune"))
        published = "" if row.gain is None else f"{row.gain:+.1f}"
        start = [row.label, f"{row.removed:.0%}", f"{found[0]['macs']:.1%}", f"{found[0]['dense']:.2f}"]
        yield f"| {' | '.join([*start, *texts, gain, published])} |"


def _cell(right: float | None, best: float, cell: Mapping[str, Any] | None) -> str:
    if right is None or cell is None:
        return "-"
    text = f"**{right:.2f}**" if right == best else f"{right:.2f}"
    return f"{text} ({cell['used']})" if _fallen(cell) else text


def _fallen(cell: Mapping[str, Any]) -> bool:
    """Whether the default was another method: without BatchNorm, where no input is seen to be an image."""
    return cell.get("method") == "photographs" and cell["used"] != "lstsq"


def _difference(one: float | None, other: float | None) -> str:
    return "" if one is None or other is None else f"{one - other:+.1f}"


def _findings(table: Table, filled: Cells) -> Iterator[str]:
    """What the rows come to: where merging does not beat pruning, where ours beats neither it nor rivals."""
    shown = _shown(table, filled)
    own = [name for name in shown if METHODS[name].own]
    pairs = [("merge", "prune"), *((name, "merge") for name in own)]
    pairs += [(name, other) for other in RIVALS for name in ("photographs", "images") if name in own]
    pairs += [("recovered", "images")]
    for name, other in pairs:
        yield from _compared(table, filled, name, other)
    merged = [filled[row.key("merge")] for row in table.rows if row.key("merge") in filled]
    found = [cell["pairs"] for cell in merged if cell["pairs"][0]]
    if found:
        yield (
            f"- {found[0][0]} of the {found[0][1]} groups are merged as pairs: the filter of a channel is "
            "the outer product of its convolution's filter and of the depthwise kernel behind it."
        )
    missing = list(_missing(table, filled))
    if missing:
        yield f"- Rows that were not measured: {'; '.join(missing)}."


def _missing(table: Table, filled: Cells) -> Iterator[str]:
    """Of every method how many rows of a net have no cell; a net counts with all its criteria."""
    shown = _shown(table, filled)
    for name in (n for n in METHODS if n in shown or not METHODS[n].norms):
        nets: dict[str, list[bool]] = {}
        for row in table.rows:
            label = row.label.removesuffix(f", {row.criterion}")
            nets.setdefault(label, []).append(row.key(name) not in filled)
        told = [
            net if len(empty) == 1 else f"{net} {sum(empty)} of {len(empty)}"
            for net, empty in nets.items()
            if any(empty)
        ]
        if told:
            yield f"{METHODS[name].title} ({', '.join(told) if name in shown else 'all rows'})"


def _compared(table: Table, filled: Cells, name: str, other: str) -> Iterator[str]:
    both, itself = [], 0
    for row in table.rows:
        one, two = value(filled, row, name), value(filled, row, other)
        if one is None or two is None:
            continue
        if _fallen(filled[row.key(name)]) and filled[row.key(name)]["used"] == other:
            itself += 1
        else:
            both.append((row, one - two))
    if not both and not itself:
        return
    missed = [f"{row.label} {row.removed:.0%} ({gain:+.2f})" for row, gain in both if gain <= 0]
    said = _NAMES[name]
    text = f"- {said[0].upper()}{said[1:]} is above {_NAMES[other]} in {len(both) - len(missed)} of "
    text += f"{len(both)} rows" + (f"; not in: {', '.join(missed)}." if missed else ".")
    if itself:
        text += f" In {itself} more it is {_NAMES[other]}: no BatchNorm, and no input seen to be an image."
    fallen = [filled[row.key(name)]["used"] for row, _ in both if _fallen(filled[row.key(name)])]
    if fallen:
        default = _NAMES[fallen[0]]
        text += f" In {len(fallen)} of them the default without data is {default}: no BatchNorm, no image."
    yield text


def _trained(table: Table, filled: Cells) -> str:
    """How the nets of a table were trained."""
    told, missing = [], []
    for net in dict.fromkeys(row.net for row in table.rows if row.net in RECIPES):
        pruned = [
            filled[row.key("prune")] for row in table.rows if row.net == net and row.key("prune") in filled
        ]
        if not pruned:
            missing.append(net)
        known = next((cell["trained"] for cell in pruned if "trained" in cell), None)
        if known is not None:
            start = f" from the weights of {known['start']}" if known.get("start") else ""
            told.append(f"{net} at width {known['width']:g}, {known['epochs']} epochs{start}")
    text = f" Trained on all training images: {'; '.join(told)}." if told else ""
    return text + (f" Not measured yet: {', '.join(missing)}." if missing else "")

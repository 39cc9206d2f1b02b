"""Analyse the model files of a folder one by one: reach, groups, reasons, pruned against masked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import support

from onnxmerge.channels.explain import explain
from onnxmerge.errors import OnnxMergeError

# Of the range of each output; deep files with random inputs lose more than minimal graphs.
TOLERANCE = 1e-3
CONVOLUTIONS = ("Conv", "ConvTranspose", "FusedConv")


@dataclass(frozen=True)
class Entry:
    """A file, and what its index says of it."""

    path: Path
    shapes: Mapping[str, list[int]]
    runs: bool = True
    nondeterministic: bool = False


def entries(folder: Path) -> list[Entry]:
    """The model files of a folder, by its index where there is one."""
    index = folder / "index.json"
    if not index.exists():
        return [Entry(path, {}) for path in sorted(folder.glob("*.onnx"))]
    return [
        Entry(folder / e["file"], e.get("run_input_shapes") or {}, e["runs"], bool(e["nondeterministic"]))
        for e in json.loads(index.read_text(encoding="utf-8"))
    ]


def feed_of(entry: Entry, seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs between 0 and 1, as most files take them; integers in 0..2."""
    rng = np.random.default_rng(seed)
    session = support.RUNTIME.session(entry.path)
    feed = {}
    for value in session.inputs:
        shape = entry.shapes.get(value.name) or [d if isinstance(d, int) else 1 for d in value.shape or ()]
        kind = np.dtype(value.dtype).kind
        values = rng.random(shape) if kind == "f" else rng.integers(0, 2 if kind == "b" else 3, shape)
        feed[value.name] = values.astype(value.dtype)
    return feed


def examine(entry: Entry, seeds: range = range(2)) -> dict[str, object]:
    """One row: reach and the largest difference, or the error that refuses the file."""
    try:
        model = support.analysed(entry.path, feed_of(entry))
    except OnnxMergeError as error:
        return {"file": entry.path.name, "refused": f"{type(error).__name__}: {error}"}
    differences = [support.difference(model, model.selection(seed), checked=False) for seed in seeds]
    explanation = explain(model.channels, model.cost)
    return {
        "file": entry.path.name,
        "convolutions": sum(node.op in CONVOLUTIONS for node in model.channels.view),
        "groups": len(explanation.groups),
        "reach": round(explanation.reach, 4),
        "difference": float(f"{max(differences):.1e}"),
        "deterministic": not entry.nondeterministic,
        "frozen": {f.reason: f.count for f in explanation.frozen},
    }


def line(row: Mapping[str, object]) -> str:
    """A row for people."""
    name = str(row["file"]).split("__")[-1][:44]
    if "refused" in row:
        return f"{name:44} {row['refused']}"[:160]
    note = "" if row["deterministic"] else " (random outputs)"
    figures = f"groups {row['groups']:3} reach {row['reach']:.2f} difference {row['difference']:.0e}"
    return f"{name:44} {figures}{note}"

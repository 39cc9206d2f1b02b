"""tools/papers: a tiny net is trained, made smaller, and becomes a table and a picture."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from PIL import Image

pytest.importorskip("torch", reason="training belongs to the test extra")
pytest.importorskip("matplotlib", reason="pictures belong to the test extra")

TOOLS = Path(__file__).parents[1] / "tools"


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder as the tool reads it: images of two classes, one lighter than the other."""
    folder = tmp_path / "shared" / "data" / "cifar10"
    folder.mkdir(parents=True)
    rng, labels = np.random.default_rng(0), {}
    for split, count in (("train", 128), ("test", 50)):
        labels[split] = rng.integers(0, 2, count)
        images = rng.integers(0, 128, (count, 32, 32, 3)) + 100 * labels[split][:, None, None, None]
        tiles = Image.fromarray(images.astype(np.uint8).reshape(-1, 32, 3))
        tiles.save(folder / f"{split}_00.webp", lossless=True)
    np.savez(folder / "labels.npz", **labels)
    return tmp_path / "shared"


def test_from_training_to_the_page(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for folder in (TOOLS, TOOLS / "papers"):
        monkeypatch.syspath_prepend(str(folder))
    import page
    import running
    import tables
    import training

    table = next(t for t in tables.TABLES if t.name == "mobilenet")
    row = next(row for row in table.rows if row.removed == 0.5)
    for module in (page, running):
        monkeypatch.setattr(module, "TABLES", (replace(table, rows=(row,)),))
    nets, rows, out = tmp_path / "nets", tmp_path / "rows.jsonl", tmp_path / "page.md"

    net = (nets, shared, ["mobilenetv1"], "cpu")
    assert list(training.train_all(*net, width=0.125, epochs=1)) == ["mobilenetv1"]
    model = onnx.load(nets / "mobilenetv1.onnx")
    assert sum(node.op_type == "BatchNormalization" for node in model.graph.node) == 27
    methods = ["prune", "merge", "images"]
    running.run_all(rows, nets, shared, [], [], methods, [0.1], "cpu", 1)
    assert not rows.exists(), "no row removes so little"
    running.run_all(rows, nets, shared, [], [], methods, [], "cpu", 1)
    filled = {cell["method"]: cell for cell in running.cells(rows)}
    assert list(filled) == methods
    assert len({cell["macs"] for cell in filled.values()}) == 1, "all methods keep the same widths"
    assert 0 < filled["prune"]["macs"] < 0.35
    assert filled["merge"]["pairs"] == [13, 14], "every depthwise convolution is merged with what it reads"
    assert [filled[name]["used"] for name in methods] == ["none", "merge", "lstsq"]

    before = rows.read_text()
    assert not list(training.train_all(*net, width=0.125, epochs=1))
    running.run_all(rows, nets, shared, [], [], methods, [], "cpu", 1)
    assert rows.read_text() == before, "what is there is kept"

    page.write(rows, out)
    lines = [line for line in out.read_text().splitlines() if line.startswith("| MobileNetV1 |")]
    assert len(lines) == 1
    assert f"{filled['merge']['right']:.2f}" in lines[0]
    assert "mobilenetv1 at width 0.125, 1 epochs" in " ".join(out.read_text().split())
    picture = ElementTree.parse(tmp_path / "page_mobilenet.svg").getroot()
    shown = "".join(picture.itertext())
    assert all(tables.METHODS[name].title in shown for name in methods)


def test_findings_name_the_rows_that_miss(monkeypatch: pytest.MonkeyPatch):
    for folder in (TOOLS, TOOLS / "papers"):
        monkeypatch.syspath_prepend(str(folder))
    import page
    import tables

    table = next(t for t in tables.TABLES if t.name == "mobilenet")
    table = replace(table, rows=table.rows[-3:])
    right = {"prune": (50.0, 40.0, 30.0), "merge": (60.0, 39.0, 31.0), "images": (70.0, 60.0, 31.0)}
    filled = {
        row.key(name): {"right": values[n], "pairs": [13, 14]}
        for name, values in right.items()
        for n, row in enumerate(table.rows)
    }
    told = list(page._findings(table, filled))
    assert told[0] == "- Merging is above pruning in 2 of 3 rows; not in: MobileNetV1 50% (-1.00)."
    assert told[1].endswith("is above merging in 2 of 3 rows; not in: MobileNetV1 60% (+0.00).")
    assert told[-1].startswith("- Rows that were not measured: lbyl (all rows); folding (all rows); ")
    filled |= {row.key("lbyl"): {"right": 65.0} for row in table.rows[:2]}
    told = list(page._findings(table, filled))
    rival = next(line for line in told if "above lbyl" in line)
    assert rival.startswith("- Lstsq, 512 images is above lbyl in 1 of 2 rows; not in: MobileNetV1 50% (-5")
    assert "not measured: lbyl (MobileNetV1 1 of 3); folding (all rows); " in told[-1]


def test_a_net_is_trained_on_from_its_file_and_takes_its_cells_with_it(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for folder in (TOOLS, TOOLS / "papers"):
        monkeypatch.syspath_prepend(str(folder))
    import running
    import training

    starts = []
    fit = training.fit

    def watched(net, *rest, seed):
        starts.append((net.state_dict()["0.weight"].clone(), seed))
        fit(net, *rest, seed=seed)

    monkeypatch.setattr(training, "fit", watched)
    net = (tmp_path, shared, ["mobilenetv1"], "cpu")
    assert not list(training.train_all(*net, further=True)), "what is not there cannot go on"
    assert list(training.train_all(*net, width=0.0625, epochs=1))
    first = onnx.load(tmp_path / "mobilenetv1.onnx").graph.initializer
    assert list(training.train_all(*net, epochs=1, further=True))
    stored = next(onnx.numpy_helper.to_array(t) for t in first if t.name == "0.weight")
    assert np.array_equal(starts[1][0], stored) and not np.array_equal(starts[0][0], stored)
    assert [seed for _, seed in starts] == [0, 1], "other batches in every cycle"
    facts = json.loads((tmp_path / "mobilenetv1.json").read_text())
    assert (facts["epochs"], facts["width"]) == ("1 + 1", 0.0625)

    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"key": net, "net": net}) + "\n" for net in ("a", "b", "a")))
    running.forget(rows, "a")
    assert [cell["net"] for cell in running.cells(rows)] == ["b"]

"""The comparison with other tools: strengths that meet a share, and the page that is made of rows."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import onnx
import pytest
import support

import onnxmerge

TOOLS = Path(__file__).parents[1] / "tools" / "rivals"


def module(name: str):
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_multiplications_are_counted_as_onnxmerge_counts_them():
    path = support.MODELS / "digits.onnx"
    assert module("worker").macs(onnx.load(path)) == onnxmerge.inspect(path, threads=1).input.macs


@pytest.mark.parametrize(("share", "strength"), [(0.9, 0.1), (0.5, 0.5), (0.055, 0.95), (0.04, None)])
def test_the_least_strength_that_meets_a_share_is_taken(share, strength):
    tried = []

    def counted(tried_strength: float) -> float:
        tried.append(tried_strength)
        return 100 * (1 - tried_strength)

    assert module("worker")._nearest(share, 100.0, counted) == strength
    assert len(tried) < 10


def test_a_way_that_fails_gives_its_reason_and_the_others_go_on(tmp_path, monkeypatch):
    worker = module("worker")
    monkeypatch.setattr(worker.sys, "argv", ["worker.py", "t", "in", "calib", str(tmp_path), "0.5"])
    monkeypatch.setattr(worker, "version", lambda tool: "1")
    proto = onnx.load(support.MODELS / "digits.onnx")

    def ways(model, calibration):
        yield "bad", lambda s: 1 / 0, lambda s: 1 - s
        yield "good", lambda s: model, lambda s: 1 - s
        yield "weak", lambda s: model, lambda s: 1 - s / 10

    bad, good, weak = worker.rows("t", ways, proto, {}, [0.5])
    assert bad["reason"] == "ZeroDivisionError: division by zero"
    assert good["strength"] == 0.5 and (tmp_path / good["file"]).exists()
    assert "0.91 of the MACs" in weak["reason"]


def test_the_page_has_a_row_for_every_way_and_says_why_some_are_missing(tmp_path):
    shared = {"network": "net", "about": "10 images", "dense": 90.0}
    made = [
        {"run": "onnxmerge", "way": "onnxmerge", "asked": 0.9, "macs": 0.9, "time": 0.8, "top1": 89.5},
        {"run": "onnxsim", "way": "onnxsim: a", "asked": 0.9, "macs": 0.88, "time": 1.2, "top1": 12.0},
        {"run": "onnxsim", "way": "onnxsim: b", "asked": 0.9, "macs": 0.89, "time": 1.1, "top1": 40.0},
        {"run": "torch-pruning", "way": "torch-pruning: any", "asked": 0.9, "reason": "Error: no | way"},
    ]
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(shared | row) + "\n" for row in made))
    render = module("render")
    render.write(rows)
    page = rows.with_suffix(".md").read_text()
    assert "| onnxmerge | 89.5 (0.90, 0.80) |" in page and "The network itself: 90.0." in page
    assert "| torch-pruning: any | none: Error: no / way |" in page
    assert render._lines([shared | row for row in made if "top1" in row])["onnxsim, its best way"] == [
        (0.89, 40.0)
    ]
    assert "<svg" in rows.with_suffix(".svg").read_text()

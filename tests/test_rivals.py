"""The comparison with other tools: strengths that meet a share, and the page that is made of rows."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
import support

import onnxmerge

TOOLS = Path(__file__).parents[1] / "tools" / "rivals"


def module(name: str):
    spec = importlib.util.spec_from_file_location(f"rivals_{name}", TOOLS / f"{name}.py")
    made = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
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

    bad, good, weak = worker.rows("t", ways, proto, {}, [0.5], set())
    assert bad["reason"] == "ZeroDivisionError: division by zero"
    assert good["strength"] == 0.5 and (tmp_path / good["file"]).exists()
    assert "0.91 of the MACs" in weak["reason"]
    left = worker.rows("t", ways, proto, {}, [0.5, 0.7], {("good", 0.5), ("bad", 0.5), ("bad", 0.7)})
    assert [(row["way"], row["share"]) for row in left] == [("good", 0.7), ("weak", 0.5), ("weak", 0.7)]


def test_a_run_that_was_cut_off_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    main, made = module("__main__"), []
    monkeypatch.setattr(main, "subject", lambda shared, name: SimpleNamespace(about="10 images"))
    monkeypatch.setattr(main, "Judge", lambda subject, runtime: SimpleNamespace(subject=subject))
    monkeypatch.setattr(main, "environment", lambda folder: folder)

    def own(judge, way, done):
        for share in (s for s in main.SHARES if (way, s) not in done):
            made.append((way, share))
            yield {"asked": share}

    def rival(judge, tool, done, python):
        for share in (s for s in main.SHARES if (f"{tool}: a", s) not in done):
            made.append((tool, share))
            yield {"way": f"{tool}: a", "asked": share}
        yield {"complete": True}

    monkeypatch.setattr(main, "own_rows", own)
    monkeypatch.setattr(main, "rival_rows", rival)
    rows, places = tmp_path / "rows.jsonl", dict.fromkeys(("shared", "environment"), tmp_path)
    arguments = SimpleNamespace(out=rows, only=["net"], ways=["lbyl", "onnxsim"], **places)
    main.run(arguments)
    whole = rows.read_text().splitlines()
    assert len(made) == 6 and len(whole) == 7
    main.run(arguments)
    assert len(made) == 6, "what is there is not made again"
    # Cut off within the first run, and within the second one.
    rows.write_text("\n".join([*whole[:2], whole[3]]) + "\n")
    main.run(arguments)
    assert made[6:] == [("lbyl", 0.7), ("onnxsim", 0.8), ("onnxsim", 0.7)]
    assert sorted(rows.read_text().splitlines()) == sorted(whole)


def test_the_page_has_a_row_for_every_way_and_says_why_some_are_missing(tmp_path):
    shared = {"network": "net", "about": "10 images", "dense": 90.0}
    made = [
        {"run": "onnxmerge", "way": "onnxmerge", "asked": 0.9, "macs": 0.9, "time": 0.8, "top1": 89.5},
        {"run": "onnxsim", "way": "onnxsim: a", "asked": 0.9, "macs": 0.88, "time": 1.2, "top1": 12.0},
        {"run": "onnxsim", "way": "onnxsim: b", "asked": 0.9, "macs": 0.89, "time": 1.1, "top1": 40.0},
        {"run": "torch-pruning", "way": "torch-pruning: any", "asked": 0.9, "reason": "Error: no | way"},
    ]
    rows = tmp_path / "rows.jsonl"
    through = {"network": "net", "run": "onnxsim", "complete": True}
    rows.write_text("".join(json.dumps(row) + "\n" for row in (*(shared | row for row in made), through)))
    render = module("render")
    render.write(rows)
    page = rows.with_suffix(".md").read_text()
    assert "| onnxmerge | 89.5 (0.90, 0.80) |" in page and "The network itself: 90.0." in page
    assert "| torch-pruning: any | none: Error: no / way |" in page
    assert "net (onnxmerge --latency, onnxmerge, no data, model folding, model folding, not in sums, " in page
    assert "neuron merging, not in sums, torch-pruning in part)" in page
    assert "of the corpus, nothing" not in page
    assert render._lines([shared | row for row in made if "top1" in row])["onnxsim, its best way"] == [
        (0.89, 40.0)
    ]
    assert "<svg" in rows.with_suffix(".svg").read_text()

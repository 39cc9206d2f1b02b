"""What nobody foresaw: errors become a sentence, and groups that a wrong rule misjudges stay whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import onnxmerge
from onnxmerge import pipeline
from onnxmerge.candidates import Widths, score
from onnxmerge.cli import main
from onnxmerge.config import Config
from onnxmerge.errors import BudgetError
from onnxmerge.operators import table
from onnxmerge.operators.relations import Tie
from onnxmerge.pipeline import analysed
from onnxmerge.progress import Clock

DIGITS = Path(__file__).parents[1] / "models" / "digits.onnx"


@pytest.mark.parametrize("verbose", [(), ("-v",)], ids=["", "-v"])
@pytest.mark.parametrize("verb", [(), ("inspect",), ("sweep",)], ids=["optimize", "inspect", "sweep"])
@pytest.mark.parametrize(
    "failure, words",
    [
        (KeyError("nobody\n thought of it"), "KeyError: 'nobody"),
        (RecursionError("maximum recursion depth exceeded"), "RecursionError: maximum recursion depth"),
        (AssertionError(), "AssertionError ("),
    ],
    ids=["KeyError", "RecursionError", "AssertionError"],
)
def test_what_nobody_foresaw_is_one_sentence(failure, words, verb, verbose, tmp_path, capsys, monkeypatch):
    def fail(*_, **__):
        raise failure

    monkeypatch.setattr("onnxmerge.pipeline.explain", fail)
    out = tmp_path / "out.onnx"
    paths = (DIGITS,) if verb else (DIGITS, out)
    assert main([*verb, *map(str, paths), *verbose]) == 9
    message = capsys.readouterr().err
    assert f"onnxmerge: error: a defect of onnxmerge: {words}" in message
    assert "test_defects.py:" in message and "please report it" in message
    assert ("Traceback" in message) == bool(verbose)
    assert message.splitlines()[-1].startswith("onnxmerge: error:")
    assert verbose or "\n" not in message.strip()
    assert not out.exists()


@pytest.fixture
def misjudged(monkeypatch) -> onnx.ModelProto:
    """The digits with an LpNormalization, of which a wrong rule says that it treats every position alike."""

    def norm_as_pointwise(node):
        yield from (Tie(a, b) for a, b in zip(node.x[0].axes, node.y[0].axes, strict=True))

    proto = onnx.load(DIGITS)
    node = next(node for node in proto.graph.node if node.name == "/Relu_5")
    node.op_type = "LpNormalization"
    node.attribute.append(helper.make_attribute("axis", 1))
    wrong = replace(table.OPERATORS["", "LpNormalization"], rule=norm_as_pointwise)
    monkeypatch.setitem(table.OPERATORS, ("", "LpNormalization"), wrong)
    return proto


def pruned(proto: onnx.ModelProto, **options) -> onnxmerge.Result:
    images = np.load(DIGITS.with_name("digits_calib.npz"))["image"][:8]
    plain = {"compensation": "none", "criterion": "l1", "allocation": "uniform", "threads": 1}
    return onnxmerge.optimize(proto, calibration=images, **plain, **options)


@pytest.mark.parametrize("kind", ["ratio", "params"])
def test_a_group_that_a_wrong_rule_misjudges_stays_whole_and_the_others_meet_the_budget(misjudged, kind):
    result = pruned(misjudged, align=1, **{kind: 0.5})
    after = {group["name"]: group["after"] for group in result.report["groups"]}
    assert after["/fc1/Gemm"] == 64
    assert kind != "ratio" or after["/stem/Conv"] == 16
    assert any("'/fc1/Gemm' was left whole" in warning for warning in result.report["warnings"])
    before, now = result.report["input"], result.report["output"]
    assert kind == "ratio" or 0.4 < now[kind] / before[kind] <= 0.5


def test_a_budget_that_is_missed_without_the_misjudged_groups_is_refused(misjudged):
    config = Config(compensation="none", criterion="l1", samples=2, align=1)
    study = analysed(misjudged, None, None, config, Clock())
    scores = score(study, study.samples.fit)
    with_it, without = (Widths(s, scores, "params").smallest for s in (study, study.without(["/fc1/Gemm"])))
    assert with_it < 0.8 * without
    with pytest.raises(BudgetError, match=rf"{without:.4g} remain.*the groups '/fc1/Gemm' stay whole"):
        pruned(misjudged, params=(with_it + without) / 2, align=1)


def test_a_difference_that_no_group_explains_is_said(monkeypatch):
    """Removal alone equals its mask; what was made of it does not."""
    real = pipeline.equals_mask
    calls = []

    def first_fails(*arguments):
        calls.append(real(*arguments))
        return calls[-1] and len(calls) > 1

    monkeypatch.setattr(pipeline, "equals_mask", first_fails)
    report = pruned(onnx.load(DIGITS), ratio=0.5).report
    assert all(calls) and len(calls) > 1
    assert any("no group alone is to blame" in warning for warning in report.warnings)

"""Recovery as a part of a run: what is taught, what is written, what is said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import support

pytest.importorskip("torch")

import onnxmerge
from onnxmerge import recovery
from onnxmerge.cli import main
from onnxmerge.config import Config, Recovery
from onnxmerge.errors import ModelError, UsageError
from onnxmerge.pipeline import analysed
from onnxmerge.progress import Clock

MODELS = Path(__file__).parents[1] / "models"
DIGITS = MODELS / "digits.onnx"
CALIB = MODELS / "digits_calib.npz"
IMAGES = np.load(CALIB)["image"]
# So small a net is left so wrong by plain removal that a few steps help.
RUN = {"calibration": IMAGES[:256], "macs": 0.4, "compensation": "none", "criterion": "l1", "threads": 1}


def written(result: onnxmerge.Result) -> bytes:
    return result.model.SerializeToString(deterministic=True)


@pytest.fixture(scope="module")
def taught():
    return onnxmerge.optimize(DIGITS, recover=60, **RUN)


def test_what_is_taught_is_better_on_samples_that_nothing_was_learned_from(taught):
    plain = onnxmerge.optimize(DIGITS, **RUN).report
    report = taught.report
    assert report.recovery.taken and report.recovery.error_after < report.recovery.error_before
    assert report.recovery.steps <= 60 and report.recovery.stopped == "steps"
    assert report.parity.change < plain.parity.change
    # Taught on, deciding, judging: no sample twice.
    recovered = report.recovery
    judged = report.parity.samples
    assert report.parity.basis == "held out"
    assert recovered.taught_on + recovered.held_out + judged == 256
    assert [g.after for g in report.groups] == [g["after"] for g in plain["groups"]]


def test_steps_give_the_same_bytes_and_a_plan_gives_them_again(taught):
    assert written(onnxmerge.optimize(DIGITS, recover=60, **RUN)) == written(taught)
    plan = onnxmerge.Plan.from_json(taught.plan.to_json())
    again = onnxmerge.optimize(DIGITS, plan=plan, calibration=IMAGES[:256], threads=1)
    assert written(again) == written(taught)


@pytest.fixture
def in_vain(monkeypatch):
    """Teaching that never helps."""
    real = recovery.trainer().recover

    def recover(teacher, student, *rest, **options):
        return replace(real(teacher, student, *rest, **options), taken=False, model=student)

    monkeypatch.setattr(recovery.trainer(), "recover", recover)


@pytest.mark.parametrize("budget", [{"macs": 0.5}, {"tolerance": 0.05}])
def test_what_is_not_better_is_what_would_be_written_without(in_vain, budget):
    net, options = support.narrow_digits(), {"calibration": IMAGES[:160], "threads": 1, **budget}
    found = onnxmerge.optimize(net, recover=5, **options)
    assert written(found) == written(onnxmerge.optimize(net, **options))
    assert not found.report.recovery.taken and found.plan.method["recover"] is None
    again = onnxmerge.optimize(net, calibration=IMAGES[:160], plan=found.plan, threads=1)
    assert written(again) == written(found)


def test_too_few_inputs_to_hold_any_out_are_said(monkeypatch):
    options = {"calibration": IMAGES[:1], "evaluation": IMAGES[1:9], "macs": 0.5, "threads": 1}
    report = onnxmerge.optimize(DIGITS, recover=5, compensation="none", criterion="l1", **options).report
    assert report.recovery.stopped == "too few inputs" and not report.recovery.taken
    assert any("too few inputs" in warning for warning in report.warnings)


def test_the_samples_that_judge_are_not_learned_from(monkeypatch):
    seen = {}
    real = recovery.trainer().recover

    def watched(teacher, student, fit, held_out, *rest, **options):
        seen["parts"] = [{row.tobytes() for f in d.feeds() for row in f["image"]} for d in (fit, held_out)]
        return real(teacher, student, fit, held_out, *rest, **options)

    monkeypatch.setattr(recovery.trainer(), "recover", watched)
    config = Config(macs=0.5, recover=2, threads=1)
    study = analysed(support.narrow_digits(), IMAGES[:128], None, config, Clock())
    judged = {row.tobytes() for f in study.holdout().judged.feeds() for row in f["image"]}
    onnxmerge.optimize(support.narrow_digits(), calibration=IMAGES[:128], config=config)
    assert not judged & set.union(*seen["parts"]) and not set.intersection(*seen["parts"])


def test_the_command_line_says_what_came_of_it(tmp_path, capsys):
    arguments = ["--macs", "0.4", "--criterion", "l1", "--compensation", "none", "--calib", str(CALIB)]
    report = tmp_path / "report.json"
    out = tmp_path / "out.onnx"
    more = ["--samples", "96", "--recover", "20", "--threads", "1", "--report", str(report)]
    assert main([str(DIGITS), str(out), *arguments, *more]) == 0
    assert "recovery: " in capsys.readouterr().out
    content = json.loads(report.read_text())
    assert content["recovery"]["steps"] == 20 and content["config"]["recover"]["steps"] == 20


@pytest.mark.parametrize("value", ["2x", "-3", 0, 1.5, "0"])
def test_a_bound_that_is_none_is_refused(value):
    with pytest.raises(UsageError, match="recover="):
        Config(recover=value)


def test_what_recover_may_be():
    assert Config(recover="90s").recovery == Recovery(seconds=90.0)
    assert Config(recover="2m").recovery == Recovery(seconds=120.0)
    assert Config(recover=300).recovery == Recovery(steps=300)
    assert Config(recover=True).recovery == Recovery() and Config(recover=False).recovery is None


def test_without_torch_the_run_says_so_before_it_begins(monkeypatch):
    def missing(name):
        raise ImportError("No module named 'torch'")

    monkeypatch.setattr(recovery, "import_module", missing)
    with pytest.raises(UsageError, match=r"recover= needs torch.*onnxmerge\[train\]"):
        onnxmerge.optimize(DIGITS, macs=0.5, recover=True)


def test_a_sweep_shows_both_curves():
    options = {key: value for key, value in RUN.items() if key != "macs"}
    report = onnxmerge.sweep(DIGITS, steps=(0.6, 0.4), recover=20, **options)
    assert all(point.recovered_change is not None for point in report.points)
    assert report.points[-1].recovered_change <= report.points[-1].change


def test_weights_of_other_types_are_refused_before_the_work():
    text = "g (double[N,8] x) => (double[N,4] y) <double[8,4] w> { y = MatMul(x, w) }"
    seen = []
    with pytest.raises(ModelError, match="no weights of float32, and weights of other types are not trained"):
        onnxmerge.optimize(
            support.model(text), macs=0.5, recover=5, threads=1, progress=lambda stage, *_: seen.append(stage)
        )
    assert "statistics" not in seen

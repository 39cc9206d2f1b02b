"""What a run says: what it was measured on, that nothing of it was fitted, and that nothing flatters."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import support
from onnx import helper, numpy_helper
from PIL import Image

import onnxmerge
from onnxmerge.candidates import Builder
from onnxmerge.cli import main
from onnxmerge.config import Config
from onnxmerge.data.generic.photographs import generic_images
from onnxmerge.decisions import made
from onnxmerge.errors import ToleranceExceeded
from onnxmerge.gates import MOST_BLIND_CHANGE
from onnxmerge.pipeline import analysed, chosen
from onnxmerge.progress import Clock
from onnxmerge.report.headline import percent
from onnxmerge.study import Study

MODELS = Path(__file__).parents[1] / "models"
DIGITS = MODELS / "digits.onnx"
CALIB = MODELS / "digits_calib.npz"
CAFFE_NET = MODELS / "cifar_caffe.onnx"
FAST = {"compensation": "none", "criterion": "l1"}
SCALED = onnxmerge.ImageOptions(scale=1 / 255)


def digits() -> np.ndarray:
    return np.load(CALIB)["image"]


@pytest.fixture(scope="module")
def fitted():
    return onnxmerge.optimize(support.narrow_digits(), macs=0.5, calibration=CALIB)


@pytest.mark.parametrize("count, held", [(512, 52), (128, 32), (64, 16), (20, 5)])
def test_what_the_change_is_measured_on_was_held_out(count, held):
    images = digits()[:count]
    study = analysed(support.narrow_digits(), images, None, Config(macs=0.5, samples=count), Clock())
    holdout = made(study, chosen(study)).choice.holdout
    assert (holdout.basis, len(holdout.judged), len(holdout.fit)) == ("held out", held, count - held)
    rows = [
        {row.tobytes() for feed in part.feeds() for row in feed["image"]}
        for part in (holdout.fit, holdout.judged)
    ]
    assert not rows[0] & rows[1]
    assert rows[0] | rows[1] == {row.tobytes() for row in images}


def test_the_model_that_is_written_is_fitted_to_all_of_the_data():
    study = analysed(support.narrow_digits(), digits(), None, Config(macs=0.5), Clock())
    decision = made(study, chosen(study))
    widths = [
        {name: len(keep) for name, keep in c.selection.keep.items()}
        for c in (decision.tried, decision.candidate)
    ]
    assert widths[0] == widths[1]
    everything = Builder.of(study, study.samples.fit).of_selection(decision.candidate.selection)
    assert decision.candidate.model.SerializeToString(
        deterministic=True
    ) == everything.model.SerializeToString(deterministic=True)
    assert decision.tried.model != decision.candidate.model


def test_a_report_begins_with_three_sentences(fitted):
    content = json.loads(fitted.report.to_json())
    assert list(content)[:3] == ["headline", "asked", "reached"]
    assert list(content["headline"]) == ["size", "answers", "time"]
    size, answers, time = content["headline"].values()
    assert content["asked"] == {"kind": "macs", "value": 0.5}
    assert f"{content['reached']['macs']:.1%} of the multiplications" in size and "at most 50.0%" in size
    assert f"{content['parity']['top1_agreement']:.1%}" in answers
    assert "52 samples" in answers and "held out" in answers and "90% confidence" in answers
    assert f"{content['latency']['ratio']:.2f} of the input's time" in time
    assert all(f"{side:.2f}" in time for side in content["latency"]["spread"])
    assert not content["parity"]["stand_in"]


def test_data_of_its_own_to_measure_on():
    test = MODELS / "digits_test.npz"
    images = np.load(test)["image"]
    model = support.narrow_digits()
    report = onnxmerge.optimize(model, macs=0.5, calibration=CALIB, evaluation=images).report
    assert report["parity"]["basis"] == "evaluation" and report["parity"]["samples"] == len(images)
    assert "given to measure on" in report["headline"]["answers"]


def test_a_method_that_fits_nothing_holds_nothing_out():
    report = onnxmerge.optimize(DIGITS, macs=0.5, calibration=CALIB, **FAST).report
    assert report["parity"]["basis"] == "calibration" and report["parity"]["samples"] == len(digits())


def test_a_sample_that_is_fitted_and_measured_on_flatters_and_says_so():
    report = onnxmerge.optimize(DIGITS, macs=0.5, calibration=digits()[:1]).report
    assert report["parity"]["basis"] == "fit" and "flatters" in report["headline"]["answers"]


def test_photographs_stand_in_and_the_worst_convention_is_said():
    report = onnxmerge.optimize(DIGITS, macs=0.7, samples=64, threads=1).report
    parity, calibration = report["parity"], report["calibration"]
    assert parity["basis"] == "photographs" and parity["stand_in"]
    assert len(parity["conventions"]) == len(calibration["conventions"]) > 1
    assert parity["change"] == max(entry["change"] for entry in parity["conventions"])
    assert sum(entry["probability"] for entry in calibration["conventions"]) == pytest.approx(1)
    answers = report["headline"]["answers"]
    assert "not of your data" in answers and "the worst of" in answers and parity["convention"] in answers
    # A classifier of grey images makes nothing of photographs.
    assert answers.startswith("How the answers to real inputs change could not be checked.")
    assert any("mean=" in warning and "0..1" in warning for warning in report["warnings"])


def test_a_stated_convention_is_the_only_one():
    report = onnxmerge.optimize(DIGITS, macs=0.7, samples=64, images=SCALED, threads=1).report
    assert len(report["parity"]["conventions"]) == 1
    assert "under the convention" in report["headline"]["answers"]


def test_nothing_removed_needs_no_proof():
    report = onnxmerge.optimize(DIGITS, ratio=0.0, calibration=CALIB, **FAST).report
    assert "the output is the input" in report["headline"]["size"]
    assert report["headline"]["answers"] == "The answers are the input's own."


def table() -> onnx.ModelProto:
    """A small net of numbers from a table, without an image or BatchNorm."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "v", "c"], ["y"]),
    ]
    shapes = {"w": (9, 32), "b": (32,), "v": (32, 3), "c": (3,)}
    tensors = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    value = helper.make_tensor_value_info
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes, "table", [value("x", kind, ["n", 9])], [value("y", kind, ["n", 3])], tensors
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_without_data_a_large_change_is_refused_unless_it_is_allowed():
    with pytest.raises(ToleranceExceeded, match=r"made-up inputs.*calibration=.*tolerance="):
        onnxmerge.optimize(table(), macs=0.3)
    allowed = onnxmerge.optimize(table(), macs=0.3, tolerance=2.0).report
    assert allowed["parity"]["change"] > MOST_BLIND_CHANGE
    assert "could not be checked" in allowed["headline"]["answers"]
    assert allowed["parity"]["basis"] == "made up" and allowed["parity"]["stand_in"]


def test_photographs_that_mean_nothing_to_the_model_are_no_proof():
    options = {"macs": 0.2, "samples": 64, "threads": 1}
    with pytest.raises(ToleranceExceeded, match=r"photographs.*makes nothing.*calibration=.*tolerance="):
        onnxmerge.optimize(DIGITS, **options)
    report = onnxmerge.optimize(DIGITS, images=SCALED, **options).report
    assert report["parity"]["basis"] == "photographs"


def test_a_plan_with_a_tolerance_is_held_to_it():
    plan = onnxmerge.optimize(DIGITS, macs=0.3, calibration=CALIB, **FAST).plan
    with pytest.raises(ToleranceExceeded):
        onnxmerge.optimize(DIGITS, plan=plan, calibration=CALIB, tolerance=0.01)


def test_real_data_may_change_as_much_as_the_budget_takes():
    data = np.random.default_rng(1).standard_normal((64, 9)).astype(np.float32)
    report = onnxmerge.optimize(table(), macs=0.3, calibration=data).report
    assert report["parity"]["basis"] == "held out"


def test_the_last_lines_of_the_terminal_are_the_headline(tmp_path, capsys):
    report = tmp_path / "r.json"
    onnx.save(support.narrow_digits(), tmp_path / "i.onnx")
    arguments = [str(tmp_path / "i.onnx"), str(tmp_path / "o.onnx"), "--macs", "0.5", "--calib", str(CALIB)]
    assert main([*arguments, "--report", str(report)]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[-3:] == list(json.loads(report.read_text())["headline"].values())


def test_samples_that_come_twice_are_not_called_held_out():
    images, options = digits()[:64], {"macs": 0.8, "threads": 1, "compensation": "bias"}
    model = support.narrow_digits()
    twice = onnxmerge.optimize(model, calibration=np.concatenate([images] * 8), **options)
    said = twice.report.headline.answers
    assert "of which 52 have the same values as samples that were fitted, which flatters" in said
    assert twice.report.parity.repeated == 52
    given = onnxmerge.optimize(model, calibration=images, evaluation=digits()[60:100].copy(), **options)
    assert "given to measure on, of which 4 have the same values" in given.report.headline.answers
    # Where nothing is fitted, a sample may judge that was there before.
    options |= FAST
    weights = onnxmerge.optimize(model, calibration=images, evaluation=digits()[60:100].copy(), **options)
    assert weights.report.headline.answers.endswith("given to measure on.")


def test_options_of_data_that_nothing_reads_are_named():
    options = FAST | {"images": SCALED, "shapes": {"image": [2, 1, 8, 8]}, "tolerance": 5}
    report = onnxmerge.optimize(
        support.narrow_digits(), ratio=0.2, calibration=CALIB, threads=1, samples=64, **options
    ).report
    for name in ("scale", "shapes"):
        assert any(warning.startswith(f"{name}= had no effect") for warning in report.warnings)
    assert "tolerance= is a share: 5 allows a change of 500%; 5% is 0.05" in report.warnings


def test_a_sweep_marks_what_stands_in():
    model, options = support.narrow_digits(), {"steps": (0.8,), "threads": 1}
    stand_in = onnxmerge.sweep(model, samples=64, images=SCALED, **options)
    real = onnxmerge.sweep(model, calibration=CALIB, **options)
    assert stand_in["stand_in"] and "not of your data" in stand_in["source"]
    assert not real["stand_in"] and "held out" in real["source"]


def test_what_a_search_chooses_by_is_not_what_it_is_judged_on():
    result = onnxmerge.optimize(support.narrow_digits(), calibration=CALIB, tolerance=0.05)
    search, parity = result.report["search"], result.report["parity"]
    assert search["change"] <= 0.05 and search["samples"] == 115
    assert parity["basis"] == "held out" and parity["samples"] == 52
    study = analysed(support.narrow_digits(), digits(), None, Config(tolerance=0.05), Clock())
    holdout = study.holdout().for_search(seed=0)
    parts = (holdout.fit, holdout.choosing, holdout.judged)
    rows = [{r.tobytes() for f in part.feeds() for r in f["image"]} for part in parts]
    assert [len(part) for part in rows] == [345, 115, 52] and len(set.union(*rows)) == 512


def photographs(folder: Path, count: int) -> Path:
    """A folder of images, and nothing that says which numbers a model expects."""
    folder.mkdir()
    for number, pixels in enumerate(generic_images(count, (32, 32), 3, seed=7)):
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:03}.png")
    return folder


def test_images_whose_numbers_nobody_stated_are_taken_every_plausible_way(tmp_path):
    folder = photographs(tmp_path / "images", 96)
    report = onnxmerge.optimize(CAFFE_NET, macs=0.7, calibration=folder, threads=1).report
    parity = report["parity"]
    assert parity["basis"] == "held out" and not parity["stand_in"] and parity["samples"] == 24
    assert len(parity["conventions"]) == len(report["calibration"]["conventions"]) > 1
    assert parity["change"] == max(entry["change"] for entry in parity["conventions"])
    assert "0..255 less the mean colour, BGR" in {entry["convention"] for entry in parity["conventions"]}
    assert "plausible input conventions" in report["headline"]["answers"]
    assert any("order=" in warning for warning in report["warnings"])


def test_images_of_the_user_s_own_are_no_photographs_that_stand_in(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number, pixels in enumerate(digits()[:40, 0]):
        Image.fromarray((255 * pixels).astype(np.uint8)).save(folder / f"{number:03}.png")
    report = onnxmerge.optimize(DIGITS, macs=0.7, calibration=folder, threads=1).report
    assert report["parity"]["basis"] == "held out" and len(report["parity"]["conventions"]) > 1
    said = [report["headline"]["answers"], *report["warnings"]]
    assert not any("could not be checked" in words for words in said)


def test_images_whose_numbers_are_stated_are_taken_so(tmp_path):
    folder = photographs(tmp_path / "images", 40)
    options = onnxmerge.ImageOptions(mean=(103.939, 116.779, 123.68), order="bgr")
    report = onnxmerge.optimize(CAFFE_NET, macs=0.7, calibration=folder, images=options, threads=1).report
    assert report["calibration"]["conventions"] == [] and report["parity"]["conventions"] == []
    assert report["parity"]["samples"] == 10
    other = photographs(tmp_path / "others", 40)
    measured = onnxmerge.optimize(
        CAFFE_NET, macs=0.7, calibration=folder, evaluation=other, images=options, threads=1
    ).report["parity"]
    assert (measured["basis"], measured["samples"]) == ("evaluation", 40)


def test_images_to_measure_on_follow_the_same_conventions(tmp_path):
    folder = photographs(tmp_path / "images", 40)
    other = photographs(tmp_path / "others", 40)
    report = onnxmerge.optimize(CAFFE_NET, macs=0.7, calibration=folder, evaluation=other, threads=1).report
    parity = report["parity"]
    assert parity["basis"] == "evaluation" and parity["samples"] == 40
    assert len(parity["conventions"]) == len(report["calibration"]["conventions"]) > 1


@pytest.mark.parametrize(
    ("share", "words"),
    [(0.0, "0.0%"), (0.0004, "less than 0.1%"), (0.01, "1.0%"), (0.9996, "more than 99.9%"), (1.0, "100.0%")],
)
def test_a_share_is_never_rounded_to_nothing_or_to_all(share, words):
    assert percent(share) == words


@pytest.mark.parametrize("calibration", [CALIB, digits()[:64]], ids=["path", "array"])
def test_samples_to_measure_on_that_were_fitted_are_called_that(calibration):
    report = onnxmerge.optimize(
        DIGITS, macs=0.6, calibration=calibration, evaluation=calibration, samples=64, threads=1
    ).report
    assert report.parity.basis == "fit" and "which flatters" in report.headline.answers


def test_one_image_is_not_held_out_from_itself(tmp_path):
    folder = photographs(tmp_path / "images", 1)
    report = onnxmerge.optimize(CAFFE_NET, macs=0.7, calibration=folder, threads=1, **FAST).report
    assert report.parity.basis != "held out"


def test_a_search_that_missed_its_tolerance_on_other_samples_says_so(monkeypatch):
    real = Study.parity
    judged = []

    def worse(self, session, data):
        found = real(self, session, data)
        judged.append(data)
        # What judges comes last, and is not what chose.
        return replace(found, change=0.5) if len(data) == 52 else found

    monkeypatch.setattr(Study, "parity", worse)
    options = {"calibration": CALIB, "tolerance": 0.05, "threads": 1}
    report = onnxmerge.optimize(support.narrow_digits(), **options, **FAST).report
    assert not any("chose nothing" in warning for warning in report.warnings)
    report = onnxmerge.optimize(support.narrow_digits(), **options).report
    assert any("on samples that chose nothing the change is 0.5" in warning for warning in report.warnings)

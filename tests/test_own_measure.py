"""The user's own score: what is held within it, how it is reported, and what can be wrong with it."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from PIL import Image

import onnxmerge
from onnxmerge.budgets.tolerance import MOST_MEASURED
from onnxmerge.cli import main
from onnxmerge.errors import EvaluationError, ToleranceExceeded, UsageError
from onnxmerge.validation.own_measure import REPEATS

ROOT = Path(__file__).parents[1]
DIGITS, CALIB = ROOT / "models" / "digits.onnx", ROOT / "models" / "digits_calib.npz"
TEST = np.load(ROOT / "models" / "digits_test.npz")
EXAMPLES = ROOT / "tools" / "examples"
RNG = np.random.default_rng(0)
ROWS = RNG.standard_normal((64, 5, 6)).astype(np.float32)


def fidelity(session) -> float:
    """Of a model that should give back what it gets: 100 where it does."""
    answer = session.run(None, {"x": ROWS})[0]
    return 100 * (1 - float(np.linalg.norm(answer - ROWS) / np.linalg.norm(ROWS)))


def optimize(**options):
    return onnxmerge.optimize(through_channels(6), **({"calibration": ROWS, "threads": 1} | options))


def example(name: str, folder: Path, **lines: object) -> Path:
    """An example as a user makes it his own: a copy with some of its lines set."""
    text = (EXAMPLES / f"{name}.py").read_text()
    assert len(text.splitlines()) < 80
    for key, value in lines.items():
        text, count = re.subn(rf"^{key} = .*$", f"{key} = {value!r}", text, flags=re.MULTILINE)
        assert count == 1, key
    path = folder / f"my_{name}.py"
    path.write_text(text)
    return path


def module(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def through_channels(width: int) -> onnx.ModelProto:
    """y = x, through four times as many channels as there are numbers: half of them can go."""
    eye = np.eye(width, dtype=np.float32)
    w, v = np.concatenate([eye, -eye] * 2, axis=1), np.concatenate([eye, -eye] * 2) / 2
    value, kind = helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["y"]),
    ]
    ends = [value("x", kind, ["n", "t", width])], [value("y", kind, ["n", "t", width])]
    weights = [numpy_helper.from_array(w, "w"), numpy_helper.from_array(v.astype(np.float32), "v")]
    graph = helper.make_graph(nodes, "through", *ends, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


# --- what is held ----------------------------------------------------------------------------------


def test_a_search_keeps_the_score_and_says_what_chose():
    shown: list[str] = []
    result = optimize(evaluate=fidelity, max_drop=40, progress=lambda stage, *_: shown.append(stage))
    report, score, answers = result.report, result.report.score, result.report.headline.answers
    session = onnxruntime.InferenceSession(result.model.SerializeToString())
    assert score.after == pytest.approx(fidelity(session)) and score.before == pytest.approx(100)
    assert score.drop == pytest.approx(score.before - score.after) and 0 < score.drop <= 40
    assert report["asked"] == {"kind": "max_drop", "value": 40} and score.chose and score.spread == 0
    assert report.reached.macs < 0.5 and 1 < score.looked_at <= MOST_MEASURED + 1
    assert "keep the drop of fidelity within 40:" in report.headline.size
    assert f"The score of fidelity goes from {score.before:.6g} to {score.after:.6g}, a drop of" in answers
    assert f"{score.looked_at} candidates were looked at on the same data, so this flatters" in answers
    notes = [stage for stage in shown if "evaluation" in stage]
    assert notes[0] == "evaluate (first evaluation)" and len(notes) >= score.looked_at
    assert any(re.search(r"evaluation \d+ of at most 1[0-9], \d+ s left", note) for note in notes)


def test_a_tighter_bound_keeps_more():
    kept = [optimize(evaluate=fidelity, max_drop=d).report.reached.macs for d in (0.01, 40.0)]
    assert kept[0] == 0.5 > kept[1]


def test_with_a_budget_an_excess_is_an_error_and_a_score_is_only_shown():
    with pytest.raises(
        ToleranceExceeded, match=r"fidelity goes from .* a drop of .* above max_drop= of 0\.5"
    ):
        optimize(macs=0.3, evaluate=fidelity, max_drop=0.5)
    report = optimize(macs=0.3, evaluate=fidelity).report
    assert report.score.drop > 0.5 and not report.score.chose and report.score.looked_at == 1
    assert "flatters" not in report.headline.answers and report.asked.kind == "macs"
    plan = optimize(macs=0.3).plan
    with pytest.raises(ToleranceExceeded):
        optimize(plan=plan, evaluate=fidelity, max_drop=0.5)


def test_the_score_takes_the_place_of_made_up_inputs():
    """Without data a large change is refused, but not where a measure of the user bounds the result."""
    proto = through_channels(6)
    evaluate = lambda session: -float(len(session.get_outputs()))  # noqa: E731
    with pytest.raises(ToleranceExceeded):
        onnxmerge.optimize(proto, macs=0.2, threads=1)
    assert (
        onnxmerge.optimize(proto, macs=0.2, threads=1, evaluate=evaluate, max_drop=0.1).report.score.drop == 0
    )


def test_an_input_that_stays_keeps_its_score():
    report = optimize(ratio=0.0, evaluate=fidelity).report
    assert report.unchanged and report.score.after == report.score.before and report.score.looked_at == 0


def test_noise_is_no_drop():
    draw = np.random.default_rng(0)
    noisy = lambda session: fidelity(session) + draw.normal(0, 20)  # noqa: E731
    report = optimize(macs=0.8, evaluate=noisy).report
    score = report.score
    assert score.spread > 0 and any(
        "smaller differences between models mean nothing" in w for w in report.warnings
    )
    draws = iter([90.0, 80.0, 86.0])
    answers = optimize(macs=0.8, evaluate=lambda _: next(draws)).report.headline.answers
    assert "goes from 85 to 86, no more than two evaluations of the input differ by (10)" in answers
    draws = iter([90.0, 80.0, 86.0])
    warned = optimize(macs=0.8, evaluate=lambda _: next(draws), max_drop=1.0).report.warnings
    assert any("more than max_drop= of 1: what was held within it is chance" in w for w in warned)


# --- what is wrong ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("evaluate", "words"),
    [
        (
            lambda _: 1 / 0,
            r"raised ZeroDivisionError: division by zero \(test_own_measure.py:\d+\), on the input",
        ),
        (lambda _: sys.exit(3), r"raised SystemExit: 3 \("),
        (lambda _: None, "returned None, where one number is needed"),
        (lambda _: "0.5", "returned a str"),
        (lambda _: (1.0, 2.0), "returned a tuple"),
        (lambda _: True, "returned a bool"),
        (lambda _: float("nan"), "gave nan for the input model"),
    ],
)
def test_a_measure_that_fails_is_told_before_any_work(evaluate, words):
    shown: list[str] = []
    with pytest.raises(EvaluationError, match=words):
        optimize(macs=0.5, evaluate=evaluate, progress=lambda stage, *_: shown.append(stage))
    assert not {"data", "analyse"} & set(shown)


def test_a_measure_that_fails_on_a_smaller_model_says_so():
    calls = []

    def late(session):
        calls.append(1)
        return 1.0 if len(calls) <= REPEATS else [][0]

    with pytest.raises(EvaluationError, match=r"IndexError.*on a smaller model, after it ran on the input"):
        optimize(macs=0.5, evaluate=late)


def test_numbers_of_numpy_and_nan_of_a_smaller_model():
    values = iter([np.float32(2), np.array(2), np.float64("nan")])
    with pytest.raises(ToleranceExceeded, match="to nan, a drop of inf"):
        optimize(macs=0.5, evaluate=lambda _: next(values), max_drop=1.0)
    values = iter([2.0, 2.0, float("nan")])
    said = optimize(macs=0.5, evaluate=lambda _: next(values)).report.headline.answers
    assert "goes from 2 to nan, which is no score." in said


def test_options_that_contradict_one_another():
    with pytest.raises(
        UsageError, match="max_drop= is about the score of your own measure: give it with evaluate="
    ):
        optimize(max_drop=1.0)
    with pytest.raises(UsageError, match="lower_is_better="):
        optimize(macs=0.5, lower_is_better=True)
    with pytest.raises(UsageError, match="max_drop= or tolerance=: give one"):
        optimize(max_drop=1.0, tolerance=0.01, evaluate=fidelity)
    with pytest.raises(UsageError, match="evaluate= is a function"):
        optimize(macs=0.5, evaluate=7)
    with pytest.raises(UsageError, match="leave max_drop= out"):
        onnxmerge.sweep(DIGITS, calibration=CALIB, evaluate=fidelity, max_drop=1.0)


# --- the command line ------------------------------------------------------------------------------


FAST = ("--calib", CALIB, "--threads", 1, "--samples", 64, "--criterion", "l1", "--compensation", "none")


def run(*arguments) -> int:
    return main([str(a) for a in (*arguments, *FAST)])


def test_top1_of_a_labelled_folder(tmp_path, capsys):
    for i, (image, label) in enumerate(zip(TEST["image"][:120], TEST["label"], strict=False)):
        folder = tmp_path / "labelled" / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image[0] * 255).round().astype(np.uint8)).save(folder / f"{i:03d}.png")
    path = example("top1", tmp_path, FOLDER=str(tmp_path / "labelled"), BATCH=50).read_text()
    path = re.sub(r"^FOLDER = (.*)$", r"FOLDER = Path(\1)", path, flags=re.MULTILINE)
    path = re.sub(
        r"^MEAN, STD, SCALE = .*$", "MEAN, STD, SCALE = (0.0,), (1.0,), 1 / 255", path, flags=re.MULTILINE
    )
    path = re.sub(r"^HEIGHT, WIDTH = .*$", "HEIGHT, WIDTH = 8, 8", path, flags=re.MULTILINE)
    (tmp_path / "mine.py").write_text(path)
    out, report = tmp_path / "out.onnx", tmp_path / "report.json"
    arguments = (DIGITS, out, "--eval", f"{tmp_path / 'mine.py'}:top1", "--report", report)
    assert run(*arguments, "--max-drop", 60, "--macs", 0.8) == 0
    content, printed = json.loads(report.read_text()), capsys.readouterr().out
    assert content["score"]["before"] > 95 and content["score"]["drop"] <= 60 and out.exists()
    assert printed.count("top1") > 1 and "The score of top1 goes from" in printed
    assert content["config"]["max_drop"] == 60 and "evaluate" in content["seconds"]
    out.unlink()
    assert run(*arguments, "--macs", 0.1, "--max-drop", 2, "-q") == 6
    assert "above --max-drop of 2" in capsys.readouterr().err and not out.exists()


def test_functions_that_cannot_be_had(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    out = tmp_path / "out.onnx"
    (tmp_path / "beside.py").write_text("SCORE = 3.0\n")
    (tmp_path / "measure_a.py").write_text(
        "import beside\n\ndef score(session):\n    print('loud')\n    return beside.SCORE\n"
    )
    (tmp_path / "broken.py").write_text("x = 1 / 0\n")
    (tmp_path / "failing.py").write_text("def score(session):\n    raise ValueError('no labels')\n")
    for text, code, words in [
        ("measure_a", 2, "name a function as module:function"),
        ("measure_b:score", 2, "there is no module measure_b here or on the path"),
        ("measure_b.py:score", 2, "there is no file measure_b.py"),
        ("measure_a.py:scores", 2, "measure_a.py has no function scores; it has score"),
        (
            "broken.py:score",
            2,
            "importing broken.py failed: ZeroDivisionError: division by zero (broken.py:1)",
        ),
        ("failing:score", 12, "--eval score raised ValueError: no labels (failing.py:2), on the input model"),
    ]:
        assert run(DIGITS, out, "--macs", 0.5, "-q", "--eval", text) == code
        assert words in capsys.readouterr().err
    assert run(DIGITS, out, "--macs", 0.5, "--eval", "measure_a:score", "-q") == 0
    printed = capsys.readouterr()
    assert printed.out == "" and "loud" in printed.err


def test_a_sweep_lists_and_draws_the_score(tmp_path, capsys):
    (tmp_path / "sizes.py").write_text("def outputs(session):\n    return len(session.get_outputs()) + 0.5\n")
    report, plot = tmp_path / "r.json", tmp_path / "curve.svg"
    arguments = ["sweep", DIGITS, "--steps", "0.8,0.5", "--eval", f"{tmp_path / 'sizes.py'}:outputs"]
    assert run(*arguments, "--report", report, "--plot", plot) == 0
    content = json.loads(report.read_text())
    assert content["measure"] == "outputs" and content["score"] == 1.5
    assert [point["score"] for point in content["points"]] == [1.5, 1.5]
    printed = capsys.readouterr().out
    assert "the input's score by outputs is 1.5" in printed and plot.stat().st_size > 1000


# --- the other examples ----------------------------------------------------------------------------


def test_the_character_error_rate_of_a_sequence_model(tmp_path):
    letters = "abcde"
    for i in range(12):
        text = "".join(RNG.choice(list(letters), RNG.integers(3, 9)))
        steps = [s for letter in text for s in (letters.index(letter) + 1, letters.index(letter) + 1, 0)]
        scores = np.eye(6, dtype=np.float32)[steps] * 3 + RNG.normal(0, 0.3, (len(steps), 6))
        np.save(tmp_path / f"{i}.npy", scores.astype(np.float32))
        (tmp_path / f"{i}.txt").write_text(text + "\n")
    mine = module(example("error_rate", tmp_path, ALPHABET=letters))
    mine.FOLDER = tmp_path
    assert [mine.distance(a, b) for a, b in [("kitten", "sitting"), ("", "abc"), ("ab", "ab")]] == [3, 3, 0]
    data = [np.load(path)[None] for path in sorted(tmp_path.glob("*.npy"))]  # of different lengths
    options = {"calibration": data, "evaluate": mine.error_rate, "lower_is_better": True, "threads": 1}
    report = onnxmerge.optimize(through_channels(6), max_drop=0.02, **options).report
    assert report.score.before == 0 and 0 <= report.score.drop == report.score.after <= 0.02
    assert report.reached.macs <= 0.5
    cut = onnxmerge.optimize(through_channels(6), ratio=0.9, compensation="none", **options).report
    assert cut.score.drop == cut.score.after > 0.2


def test_the_mean_average_precision_of_a_detector(tmp_path):
    corners = RNG.uniform(0, 60, (10, 3, 2)).astype(np.float32)
    rows = np.concatenate([RNG.uniform(0.5, 1, (10, 3, 1)), RNG.integers(0, 2, (10, 3, 1)), corners,
                           corners + RNG.uniform(10, 30, (10, 3, 2))], axis=2).astype(np.float32)  # fmt: skip
    images = np.repeat(np.arange(10), 3)[:, None]
    np.savez(
        tmp_path / "truth.npz",
        inputs=rows,
        boxes=np.concatenate([images, rows.reshape(-1, 6)[:, 1:]], axis=1),
    )
    mine = module(example("mean_ap", tmp_path, TRUTH=str(tmp_path / "truth.npz")))
    box = np.array([0.0, 0, 2, 2])
    np.testing.assert_allclose(
        mine.overlap(box, np.array([[0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 6, 6]])), [1, 1 / 3, 0]
    )
    truth = np.array([[0, 1, 0, 0, 2, 2], [1, 1, 0, 0, 2, 2]], float)
    found = np.array([[0, 0.9, 1, 0, 0, 2, 2], [0, 0.8, 1, 0, 0, 2, 2], [1, 0.7, 1, 0, 0, 2, 2]], float)
    assert mine.average_precision(found, truth, 1) == pytest.approx((1 + 2 / 3) / 2)
    proto = through_channels(6)
    report = onnxmerge.optimize(
        proto, calibration=rows, evaluate=mine.mean_ap, max_drop=0.02, threads=1
    ).report
    assert report.score.before == 1.0 and report.score.after >= 0.98 and report.reached.macs <= 0.5

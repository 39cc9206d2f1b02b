"""Budgets in measured time: the loop around the table, with made-up clocks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import onnxmerge
from onnxmerge import pipeline
from onnxmerge.errors import BudgetError, UsageError
from onnxmerge.plan import Selection
from onnxmerge.search import ATTEMPTS, CLOSE, within_latency
from onnxmerge.targets import step_of

MODELS = Path(__file__).parents[1] / "models"


class FakeRecipe:
    """Selections are the goals that they were made for."""

    def smallest(self, kind: str) -> float:
        assert kind == "latency"
        return 0.2

    def select(self, kind: str, value: float) -> Selection:
        assert kind == "latency" and value >= 0.2
        return Selection({"goal": np.empty((round(value * 1e6), 0))})

    def cut(self, selection: Selection) -> float:
        return len(selection.keep["goal"]) / 1e6


def searched(measure, goal=0.6) -> tuple[float, int]:
    """What was chosen, and how many widths were tried."""
    seen = []

    def measured(candidate: float) -> float:
        seen.append(candidate)
        return measure(candidate)

    found = within_latency(FakeRecipe(), measured, goal, lambda *_: None)
    return FakeRecipe().cut(found), len(set(seen))


def test_a_prediction_that_holds_is_taken_at_once():
    assert searched(lambda goal: goal) == (0.6, 1)


@pytest.mark.parametrize(
    "measure",
    [lambda aim: 1.25 * aim, lambda aim: 0.6 * aim, lambda aim: 0.3 + 0.4 * aim, lambda aim: aim**2],
)
def test_a_prediction_that_is_off_is_corrected(measure):
    aim, attempts = searched(measure)
    assert 0.6 - CLOSE <= measure(aim) <= 0.6
    assert attempts <= ATTEMPTS


def test_a_staircase_ends_on_the_step_below_the_goal():
    aim, _ = searched(lambda aim: 0.4 if aim < 0.5 else 0.8)
    assert aim < 0.5


def test_a_little_above_the_goal_is_better_than_far_below():
    aim, _ = searched(lambda aim: 0.3 if aim < 0.5 else 0.615)
    assert aim >= 0.5
    aim, _ = searched(lambda aim: 0.58 if aim < 0.5 else 0.615)
    assert aim < 0.5


@pytest.mark.parametrize("seed", range(20))
def test_a_clock_that_is_off_by_some_percent_leads_near_the_goal(seed):
    noise = np.random.default_rng(seed)
    aim, _ = searched(lambda aim: (0.2 + 0.6 * aim) * noise.normal(1.0, 0.04))
    assert 0.5 < 0.2 + 0.6 * aim < 0.66


def test_a_goal_out_of_reach_is_an_error_that_says_what_was_measured():
    with pytest.raises(BudgetError, match=r"0\.9 of it was measured"):
        searched(lambda aim: max(0.9, aim))


def test_aligned_widths_are_multiples(tmp_path, monkeypatch):
    calibration = np.load(MODELS / "digits_calib.npz")["image"][:64]
    result = onnxmerge.optimize(MODELS / "digits.onnx", macs=0.6, align=8, calibration=calibration)
    assert result.report["output"]["macs"] <= 0.6 * result.report["input"]["macs"]
    assert all(group["after"] % 8 == 0 for group in result.report["groups"])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    faster = onnxmerge.optimize(
        MODELS / "digits.onnx", latency=0.9, target="cuda", calibration=calibration, threads=1
    )
    assert all(group["after"] % 4 == 0 for group in faster.report["groups"])
    assert faster.report["output"]["macs"] < faster.report["input"]["macs"]
    assert 0 < faster.report["latency"]["predicted_ratio"] < 1


def test_steps_of_targets():
    assert step_of("cuda") == 8 and step_of("tensorrt") == 32 and step_of("cpu") in (4, 8, 16)
    with pytest.raises(UsageError, match="target"):
        onnxmerge.optimize(MODELS / "digits.onnx", macs=0.5, target="abacus")


def slow_output(monkeypatch, ratios) -> None:
    """Let the comparisons of speed find these ratios, one after the other."""
    found = iter(ratios)
    real = pipeline.compare_latency
    monkeypatch.setattr(
        pipeline, "compare_latency", lambda *args, **how: replace(real(*args, **how), ratio=next(found))
    )


CHEAP = {"calibration": np.zeros((4, 1, 8, 8), np.float32), "criterion": "l1", "compensation": "none"}


@pytest.mark.parametrize(
    ("ratios", "given_up"), [([1.2, 1.1, 1.05, 1.03, 1.0], True), ([1.2, 1.1, 1.0], False), ([1.02], False)]
)
def test_a_slower_output_is_given_up_only_if_it_is_slower_again_and_again(
    monkeypatch, tmp_path, ratios, given_up
):
    slow_output(monkeypatch, ratios)
    result = onnxmerge.optimize(MODELS / "digits.onnx", macs=0.6, **CHEAP)
    assert result.report["unchanged"] is given_up
    result.save(tmp_path / "out.onnx")
    same = (tmp_path / "out.onnx").read_bytes() == (MODELS / "digits.onnx").read_bytes()
    assert same is given_up
    assert given_up == any("the input model is the output" in text for text in result.report["warnings"])
    if given_up:
        assert result.report["parity"]["max_abs_error"] == 0
        assert result.report["output"]["macs"] == result.report["input"]["macs"]


@pytest.mark.parametrize("budget", [{"ratio": 0.5}, {"params": 0.5}, {"macs": 0.6, "align": 1}])
def test_who_asks_for_a_smaller_model_gets_it_whatever_its_time(monkeypatch, budget):
    slow_output(monkeypatch, [1.5])
    result = onnxmerge.optimize(MODELS / "digits.onnx", **budget, **CHEAP)
    assert not result.report["unchanged"]
    assert any("1.50 of the input's time" in text for text in result.report["warnings"])


@pytest.mark.parametrize("align", ["auto", 8, 16, 64])
def test_the_search_stays_within_what_the_alignment_reaches(align):
    """All is allowed to change, so the search goes down to the smallest widths and no budget error comes."""
    result = onnxmerge.optimize(MODELS / "digits.onnx", tolerance=1.0, align=align, samples=8, **CHEAP)
    report = result.report
    assert report["output"]["macs"] <= report["input"]["macs"]
    assert all(g["after"] % (align if align != "auto" else 1) == 0 for g in report["groups"] if align != 64)

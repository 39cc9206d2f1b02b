"""Budgets in measured time: the loop around the table, with made-up clocks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import onnxmerge
from onnxmerge import pipeline
from onnxmerge.deadline import ATTEMPTS, CLOSE, within_latency
from onnxmerge.errors import BudgetError, UsageError
from onnxmerge.plan import Selection
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


CHEAP = {"calibration": np.zeros((4, 1, 8, 8), np.float32), "criterion": "l1", "compensation": "none"}


def written(folder: Path, **options) -> tuple[bytes, onnxmerge.Report]:
    """The bytes of the file that a run writes, and its report."""
    result = onnxmerge.optimize(MODELS / "digits.onnx", **options)
    result.save(folder / "out.onnx")
    return (folder / "out.onnx").read_bytes(), result.report


@pytest.mark.parametrize(
    "options",
    [
        {"macs": 0.6, **CHEAP},
        {"params": 0.5, **CHEAP},
        {"ratio": 0.5, **CHEAP},
        {"macs": 0.6, "align": 1, **CHEAP},
        {"macs": 0.6, "samples": 32},
        {"tolerance": 0.1, "samples": 32},
    ],
)
def test_the_clock_adds_a_warning_and_nothing_else(monkeypatch, tmp_path, options):
    idle, report = written(tmp_path, **options)
    real = pipeline.compare_latency
    monkeypatch.setattr(
        pipeline, "compare_latency", lambda *args, **how: replace(real(*args, **how), ratio=3.0)
    )
    busy, slow_report = written(tmp_path, **options)
    assert busy == idle and busy != (MODELS / "digits.onnx").read_bytes()
    assert slow_report["output"] == report["output"] and not slow_report["unchanged"]
    assert slow_report["output"]["macs"] < slow_report["input"]["macs"]
    assert any("3.00 of the input's time" in text for text in slow_report["warnings"])


@pytest.mark.parametrize("options", [{"macs": 0.6}, {}])
def test_the_number_of_threads_does_not_show_in_the_bytes(tmp_path, options):
    one, two = (written(tmp_path, threads=t, samples=96, **options)[0] for t in (1, 2))
    assert one == two


@pytest.mark.parametrize("align", ["auto", 8, 16, 64])
def test_the_search_stays_within_what_the_alignment_reaches(align):
    """All is allowed to change, so the search goes down to the smallest widths and no budget error comes."""
    result = onnxmerge.optimize(MODELS / "digits.onnx", tolerance=1.0, align=align, samples=8, **CHEAP)
    report = result.report
    assert report["output"]["macs"] <= report["input"]["macs"]
    assert all(g["after"] % (align if align != "auto" else 1) == 0 for g in report["groups"] if align != 64)

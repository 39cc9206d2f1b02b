"""Budgets in measured time: the loop around the table, with made-up clocks."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import onnxmerge
from onnxmerge.errors import UsageError
from onnxmerge.search import ATTEMPTS, within_latency
from onnxmerge.targets import step_of

MODELS = Path(__file__).parents[1] / "models"


class FakeRecipe:
    """Candidates are the goals that they were made for."""

    def smallest(self, kind: str) -> float:
        assert kind == "latency"
        return 0.2

    def at(self, kind: str, value: float) -> SimpleNamespace:
        return SimpleNamespace(goal=value)


def searched(measure, goal=0.6) -> tuple[float, int]:
    seen = []

    def measured(candidate) -> float:
        seen.append(candidate.goal)
        return measure(candidate.goal)

    found = within_latency(FakeRecipe(), measured, goal, lambda *_: None)
    return found.goal, len(seen)


def test_a_prediction_that_holds_is_taken_at_once():
    assert searched(lambda goal: goal) == (0.6, 1)


def test_a_prediction_that_is_off_is_corrected():
    goal, attempts = searched(lambda goal: 1.25 * goal)
    assert goal == pytest.approx(0.6 / 1.25) and attempts == 2


def test_a_goal_out_of_reach_ends_with_the_fastest():
    goal, attempts = searched(lambda goal: max(0.9, goal))
    assert attempts <= ATTEMPTS
    assert goal == pytest.approx(0.6)


def test_aligned_widths_are_multiples(tmp_path, monkeypatch):
    calibration = np.load(MODELS / "digits_calib.npz")["image"][:64]
    result = onnxmerge.optimize(MODELS / "digits.onnx", macs=0.6, align=8, calibration=calibration)
    assert result.report["output"]["macs"] <= 0.6 * result.report["input"]["macs"]
    assert all(group["after"] % 8 == 0 for group in result.report["groups"])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    faster = onnxmerge.optimize(
        MODELS / "digits.onnx", latency=0.9, target="cuda", calibration=calibration, threads=1
    )
    assert all(group["after"] % 8 == 0 for group in faster.report["groups"])
    assert faster.report["output"]["macs"] < faster.report["input"]["macs"]


def test_steps_of_targets():
    assert step_of("cuda") == 8 and step_of("tensorrt") == 32 and step_of("cpu") in (4, 8, 16)
    with pytest.raises(UsageError, match="target"):
        onnxmerge.optimize(MODELS / "digits.onnx", macs=0.5, target="abacus")

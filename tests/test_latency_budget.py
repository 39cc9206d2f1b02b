"""Budgets in measured time: the loop around the table, with made-up clocks."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import support

import onnxmerge
from onnxmerge import pipeline
from onnxmerge.allocation.targets import step_of
from onnxmerge.budgets.latency import ATTEMPTS, MOST_WRONG, SESSIONS, Timed, nearest_to_goal
from onnxmerge.errors import BudgetError, UsageError
from onnxmerge.plan import Selection

MODELS = Path(__file__).parents[1] / "models"


class FakeWidths:
    """Selections are the shares of the time that the table predicts for them; so are what is cut by them."""

    smallest = 0.2

    def __init__(self, step: float = 1e-6):
        self.step = step

    def select(self, share: float) -> Selection:
        assert 0.2 <= share <= 1.0
        return Selection({"share": np.empty((int(share / self.step + 1e-9), 0))})

    def share(self, selection: Selection) -> float:
        return len(selection.keep["share"]) * self.step

    cut = share


def searched(measure, goal=0.6, step=1e-6) -> Timed:
    """What was chosen; every width is measured in several sessions, and not too many widths are."""
    seen = []

    def measured(candidate: float) -> float:
        seen.append(candidate)
        return measure(candidate)

    widths = FakeWidths(step)
    found = nearest_to_goal(widths, widths, measured, goal, lambda *_: None)
    assert set(Counter(seen).values()) == {SESSIONS} and len(set(seen)) <= ATTEMPTS + 1
    return found


def test_a_prediction_that_holds_is_taken_at_once():
    seen = []
    assert searched(lambda aim: seen.append(aim) or aim).predicted == pytest.approx(0.6)
    assert len(seen) == SESSIONS


@pytest.mark.parametrize("goal", [0.5, 0.6, 0.8])
@pytest.mark.parametrize(
    "truth",
    [
        lambda aim: 1.25 * aim,
        lambda aim: 0.6 * aim,
        lambda aim: 0.3 + 0.4 * aim,
        lambda aim: 0.2 + 0.75 * aim,
        lambda aim: aim**2,
        lambda aim: aim**0.7,
    ],
)
def test_a_clean_clock_hits_the_goal(truth, goal):
    reached = truth(searched(truth, goal).predicted)
    assert abs(reached - goal) <= 0.03 or (reached < goal and searched(truth, goal).predicted == 1.0)


def test_a_staircase_ends_on_the_step_below_the_goal():
    assert searched(lambda aim: 0.4 if aim < 0.5 else 0.8).predicted < 0.5


def test_a_little_above_the_goal_is_better_than_far_below():
    assert searched(lambda aim: 0.3 if aim < 0.5 else 0.615).predicted >= 0.5


def test_coarse_widths_are_tried_once_each():
    found = searched(lambda aim: 0.1 + aim, step=0.15)
    assert found.predicted == pytest.approx(0.45)


class Clock:
    """Sessions that are slow or fast as long as they live, runs that are off a little, and busy spells."""

    def __init__(self, truth, seed: int, bias: float, *, busy: float = 0.0):
        self.truth, self.bias, self.busy = truth, bias, busy
        self.noise = np.random.default_rng(seed)

    def __call__(self, aim: float) -> float:
        before, after = self.noise.uniform(1 - self.bias / 2, 1 + self.bias / 2, 2)
        spell = 2.0 if self.noise.random() < self.busy else 1.0
        return self.truth(aim) * after / before * spell * self.noise.normal(1.0, 0.02)


NOISE = [{"bias": 0.25}, {"bias": 0.25, "busy": 0.2}, {"bias": 0.04}]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("noise", NOISE, ids=str)
@pytest.mark.parametrize("error", [1.0, 1.1, 1.25, 0.9])
def test_no_more_is_cut_than_the_table_asks_for_but_for_its_error(seed, noise, error):
    found = searched(Clock(lambda aim: error * aim, seed, **noise))
    least = 0.6 / max(error, 1.0)
    assert found.predicted >= 0.95 * least
    assert found.predicted >= 0.6 / (1 + MOST_WRONG)
    assert min(found.measured) <= found.usual <= max(found.measured)


@pytest.mark.parametrize("seed", range(20))
def test_a_clock_that_is_off_by_some_percent_leads_near_the_goal(seed):
    truth = lambda aim: 0.2 + 0.6 * aim  # noqa: E731
    assert 0.54 < truth(searched(Clock(truth, seed, 0.04)).predicted) < 0.66


@pytest.mark.parametrize("noise", NOISE, ids=str)
@pytest.mark.parametrize("seed", range(5))
def test_a_table_that_is_far_off_is_not_followed_to_a_tenth(seed, noise):
    """Small nets on several threads: most of the time is no kernel's, and falls little with the widths."""
    found = searched(Clock(lambda aim: 0.5 + 0.5 * aim, seed, **noise))
    assert found.predicted >= 0.6 / (1 + MOST_WRONG)


def test_a_goal_out_of_reach_is_an_error_that_says_what_was_measured():
    with pytest.raises(BudgetError, match=r"0\.9 of it was measured"):
        searched(lambda aim: max(0.9, aim))
    with pytest.raises(BudgetError, match="was measured"):
        searched(lambda aim: 0.9 + 0.1 * aim, goal=0.1)


def test_what_cannot_be_reached_within_the_error_of_the_table_is_no_error():
    """The smallest widths reach the goal; those that the table may be asked for do not."""
    found = searched(lambda aim: 0.4 + 0.6 * aim)
    assert found.predicted == pytest.approx(0.6 / (1 + MOST_WRONG), abs=1e-3) and found.usual > 0.65


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
    low, high = faster.report["latency"]["sessions"]
    assert 0 < low <= faster.report["latency"]["ratio"] <= high


def test_steps_of_targets():
    assert step_of("cuda") == 8 and step_of("tensorrt") == 32 and step_of("cpu") in (4, 8, 16)
    with pytest.raises(UsageError, match="target"):
        onnxmerge.optimize(MODELS / "digits.onnx", macs=0.5, target="abacus")


CHEAP = {"calibration": np.zeros((4, 1, 8, 8), np.float32), "criterion": "l1", "compensation": "none"}


def written(folder: Path, **options) -> tuple[bytes, onnxmerge.Report]:
    """The bytes of the file that a run writes, and its report."""
    result = onnxmerge.optimize(support.narrow_digits(), **options)
    result.save(folder / "out.onnx")
    return (folder / "out.onnx").read_bytes(), result.report


@pytest.mark.parametrize(
    "options",
    [
        {"macs": 0.6, **CHEAP},
        {"params": 0.5, **CHEAP},
        {"ratio": 0.5, **CHEAP},
        {"macs": 0.6, "align": 1, **CHEAP},
        {"macs": 0.6, "samples": 32, "tolerance": 1.0},
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
    assert busy == idle and busy != support.narrow_digits().SerializeToString()
    assert slow_report["output"] == report["output"] and not slow_report["unchanged"]
    assert slow_report["output"]["macs"] < slow_report["input"]["macs"]
    assert any("3.00 of the input's time" in text for text in slow_report["warnings"])


@pytest.mark.parametrize("options", [{"macs": 0.6, "tolerance": 1.0}, {}])
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

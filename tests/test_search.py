"""Runs without a budget: what they find, how few candidates they make, and what they show meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import support

import onnxmerge
from onnxmerge import candidates
from onnxmerge.budgets.tolerance import CLOSED, CONFIRMED, SCREENS, STEPS, search
from onnxmerge.plan import Selection
from onnxmerge.progress import Clock

MODELS = Path(__file__).parents[1] / "models"
DIGITS = MODELS / "digits.onnx"
IMAGES = np.load(MODELS / "digits_calib.npz")["image"]


@dataclass
class FakeWidths:
    """Widths come in steps of the share of the MACs."""

    step: float = 0.001
    smallest: float = 0.1

    def select(self, share: float) -> Selection:
        assert 0.1 <= share < 1
        return Selection({"g": np.empty(int(share / self.step + 1e-9))})

    def share(self, selection: Selection) -> float:
        return len(selection.keep["g"]) * self.step


@dataclass
class FakeBuilder:
    """Candidates are (share of the MACs kept, samples they are fitted to)."""

    widths: FakeWidths
    data: range
    fits: bool = True
    made: list[tuple[float, int]] = field(default_factory=list)

    def of_widths(self, selection: Selection) -> tuple[float, int]:
        self.made.append((self.widths.share(selection), len(self.data)))
        return self.made[-1]

    def with_samples(self, samples: int) -> FakeBuilder:
        return replace(self, data=range(samples))


def sought(change, *, samples=384, fits=True, step=0.001, tolerance=0.01):
    """What is found, and the candidates that were made."""
    widths = FakeWidths(step)
    builder = FakeBuilder(widths, range(samples), fits)
    measure = lambda candidate: SimpleNamespace(change=change(*candidate))  # noqa: E731
    found = search(widths, builder, measure, tolerance, Clock())
    assert found is None or change(*found.candidate) <= tolerance
    assert found is None or found.candidate == (pytest.approx(found.share), samples)
    return found, builder.made


def falling(least: float, samples_matter: float = 0.0):
    """A change that reaches 0.01 at a share, at a higher one for few samples."""

    def change(share: float, samples: int) -> float:
        return 0.01 * np.exp(8 * (least + samples_matter * (1 - samples / 384) - share))

    return change


@pytest.mark.parametrize("least", [0.15, 0.35, 0.62, 0.9])
@pytest.mark.parametrize("samples_matter", [0.0, 0.1, 0.2, -0.05])
def test_the_smallest_share_within_the_tolerance_is_found(least, samples_matter):
    found, made = sought(falling(least, samples_matter))
    assert found is not None and found.share - least <= 2.5 * CLOSED
    assert sum(samples == 384 for _, samples in made) <= CONFIRMED
    assert sum(samples < 384 for _, samples in made) <= SCREENS


@pytest.mark.parametrize(("samples", "fits", "most"), [(30, True, SCREENS), (384, False, STEPS)])
def test_without_cheaper_candidates_the_interval_is_halved(samples, fits, most):
    found, made = sought(lambda share, samples: 0.02 - share / 40, samples=samples, fits=fits)
    assert found is not None and 0 <= found.share - 0.4 <= CLOSED
    assert len(made) <= most and len(set(made)) == len(made)


def test_an_interval_without_other_widths_is_closed():
    """Between two shares that are four tenths apart there is nothing to try."""
    found, made = sought(lambda share, _: 0.0 if share > 0.7 else 1.0, step=0.4)
    assert found is not None and found.share == pytest.approx(0.8)
    assert len(made) == len(set(made)) <= 4


def test_nothing_within_the_tolerance_is_found_out_soon():
    found, made = sought(lambda *_: 1.0)
    assert found is None and sum(samples == 384 for _, samples in made) <= CONFIRMED


@pytest.mark.parametrize("seed", range(20))
def test_a_change_that_does_not_grow_evenly_still_is_within_the_tolerance(seed):
    rng = np.random.default_rng(seed)
    bumps = rng.normal(1.0, 0.5, 1000)
    sought(lambda share, samples: (1 - share) / 20 * abs(bumps[round(share * 900)]))


def test_the_search_takes_less_than_five_runs_with_a_budget(monkeypatch):
    """Counted in samples that candidates are fitted to, and in passes of statistics."""
    narrow = support.narrow_digits()
    spent, passes, shown = [], [], []
    reconstruct, collect = candidates.reconstruct, candidates.collect

    def counted(channels, sites, model, selection, data, *rest, **options):
        spent.append(len(data))
        return reconstruct(channels, sites, model, selection, data, *rest, **options)

    monkeypatch.setattr(candidates, "reconstruct", counted)
    monkeypatch.setattr(candidates, "collect", lambda *a, **k: passes.append(1) or collect(*a, **k))
    told = {"progress": lambda *step: shown.append(step), "threads": 1}
    for net, samples, limit in (
        (narrow, 40, 0.1),
        (narrow, 100, 0.1),
        (DIGITS, 200, 0.01),
        (narrow, 512, 0.1),
    ):
        spent.clear()
        passes.clear()
        report = onnxmerge.optimize(net, calibration=IMAGES[:samples], tolerance=limit, **told).report
        assert report.reached.macs < (0.7 if net is DIGITS else 0.9)
        assert report.search is not None and report.search.change <= limit
        assert sum(spent) <= 4.5 * samples and len(passes) == 1
    steps = [(done, total) for stage, done, total in shown if stage == "search"]
    last = steps[max(i for i, step in enumerate(steps) if step[0] == 0) :]
    assert [done for done, _ in last] == sorted(done for done, _ in last)
    assert all(0 <= done <= total > 0 for done, total in last)

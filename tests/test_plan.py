"""A plan is applied exactly as it was made: its channels, its method, its options."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support import narrow_digits

import onnxmerge
from onnxmerge.budgets import tolerance
from onnxmerge.errors import UsageError
from onnxmerge.plan import Plan
from onnxmerge.study import Study

MODELS = Path(__file__).parents[1] / "models"
IMAGES = np.load(MODELS / "digits_calib.npz")["image"][:128]
SHARED_MODELS = Path(__file__).parents[2] / "shared" / "models"


def applied(plan: Plan, **options) -> onnxmerge.Result:
    """What the plan gives after a way through JSON."""
    again = Plan.from_json(plan.to_json())
    assert again == plan
    return onnxmerge.optimize(narrow_digits(), plan=again, calibration=IMAGES, **options)


def bytes_of(result: onnxmerge.Result) -> bytes:
    return result.model.SerializeToString(deterministic=True)


@pytest.mark.parametrize(
    "options",
    [
        {"macs": 0.5},
        {"macs": 0.5, "seed": 3, "patches": 500},
        {"params": 0.4, "criterion": "l1", "allocation": "global"},
        {"ratio": 0.5, "criterion": "l1", "compensation": "merge"},
        {"ratio": 0.5, "criterion": "l1", "compensation": "merge", "threshold": 0.9, "trade_off": 0.2},
        {"ratio": 0.5, "criterion": "random", "compensation": "none", "seed": 7},
        {"macs": 0.6, "compensation": "gaussian"},
        {"macs": 0.6, "compensation": "bias", "scope": "chain"},
        {"tolerance": 0.2},
    ],
)
def test_the_same_data_give_the_same_bytes(options):
    first = onnxmerge.optimize(narrow_digits(), calibration=IMAGES, **options)
    again = applied(first.plan)
    assert bytes_of(again) == bytes_of(first)
    assert again.plan.keep == first.plan.keep
    for name in ("criterion", "allocation", "compensation"):
        assert again.report["method"][name] == first.report["method"][name]
    assert bytes_of(applied(again.plan)) == bytes_of(first)


@pytest.mark.skipif(not SHARED_MODELS.is_dir(), reason="the shared models are not here")
def test_residual_sums_and_channels_chosen_on_the_way_are_replayed():
    model = SHARED_MODELS / "resnet8.onnx"
    first = onnxmerge.optimize(model, macs=0.5, samples=32)
    again = onnxmerge.optimize(model, plan=first.plan, samples=32)
    assert bytes_of(again) == bytes_of(first)


def test_a_candidate_that_a_search_fitted_on_a_part_is_fitted_on_that_part_again(monkeypatch):
    """All data are pretended to make it worse, so that the search gives back what the part made."""
    narrow_digits()  # what that takes is not watched
    found = []
    search, parity = tolerance.search, Study.parity

    def searched(*arguments):
        found.append(search(*arguments))
        return found[0]

    def worse(self, session, data):
        return replace(parity(self, session, data), **({"change": 1.0} if found else {}))

    monkeypatch.setattr(tolerance, "search", searched)
    monkeypatch.setattr(Study, "parity", worse)
    first = onnxmerge.optimize(narrow_digits(), calibration=IMAGES, tolerance=0.2)
    assert first.plan.method["fit_on"] == "part"
    assert bytes_of(applied(first.plan)) == bytes_of(first)


@pytest.mark.parametrize(
    "contradiction",
    [
        {"compensation": "lstsq"},
        {"criterion": "l2"},
        {"allocation": "global"},
        {"seed": 1},
        {"patches": 40_000},
        {"threshold": 0.5},
        {"trade_off": 0.85},
        {"macs": 0.5},
    ],
)
def test_options_that_contradict_the_plan_are_named(contradiction):
    made = {"criterion": "l1", "compensation": "merge", "patches": 1000, "trade_off": 0.5}
    plan = onnxmerge.optimize(narrow_digits(), ratio=0.5, calibration=IMAGES, **made).plan
    with pytest.raises(UsageError, match=next(iter(contradiction))):
        applied(plan, **contradiction)
    config = onnxmerge.Config(**contradiction)
    if config != onnxmerge.Config():
        with pytest.raises(UsageError, match=next(iter(contradiction))):
            applied(plan, config=config)
    applied(plan, criterion="l1", compensation="auto", patches=1000)
    applied(plan, config=onnxmerge.Config(criterion="l1", samples=64))


def test_plans_without_a_method_take_the_options_of_the_run():
    made = {"criterion": "l1", "compensation": "merge"}
    first = onnxmerge.optimize(narrow_digits(), ratio=0.5, calibration=IMAGES, **made)
    content = json.loads(first.plan.to_json())
    del content["method"]
    old = Plan.from_json(json.dumps(content))
    assert bytes_of(onnxmerge.optimize(narrow_digits(), plan=old, calibration=IMAGES, **made)) == bytes_of(
        first
    )
    usual = onnxmerge.optimize(narrow_digits(), plan=old, calibration=IMAGES)
    assert usual.report["method"]["compensation"] == "lstsq"
    # What plans recorded before they were applied with it.
    content["method"] = {"criterion": "l1", "allocation": "uniform", "compensation": "merge", "seed": 0}
    assert bytes_of(applied(Plan.from_json(json.dumps(content)))) == bytes_of(first)


@pytest.mark.parametrize("method", [{"patches": "many"}, {"criterion": 5}, {"compensation": "glue"}])
def test_a_method_that_makes_no_sense_is_an_error(method):
    plan = onnxmerge.optimize(
        narrow_digits(), ratio=0.5, calibration=IMAGES, criterion="l1", compensation="none"
    ).plan
    with pytest.raises(UsageError):
        applied(replace(plan, method=method))

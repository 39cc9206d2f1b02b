"""The latency table: what it predicts follows from what was profiled. No test depends on the clock."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxmerge.clock import Clock
from onnxmerge.config import Config
from onnxmerge.latency_table import LEVELS, LatencyTable, latency_table, level_selection
from onnxmerge.plan import Selection
from onnxmerge.preparation import prepare

DIGITS = Path(__file__).parents[1] / "models" / "digits.onnx"


@pytest.fixture(scope="module")
def prepared():
    return prepare(DIGITS, None, None, Config(samples=1, device="cpu", threads=1), Clock())


def test_every_linear_layer_is_found_in_the_profile_and_remembered(prepared, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    feed = next(iter(prepared.data.feeds(batch=1)))
    table = latency_table(prepared.subject, prepared.runtime, feed, step=8)
    linear = {term.node.index for term in prepared.subject.cost.layers}
    assert set(table.layers) == linear
    assert all(len(times) == len(LEVELS) for times in table.layers.values())
    assert len(list((tmp_path / "onnxmerge").iterdir())) == 1

    def fail(*_, **__):
        raise AssertionError("measured again")

    monkeypatch.setattr("onnxmerge.latency_table._measured", fail)
    again = latency_table(prepared.subject, prepared.runtime, feed, step=8)
    assert again.layers == table.layers and again.rest == table.rest


def test_predictions_follow_the_profiled_levels(prepared):
    """With times proportional to the work the predicted share is the share of the work."""
    channels, cost = prepared.subject.channels, prepared.subject.cost
    step = 8
    times = {
        term.node.index: tuple(
            float(cost_of(prepared, term, level_selection(channels, share, step))) for share in LEVELS
        )
        for term in cost.layers
    }
    table = LatencyTable(prepared.subject, step, times, (0.0,) * len(LEVELS))
    assert table.share(Selection({})) == 1.0
    for share in LEVELS:
        selection = level_selection(channels, share, step)
        expected = sum(cost_of(prepared, term, selection) for term in cost.layers) / cost.macs
        assert table.share(selection) == pytest.approx(expected, rel=1e-6)
    between = Selection({"/block2/conv1/Conv": np.arange(60)})
    padded = Selection({"/block2/conv1/Conv": np.arange(64)})
    assert table.share(between) == table.share(padded), "60 channels cost as much as 64 in steps of 8"
    assert table.share(Selection({"/block2/conv1/Conv": np.arange(56)})) < table.share(padded)


def cost_of(prepared, term, selection: Selection) -> float:
    channels = prepared.subject.channels
    removed = prepared.subject.removed(selection)
    share = 1.0
    for axis in term.axes:
        share *= (~removed[channels.of(axis)]).mean()
    return term.value * share


def test_levels_are_whole_steps(prepared):
    for share in LEVELS:
        for name, keep in level_selection(prepared.subject.channels, share, 8).keep.items():
            assert len(keep) % 8 == 0 and len(keep) >= 8, name

"""The latency table: what it predicts follows from what was profiled. No test depends on the clock."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from onnxmerge.allocation import latency_table as latency_table_module
from onnxmerge.allocation.latency_table import LEVELS, LatencyTable, latency_table, levels
from onnxmerge.channels.cost import kept_lengths
from onnxmerge.config import Config
from onnxmerge.pipeline import analysed
from onnxmerge.plan import Selection
from onnxmerge.progress import Clock

DIGITS = Path(__file__).parents[1] / "models" / "digits.onnx"


@pytest.fixture(scope="module")
def study():
    return analysed(DIGITS, None, None, Config(samples=1, device="cpu", threads=1), Clock())


def test_every_linear_layer_is_found_in_the_profile_and_remembered(study, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    feed = next(iter(study.samples.fit.feeds(batch=1)))
    table = latency_table(study.analysis, study.runtime, feed, step=8)
    linear = {term.node.index for term in study.analysis.cost.layers}
    assert set(table.layers) == linear
    assert all(len(times) == LEVELS for times in table.layers.values())
    assert len(list((tmp_path / "onnxmerge").iterdir())) == 1

    def fail(*_, **__):
        raise AssertionError("measured again")

    monkeypatch.setattr("onnxmerge.allocation.latency_table._measured", fail)
    again = latency_table(study.analysis, study.runtime, feed, step=8)
    assert again.layers == table.layers and again.rest == table.rest


@pytest.fixture(scope="module")
def proportional(study) -> LatencyTable:
    """A table in steps of 8 whose layers take a second per multiplication."""
    return LatencyTable(
        study.analysis,
        8,
        {
            term.node.index: tuple(
                work(study, term, selection) for selection in levels(study.analysis.channels, 8)
            )
            for term in study.analysis.cost.layers
        },
        (0.0,) * LEVELS,
    )


def test_predictions_follow_the_profiled_levels(study, proportional):
    """With times proportional to the work the predicted share is the share of the work."""
    assert share(study, proportional, {}) == 1.0
    for selection in levels(study.analysis.channels, 8)[:3]:
        expected = sum(work(study, term, selection) for term in study.analysis.cost.layers)
        found = share(study, proportional, selection.keep)
        assert found == pytest.approx(expected / study.analysis.cost.macs, rel=1e-6)


def test_widths_between_two_steps_cost_as_much_as_the_next_one(study, proportional):
    times = [share(study, proportional, {GROUP: np.arange(width)}) for width in (56, 60, 64)]
    assert times[0] < times[1] == times[2]


def test_less_than_a_block_is_read_as_it_is_and_written_as_a_block(study, proportional):
    """Below one block only the consumer gets faster, as long as it reads no more than that."""
    block = share(study, proportional, {GROUP: np.arange(8)})
    half = share(study, proportional, {GROUP: np.arange(4)})
    none = share(study, proportional, {GROUP: np.arange(1)})
    assert none <= half <= block
    lengths = np.stack([lengths_of(study, {GROUP: np.arange(k)}) for k in (8, 4, 1)])
    assert proportional.share(lengths) == pytest.approx([block, half, none]), "many widths at once"


def test_a_layer_that_is_gone_takes_no_time(study, proportional):
    """With it go its activation and its sum: of everything else, the share of the tensors that are left."""
    channels = study.analysis.channels
    keep = {GROUP: np.zeros(0, dtype=np.int64)}
    number = next(i for i, group in enumerate(channels.groups) if group.name == GROUP)
    consumer = next(s for s in study.analysis.sites if (channels.group_of[s.channel] == number).any())
    gone = {consumer.node.index} | {n.index for n in channels.view if n.name == GROUP}
    whole = sum(term.value for term in study.analysis.cost.layers)
    left = sum(term.value for term in study.analysis.cost.layers if term.node.index not in gone)
    assert share(study, proportional, keep) == pytest.approx(left / whole, rel=1e-6)
    others = replace(proportional, layers={}, rest=(1.0,) * LEVELS)
    assert 0.5 < share(study, others, keep) < 1.0
    many = np.stack([lengths_of(study, {}), lengths_of(study, keep)])
    assert others.share(many) == pytest.approx([1.0, share(study, others, keep)])


GROUP = "/block2/conv1/Conv"


def lengths_of(study, keep) -> np.ndarray:
    return kept_lengths(study.analysis.channels, study.analysis.removed(Selection(keep)))


def share(study, table: LatencyTable, keep) -> float:
    return float(table.share(lengths_of(study, keep)))


def work(study, term, selection: Selection) -> float:
    channels = study.analysis.channels
    removed = study.analysis.removed(selection)
    part = 1.0
    for axis in term.axes:
        part *= (~removed[channels.of(axis)]).mean()
    return term.value * part


def test_a_gpu_is_timed_as_a_whole(study):
    """Kernels that run on their own time: the time of the run is shared out by multiplications."""
    feed = next(iter(study.samples.fit.feeds(batch=1)))
    runtime = replace(study.runtime, device="cuda")  # the provider stays that of the CPU
    found = latency_table_module._measured(study.analysis, runtime, feed, 8, None)
    assert found["rest"] == [0.0] * LEVELS
    whole = {term.node.index: term.value for term in study.analysis.cost.layers}
    per_mac = {round(found["layers"][index][0] / macs * 1e15) for index, macs in whole.items()}
    assert len(per_mac) == 1 and per_mac.pop() > 0


def test_levels_are_whole_steps(study):
    *aligned, least = levels(study.analysis.channels, 8)
    for selection in aligned:
        for name, keep in selection.keep.items():
            assert len(keep) % 4 == 0, name
    assert all(len(keep) == 1 for keep in least.keep.values())


def test_shares_are_those_of_the_input_where_all_channels_take_less_time_than_it(proportional, study):
    lengths = study.analysis.channels.classes.size
    assert proportional.share(lengths) == pytest.approx(1.0)
    assert replace(proportional, whole=0.4).share(lengths) == pytest.approx(0.4)

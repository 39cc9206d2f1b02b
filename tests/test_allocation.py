"""Widths from cost curves: budgets are met, nothing more fits, and widths are aligned where asked."""

from __future__ import annotations

import numpy as np
import pytest
import support

from onnxmerge.allocation import CostCurves
from onnxmerge.channels.cost import share_of
from onnxmerge.errors import BudgetError
from onnxmerge.plan import Budget, Scores, Selection

TEXT = """net (float[N,3,8,8] x) => (float[N,5,8,8] y)
<float[16,3,3,3] w1, float[24,16,3,3] w2, float[5,24,3,3] w3> {
  h1 = Conv<pads=[1,1,1,1]>(x, w1)
  a1 = Relu(h1)
  h2 = Conv<pads=[1,1,1,1]>(a1, w2)
  a2 = Relu(h2)
  y = Conv<pads=[1,1,1,1]>(a2, w3)
}"""


@pytest.fixture(scope="module")
def analysed():
    return support.analysed(support.model(TEXT))


def scores_of(analysed, *prices: float) -> Scores:
    """The i-th worst channel of a group costs i times the group's price."""
    values, curves = {}, {}
    for group, price in zip(analysed.channels.groups, prices, strict=True):
        steps = price * np.arange(1, len(group))
        values[group.name] = np.random.default_rng(0).permutation(len(group)).astype(float)
        curves[group.name] = np.concatenate([np.cumsum(steps)[::-1], [0.0]])
    return Scores(values, curves)


@pytest.mark.parametrize("kind", ["macs", "params"])
@pytest.mark.parametrize("value", [0.9, 0.5, 0.3])
@pytest.mark.parametrize("align", [1, 8])
def test_the_budget_is_met_and_nothing_more_fits(analysed, kind, value, align):
    share = share_of(analysed.cost, kind)
    scores = scores_of(analysed, 1.0, 1.0)
    keep = CostCurves(align)(analysed.channels, scores, Budget(kind, value, share)).keep
    assert share(Selection(keep)) <= value + 1e-9
    for name, index in keep.items():
        assert len(index) % align == 0
        missing = np.setdiff1d(np.arange(len(scores.values[name])), index)
        if len(missing):
            more = Selection(keep | {name: np.union1d(index, missing[:align])})
            assert share(more) > value


def test_the_budget_is_taken_where_it_costs_least(analysed):
    budget = Budget("macs", 0.5, share_of(analysed.cost, "macs"))
    widths = []
    for prices in ((1.0, 100.0), (100.0, 1.0)):
        keep = CostCurves()(analysed.channels, scores_of(analysed, *prices), budget).keep
        widths.append([len(keep[g.name]) for g in analysed.channels.groups])
    assert widths[0][0] < widths[1][0]
    assert widths[0][1] > widths[1][1]


def test_the_best_channels_stay(analysed):
    scores = scores_of(analysed, 1.0, 1.0)
    budget = Budget("macs", 0.5, share_of(analysed.cost, "macs"))
    for name, index in CostCurves()(analysed.channels, scores, budget).keep.items():
        assert scores.values[name][index].min() == len(scores.values[name]) - len(index)


def test_a_ratio_is_a_share_of_all_channels(analysed):
    keep = CostCurves()(analysed.channels, scores_of(analysed, 1.0, 3.0), Budget("ratio", 0.25)).keep
    assert sum(len(index) for index in keep.values()) == 30


def test_a_budget_out_of_reach_says_what_is_reachable(analysed):
    share = share_of(analysed.cost, "macs")
    with pytest.raises(BudgetError, match="remain"):
        CostCurves()(analysed.channels, scores_of(analysed, 1.0, 1.0), Budget("macs", 1e-4, share))

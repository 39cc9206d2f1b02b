"""Widths from cost curves: budgets are met, nothing more fits, and widths are aligned where asked."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import support

from onnxmerge.allocation import ALLOCATIONS, Alignment, CostCurves
from onnxmerge.allocation.alignment import Extent, extents
from onnxmerge.allocation.budget import Budget
from onnxmerge.allocation.met import share
from onnxmerge.channels.depth import Depth
from onnxmerge.errors import BudgetError
from onnxmerge.plan import Scores, Selection

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


GROUPED = """net (float[N,3,4,4] x) => (float[N,5] y)
<float[16,3,1,1] w1, float[24,4,1,1] w2, float[8,24,1,1] w3, float[128,5] w4> {
  h1 = Conv(x, w1)
  h2 = Conv<group=4>(h1, w2)
  h3 = Conv(h2, w3)
  a3 = Relu(h3)
  f = Flatten(a3)
  y = MatMul(f, w4)
}"""


BRANCHES = """net (float[N,3,4,4] x) => (float[N,5,4,4] y)
<float[32,3,1,1] w1, float[20,3,1,1] w2, float[5,52,1,1] w3> {
  a = Conv(x, w1)
  b = Conv(x, w2)
  ab = Concat<axis=1>(a, b)
  y = Conv(ab, w3)
}"""


HALVES = """net (float[N,3,4,4] x) => (float[N,5,4,4] y)
<float[8,3,1,1] w1, float[12,4,1,1] w2, float[5,12,1,1] w3> {
  h1 = Conv(x, w1)
  h2 = Conv<group=2>(h1, w2)
  y = Conv(h2, w3)
}"""


def budget_of(analysed, kind: str, value: float) -> Budget:
    return Budget(kind, value, partial(analysed.cost.share, kind))


def scores_of(analysed, *prices: float) -> Scores:
    """The i-th worst channel of a group costs i times the group's price."""
    values, curves = {}, {}
    for group, price in zip(analysed.channels.groups, prices, strict=True):
        steps = price * np.arange(1, len(group) + 1)
        values[group.name] = np.random.default_rng(0).permutation(len(group)).astype(float)
        curves[group.name] = np.concatenate([np.cumsum(steps)[::-1], [0.0]])
    return Scores(values, curves)


@pytest.mark.parametrize("kind", ["macs", "params"])
@pytest.mark.parametrize("value", [0.9, 0.5, 0.3])
@pytest.mark.parametrize("align", [1, 8])
def test_the_budget_is_met_and_nothing_more_fits(analysed, kind, value, align):
    scores, budget = scores_of(analysed, 1.0, 1.0), budget_of(analysed, kind, value)
    keep = CostCurves(Alignment(align))(analysed.channels, scores, budget).keep
    assert share(analysed.channels, Selection(keep), budget) <= value + 1e-9
    for name, index in keep.items():
        assert len(index) % align == 0
        missing = np.setdiff1d(np.arange(len(scores.values[name])), index)
        if len(missing):
            more = Selection(keep | {name: np.union1d(index, missing[:align])})
            assert share(analysed.channels, more, budget) > value


def test_the_budget_is_taken_where_it_costs_least(analysed):
    budget = budget_of(analysed, "macs", 0.5)
    widths = []
    for prices in ((1.0, 100.0), (100.0, 1.0)):
        keep = CostCurves()(analysed.channels, scores_of(analysed, *prices), budget).keep
        widths.append([len(keep[g.name]) for g in analysed.channels.groups])
    assert widths[0][0] < widths[1][0]
    assert widths[0][1] > widths[1][1]


def test_the_best_channels_stay(analysed):
    scores = scores_of(analysed, 1.0, 1.0)
    budget = budget_of(analysed, "macs", 0.5)
    for name, index in CostCurves()(analysed.channels, scores, budget).keep.items():
        assert scores.values[name][index].min() == len(scores.values[name]) - len(index)


def test_a_ratio_is_a_share_of_all_channels(analysed):
    keep = CostCurves()(analysed.channels, scores_of(analysed, 1.0, 3.0), Budget("ratio", 0.25)).keep
    assert sum(len(index) for index in keep.values()) == 30


def test_a_budget_out_of_reach_says_what_is_reachable(analysed):
    with pytest.raises(BudgetError, match="remain"):
        CostCurves()(analysed.channels, scores_of(analysed, 1.0, 1.0), budget_of(analysed, "macs", 1e-4))


@pytest.mark.parametrize("name", ALLOCATIONS)
@pytest.mark.parametrize("value", [0.9, 0.5, 0.2])
def test_every_allocation_keeps_to_the_aligned_widths(analysed, name, value):
    keeps_to_ladders(analysed, name, value)


@pytest.mark.parametrize("name", ALLOCATIONS)
def test_every_branch_of_a_concat_is_aligned_by_itself(name):
    analysed = support.analysed(support.model(BRANCHES))
    assert [len(group) for group in analysed.channels.groups] == [32, 20]
    chosen = keeps_to_ladders(analysed, name, 0.6)
    assert all(len(keep) % 4 == 0 for keep in chosen.keep.values())


def keeps_to_ladders(analysed, name: str, value: float) -> Selection:
    alignment, budget = Alignment(16, 4), budget_of(analysed, "macs", value)
    scores = scores_of(analysed, 1.0, 2.0)
    chosen = ALLOCATIONS[name](alignment)(analysed.channels, scores, budget)
    ladders = alignment.ladders(analysed.channels)
    assert share(analysed.channels, chosen, budget) <= value
    for group, keep in chosen.keep.items():
        assert len(keep) in ladders[group]
    return chosen


def test_a_staircase_is_taken_in_whole_steps(analysed):
    """A cost that falls only every 8 channels: widths between two steps are never chosen."""
    number = [analysed.channels.classes.class_of(g.channels[:1])[0] for g in analysed.channels.groups]

    def staircase(lengths):
        return sum(np.ceil(lengths[..., n] / 8) for n in number) / 5

    keep = CostCurves()(
        analysed.channels, scores_of(analysed, 1.0, 1.0), Budget("latency", 0.6, staircase)
    ).keep
    assert sorted(len(index) for index in keep.values()) in ([8, 16], [0, 24])


@pytest.mark.parametrize(
    ("alignment", "count", "extent", "expected"),
    [
        (Alignment(), 5, Extent(1, False), [1, 2, 3, 4, 5]),
        (Alignment(8), 20, Extent(1, False), [8, 16, 20]),
        (Alignment(8), 5, Extent(1, False), [5]),
        (Alignment(16, 4), 16, Extent(1, False), [4, 8, 12, 16]),
        (Alignment(16, 4), 32, Extent(1, False), [4, 8, 16, 24, 32]),
        (Alignment(16, 4), 70, Extent(1, False), [4, 8, 16, 32, 48, 64, 70]),
        (Alignment(16, 4), 32, Extent(1, True), [4, 8, 16, 32]),
        (Alignment(16, 1), 3, Extent(1, False), [1, 2, 3]),
        (Alignment(16), 12, Extent(64, False), list(range(1, 13))),
        (Alignment(16), 8, Extent(4, False), [4, 8]),
    ],
)
def test_ladders(alignment, count, extent, expected):
    assert alignment.ladder(count, extent).tolist() == expected


def test_spans_count_positions_per_channel():
    """The first group of the first net are whole groups of 4 inputs; a flattened channel is a channel."""
    assert extents_of(GROUPED) == [Extent(4, False), Extent(1, False)]
    assert extents_of(HALVES) == [Extent(1, True), Extent(1, True)], "one position in each of the two groups"


def extents_of(text: str) -> list[Extent]:
    return list(extents(support.analysed(support.model(text)).channels).values())


# --- depth --------------------------------------------------------------------------------------------

DEEP = """net (float[N,3,4,4] x) => (float[N,5,4,4] y)
<float[16,3,1,1] w0, float[24,16,1,1] w1, float[16,24,1,1] w2, float[8,16,1,1] w3, float[20,8,1,1] w4,
 float[16,20,1,1] w5, float[5,16,1,1] w6> {
  s = Conv(x, w0)
  a = Conv(s, w1)  b = Relu(a)  c = Conv(b, w2)  t = Add(s, c)
  d = Conv(t, w3)  e = Relu(d)  f = Conv(e, w4)  g = Relu(f)  h = Conv(g, w5)  u = Add(t, h)
  y = Conv(u, w6)
}"""
TWO_BRANCHES = """net (float[N,3,4,4] x) => (float[N,5,4,4] y)
<float[24,3,1,1] w1, float[16,24,1,1] w2, float[20,3,1,1] w3, float[16,20,1,1] w4, float[5,16,1,1] w5> {
  a = Conv(x, w1)  b = Relu(a)  c = Conv(b, w2)  d = Conv(x, w3)  e = Relu(d)  f = Conv(e, w4)
  s = Add(c, f)  y = Conv(s, w5)
}"""


def allocated(text: str, free: tuple[int, ...], value: float, *, deep: bool = True) -> dict[int, int]:
    """Widths before and after; doing without a group of a width in ``free`` costs next to nothing."""
    model = support.analysed(support.model(text))
    prices = [1e-6 if len(group) in free else 1.0 for group in model.channels.groups]
    budget = replace(budget_of(model, "macs", value), depth=Depth(model.channels) if deep else None)
    found = CostCurves()(model.channels, scores_of(model, *prices), budget)
    assert share(model.channels, found, budget) <= value
    return {len(group): len(found.keep[group.name]) for group in model.channels.groups}


def test_a_group_that_costs_nothing_goes():
    assert allocated(DEEP, (24,), 0.5)[24] == 0
    assert allocated(DEEP, (24,), 0.5, deep=False)[24] == 1, "without depth every group keeps a channel"
    assert allocated(DEEP, (), 0.95)[24] > 0, "nor does one go that is worth its multiplications"


def test_what_nothing_reads_goes_with_it():
    """Of the two groups of a branch that follow one another, the first is of no use without the second."""
    found = allocated(DEEP, (20,), 0.69)
    assert (found[20], found[8]) == (0, 0) and found[24] > 0


def test_branches_of_one_sum_do_not_both_go():
    found = allocated(TWO_BRANCHES, (24, 20), 0.1)
    assert sorted([found[24] == 0, found[20] == 0]) == [False, True]


def test_the_smallest_share_is_that_of_what_can_go_together():
    with pytest.raises(BudgetError) as without:
        allocated(DEEP, (), 0.0001, deep=False)
    with pytest.raises(BudgetError) as deep:
        allocated(DEEP, (), 0.0001)
    smallest = [float(str(e.value).split("smallest width ")[1].split()[0]) for e in (deep, without)]
    assert smallest[0] < smallest[1]


def test_channels_of_equal_value_go_in_the_order_of_the_criterion(analysed):
    """Half of the channels are dead: that they cost the same does not make them one."""
    generator = np.random.default_rng(1)
    values, order = {}, {}
    for group in analysed.channels.groups:
        order[group.name] = generator.permutation(len(group))
        values[group.name] = np.zeros(len(group))
        values[group.name][order[group.name][: len(group) // 2]] = np.arange(len(group) // 2, 0, -1)
    scores = Scores(values, order=order)
    for allocate in ALLOCATIONS.values():
        keep = allocate()(analysed.channels, scores, Budget("ratio", 0.25)).keep
        assert sum(len(index) for index in keep.values()) == 30
        for name, index in keep.items():
            assert set(index) == set(order[name][: len(index)])


def test_of_equal_channels_the_higher_index_is_better():
    scores = Scores(
        {"a": np.array([1.0, 0.0, 1.0]), "b": np.array([2.0, 2.0])}, order={"b": np.array([0, 1])}
    )
    found = scores.best_first()
    assert list(found["a"]) == [2, 0, 1] and list(found["b"]) == [0, 1]

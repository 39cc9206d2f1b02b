"""Several shapes for one budget: the best is taken, by samples that judge nothing, at a bounded price."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support import analysed, model, narrow_digits

import onnxmerge
from onnxmerge import candidates
from onnxmerge.allocation import CostCurves
from onnxmerge.allocation.budget import Budget
from onnxmerge.allocation.cost_curves import Weighing
from onnxmerge.budgets import front, latency, tolerance
from onnxmerge.budgets.front import Ranked, Shaped, distinct, ranked
from onnxmerge.channels.depth import Depth
from onnxmerge.errors import BudgetError
from onnxmerge.outcomes import TriedShape
from onnxmerge.plan import Scores, Selection
from onnxmerge.progress import Clock
from onnxmerge.study import Study

MODELS = Path(__file__).parents[1] / "models"
IMAGES = np.load(MODELS / "digits_calib.npz")["image"]


def of_widths(**widths: int) -> Selection:
    return Selection({name: np.arange(count) for name, count in widths.items()})


def parity(change: float, distance: float) -> SimpleNamespace:
    return SimpleNamespace(change=change, distance=distance)


def test_the_shape_that_answers_best_is_taken():
    """Of two with the same answers the numbers behind them decide."""
    shapes = [Shaped("usual", of_widths(a=4)), Shaped("deep", of_widths(a=0)), Shaped("wide", of_widths(a=6))]
    found = {4: parity(0.02, 0.3), 0: parity(0.02, 0.2), 6: parity(0.03, 0.4)}
    got = ranked(shapes, lambda selection: len(selection.keep["a"]), found.__getitem__, Clock())
    assert [one.shape for one in got.shaped] == ["deep", "usual", "wide"]
    assert got.tried[0] == TriedShape("deep", 1, 0.02, 0.2)


def test_of_equal_shapes_the_usual_one_is_taken():
    shapes = [Shaped("usual", of_widths(a=4)), Shaped("deep", of_widths(a=0))]
    got = ranked(shapes, lambda selection: selection, lambda _: parity(0.0, 0.0), Clock())
    assert got.shaped[0].shape == "usual"


def test_shapes_of_the_same_widths_are_one_and_those_out_of_reach_are_none():
    def select(name: str) -> Selection:
        if name == "narrow":
            raise BudgetError("cannot")
        return of_widths(a=0 if name == "deep" else 4)

    found = distinct(["narrow", "usual", "other", "deep"], select)
    assert [one.shape for one in found] == ["usual", "deep"]
    with pytest.raises(BudgetError, match="cannot"):
        distinct(["narrow"], select)


@dataclass
class Spent:
    """Samples that were fitted to, by candidate, and what was compared on what."""

    fits: list[int]
    measured: list[np.ndarray]
    fitted: list[np.ndarray]


@pytest.fixture
def spent(monkeypatch) -> Spent:
    narrow_digits()  # what that takes does not count
    counts = Spent([], [], [])
    reconstruct, compare = candidates.reconstruct, Study.parity

    def counted(channels, sites, proto, selection, data, *rest, **options):
        counts.fits.append(len(data))
        counts.fitted.append(data.arrays["image"][:])
        return reconstruct(channels, sites, proto, selection, data, *rest, **options)

    def compared(self, session, data):
        counts.measured.append(data.arrays["image"][:])
        return compare(self, session, data)

    monkeypatch.setattr(candidates, "reconstruct", counted)
    monkeypatch.setattr(Study, "parity", compared)
    return counts


def rows(images: np.ndarray) -> set[bytes]:
    return {image.tobytes() for image in images}


@pytest.mark.parametrize("options", [{"macs": 0.5}, {"tolerance": 0.05}])
def test_what_chooses_does_not_judge(spent, options):
    images = np.unique(IMAGES[:256], axis=0)
    report = onnxmerge.optimize(narrow_digits(), calibration=images, **options).report
    *chose, judged = spent.measured
    assert len(chose) > 1 and report["parity"]["samples"] == len(judged)
    assert not rows(judged) & rows(np.concatenate(chose))


def test_what_is_compared_was_not_fitted_to_what_it_is_compared_on(spent):
    images = np.unique(IMAGES[:256], axis=0)
    onnxmerge.optimize(narrow_digits(), calibration=images, macs=0.5)
    *chose, judged = spent.measured
    for fitted in spent.fitted[: len(chose)]:
        assert not rows(fitted) & (rows(judged) | rows(chose[0]))
    # Of the two that come last one is written, fitted to all, and the other one is judged.
    written, tried = sorted(spent.fitted[len(chose) :], key=len, reverse=True)
    assert len(written) == len(images) and not rows(tried) & rows(judged)


@pytest.mark.parametrize("samples", [96, 256, 512])
def test_shapes_take_at_most_as_long_as_the_rest(spent, samples):
    """Counted in samples that candidates are fitted to; the statistics come once."""
    onnxmerge.optimize(narrow_digits(), calibration=IMAGES[:samples], macs=0.5)
    *screened, one, other = spent.fits
    assert screened and samples in (one, other)
    assert sum(screened) <= one + other


def test_one_shape_is_made_once(monkeypatch, spent):
    """Where all shapes come out the same, nothing is compared."""
    usual = lambda self, kind: {"mixed": self, "other": self}  # noqa: E731
    monkeypatch.setattr(CostCurves, "shapes", usual)
    onnxmerge.optimize(narrow_digits(), calibration=IMAGES[:256], macs=0.5)
    assert len(spent.fits) == 2 and len(spent.measured) == 1


@pytest.mark.parametrize("options", [{"samples": 40}, {"calibration": None, "compensation": "none"}])
def test_without_enough_data_the_usual_shape_is_made(spent, options):
    onnxmerge.optimize(narrow_digits(), **{"calibration": IMAGES, "macs": 0.8, "tolerance": 1.0} | options)
    assert len(spent.measured) == 1


def test_the_shape_that_is_taken_is_replayed(monkeypatch):
    """Whatever is measured best is what is written, on one thread and on two."""
    taken = []

    def last_first(*arguments) -> Ranked:
        found = ranked(*arguments)
        assert len(found.shaped) > 1
        turned = Ranked(found.shaped[::-1], found.tried[::-1])
        taken.append(turned.shaped[0].selection)
        return turned

    options = {"calibration": IMAGES[:128], "macs": 0.5}
    usual = onnxmerge.optimize(narrow_digits(), **options)
    monkeypatch.setattr(front, "ranked", last_first)
    results = [onnxmerge.optimize(narrow_digits(), threads=t, **options) for t in (1, 2)]
    one, two = (r.model.SerializeToString(deterministic=True) for r in results)
    assert one == two != usual.model.SerializeToString(deterministic=True)
    keep = results[0].plan.keep
    assert {n: len(k) for n, k in keep.items()} == {n: len(k) for n, k in taken[0].keep.items()}
    again = onnxmerge.optimize(narrow_digits(), calibration=IMAGES[:128], plan=results[0].plan)
    assert again.model.SerializeToString(deterministic=True) == one


# --- a budget in time ---------------------------------------------------------------------------------


def timed(monkeypatch, times: dict[str, float], whole: float = 1.0) -> tuple[str, tuple[TriedShape, ...]]:
    """What is taken where the shapes answer the better the earlier they come, and take these times.

    Args:
        whole: the time with all channels.
    """
    shaped = tuple(Shaped(name, of_widths(a=number)) for number, name in enumerate(times))
    tried = tuple(TriedShape(name, 0, 0.0, number / 10) for number, name in enumerate(times))
    found = Ranked(shaped, tried)

    @dataclass(frozen=True)
    class Priced:
        shape: str = ""
        smallest: float = 0.1

    def nearest(widths, *_):
        if times[widths.shape] > 0.9:
            raise BudgetError(widths.shape)
        return SimpleNamespace(selection=widths.shape, predicted=0.5, usual=times[widths.shape])

    monkeypatch.setattr(latency, "time_of_all", lambda _: whole)
    monkeypatch.setattr(latency, "priced_by_time", lambda *_: Priced())
    monkeypatch.setattr(latency, "best_first", lambda *_: found)
    monkeypatch.setattr(latency, "nearest_to_goal", nearest)
    monkeypatch.setattr(latency.Builder, "of", lambda *_: None)
    study = SimpleNamespace(clock=SimpleNamespace(step=None), samples=None)
    choice = latency.within_latency(study, None, SimpleNamespace(fit=None), 0.6)
    return choice.selection, choice.shapes


def test_nothing_goes_where_all_channels_take_the_time_already(monkeypatch):
    selection, tried = timed(monkeypatch, {"deep": 0.6, "usual": 0.6}, whole=0.6)
    assert not selection.keep and tried == ()


def test_the_best_answers_that_take_the_time_are_taken(monkeypatch):
    assert timed(monkeypatch, {"deep": 0.6, "usual": 0.6})[0] == "deep"
    assert timed(monkeypatch, {"deep": 0.7, "usual": 0.6})[0] == "usual"
    assert timed(monkeypatch, {"deep": 1.0, "usual": 0.65})[0] == "usual"
    assert timed(monkeypatch, {"deep": 0.66, "usual": 0.7})[0] == "deep"
    assert timed(monkeypatch, {"deep": 0.6, "usual": 0.6}, whole=0.7)[0] == "deep"
    taken, tried = timed(monkeypatch, {"deep": 0.8, "usual": 0.6})
    assert taken == "usual" and [one.shape for one in tried] == ["usual", "deep"]
    with pytest.raises(BudgetError, match="deep"):
        timed(monkeypatch, {"deep": 1.0, "usual": 1.0})


# --- the search without a budget ----------------------------------------------------------------------


@dataclass
class Line:
    """Widths by the share of the MACs that they keep; in one shape answers change less than in another."""

    shape: str
    smallest: float = 0.1

    def select(self, share: float) -> Selection:
        return Selection({"g": np.arange(int(1000 * share) + (self.shape == "better"))})

    def share(self, selection: Selection) -> float:
        return len(selection.keep["g"]) // 1 / 1000


@dataclass
class Made:
    data: range
    fits: bool = True

    def of_widths(self, selection: Selection) -> SimpleNamespace:
        return SimpleNamespace(selection=selection, samples=len(self.data))

    def with_samples(self, samples: int) -> Made:
        return replace(self, data=range(samples))


def test_a_search_goes_on_in_the_shape_that_few_samples_choose():
    made = []

    def compare(candidate):
        width = len(candidate.selection.keep["g"])
        better = (width, candidate.samples) in chosen
        made.append((width, candidate.samples))
        change = 0.01 * np.exp(8 * ((0.4 if better else 0.6) - width / 1000))
        return parity(change, change)

    def measure(candidate):
        found = compare(candidate)
        return SimpleNamespace(change=found.change, parity=found)

    class Better(Line):
        def select(self, share: float) -> Selection:
            selection = super().select(share)
            chosen.update((len(selection.keep["g"]), samples) for samples in (48, 384))
            return selection

    chosen: set[tuple[int, int]] = set()
    several = [Better("better")], compare
    found = tolerance.search(Line("usual"), Made(range(384)), measure, 0.01, Clock(), *several)
    assert found is not None and found.share < 0.48
    assert [one.shape for one in found.shapes] == ["better", "usual"]
    assert sum(samples == 384 for _, samples in made) <= tolerance.CONFIRMED
    alone = tolerance.search(Line("usual"), Made(range(384)), measure, 0.01, Clock())
    assert alone is not None and alone.share > found.share and alone.shapes == ()


# --- what makes shapes --------------------------------------------------------------------------------

CHAIN = """net (float[N,3,4,4] x) => (float[N,5,4,4] y)
<float[16,3,1,1] w0, float[24,16,1,1] w1, float[16,24,1,1] w2, float[20,16,1,1] w3, float[16,20,1,1] w4,
 float[5,16,1,1] w5> {
  s = Conv(x, w0)
  a = Conv(s, w1)  b = Relu(a)  c = Conv(b, w2)  t = Add(s, c)
  d = Conv(t, w3)  e = Relu(d)  f = Conv(e, w4)  u = Add(t, f)
  y = Conv(u, w5)
}"""


def widths(weighing: Weighing, value: float = 0.75, measured: float = 1.0) -> dict[int, int]:
    """Widths before and after, where narrower groups cost evenly more, the streams' the most.

    Args:
        measured: at the outputs: what the costs of the group of 24 channels count.
    """
    found = analysed(model(CHAIN))
    values = {g.name: np.ones(len(g)) for g in found.channels.groups}
    curves = {}
    for group in found.channels.groups:
        narrower = np.linspace(1.0, 0.0, len(group) + 1)
        curves[group.name] = narrower**2 * (100.0 if len(group) == 16 else 1.0)
    allocator = CostCurves(weighing=weighing)

    def share(lengths: np.ndarray) -> np.ndarray:
        return found.cost.share("macs", lengths)

    depth = Depth(found.channels) if allocator.empties else None
    scores = Scores(
        values, curves, measured={g.name: measured for g in found.channels.groups if len(g) == 24}
    )
    keep = allocator(found.channels, scores, Budget("macs", value, share, depth)).keep
    return {len(group): len(keep[group.name]) for group in found.channels.groups}


def test_first_layers_lose_more_where_they_count_less():
    usual, first = widths(Weighing(depth=False)), widths(Weighing(first=0.1, depth=False))
    assert first[24] < usual[24] and first[20] > usual[20]


def test_what_was_measured_at_the_outputs_counts_unless_it_is_not_to():
    plain, first = widths(Weighing(depth=False)), widths(Weighing(depth=False), measured=30.0)
    assert first[24] > plain[24]
    assert widths(Weighing(depth=False, measured=False), measured=30.0) == plain


def test_layers_go_where_that_counts_little_and_stay_where_they_must():
    assert 0 in widths(Weighing(gone=0.01), 0.45).values()
    assert 0 not in widths(Weighing(), 0.45).values()
    assert 0 not in widths(Weighing(gone=0.01, depth=False), 0.45).values()


def test_every_allocation_has_shapes_and_the_first_is_the_usual_one():
    for allocation in candidates.ALLOCATIONS.values():
        for kind in ("macs", "params", "latency", "ratio"):
            shapes = allocation().shapes(kind)
            assert shapes and all(type(one) is allocation for one in shapes.values())
    assert next(iter(CostCurves().shapes("macs").values())) == CostCurves()
    assert len(CostCurves().shapes("ratio")) == 1

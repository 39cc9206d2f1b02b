"""Where a detector decides: what places count, the rows that are drawn for it, what a refit makes of them."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import support

from onnxmerge.channels.analysis import Analysis
from onnxmerge.compensation import LeastSquares
from onnxmerge.data import Dataset
from onnxmerge.graph import load
from onnxmerge.plan import Selection
from onnxmerge.reconstruction import reconstruct
from onnxmerge.rewrite import pruned
from onnxmerge.statistics.emphasis import SHARE, Emphasis, drawn
from onnxmerge.validation.judgement import Judgement
from onnxmerge.validation.kinds import Detections, Sequences, Values
from onnxmerge.validation.kinds.heads import Columns, Form, Head, Level
from onnxmerge.validation.places import CELLS, Places


class Answering:
    """A session that gives fixed outputs, a sample at a time where there are fewer inputs."""

    def __init__(self, **outputs: np.ndarray):
        self.outputs = outputs

    def run(self, feed, names):
        count = len(next(iter(feed.values())))
        return {name: self.outputs[name][:count] for name in names}


# --- rows ---------------------------------------------------------------------------------------------


def test_what_places_count_has_a_mean_of_one_on_every_grid():
    places = np.random.default_rng(0).random((3, 40, 40)) ** 4
    emphasis = Emphasis.of([places[:2], places[2:]])
    for grid in [(40, 40), (160, 80), (7, 5)]:
        counts = np.concatenate([emphasis.rows(0, 2, grid), emphasis.rows(1, 1, grid)])
        assert counts.mean() == pytest.approx(1) and counts.min() >= 1 - SHARE
    fine = emphasis.rows(0, 2, (40, 40)).reshape(2, 20, 2, 20, 2).mean((2, 4))
    assert emphasis.rows(0, 2, (20, 20)) == pytest.approx(fine.reshape(-1))


def test_rows_of_a_head_are_no_places():
    picture = Emphasis.of([np.ones((2, 8, 8))])
    assert picture.rows(0, 2, (2100,)) is None and picture.rows(0, 2, (4, 2, 2)) is None
    assert picture.rows(0, 3, (8, 8)) is None and picture.rows(0, 2, ()) is None


@pytest.mark.parametrize("counts", [[None], [np.ones((1, 2, 2)), None], [np.zeros((1, 2, 2))], []])
def test_where_nothing_tells_there_is_no_emphasis(counts):
    assert Emphasis.of(counts) is None


def test_rows_are_drawn_by_what_they_count_and_otherwise_once():
    counts = np.r_[np.full(900, 0.5), np.full(100, 5.5)]
    chosen = drawn(counts, 1000, 500, np.random.default_rng(0))
    assert len(chosen) == 500 and (np.diff(chosen) >= 0).all()
    assert (chosen >= 900).sum() == pytest.approx(275, abs=2)
    assert len(drawn(counts, 1000, 5000, np.random.default_rng(0))) == 1000
    assert (drawn(None, 9, 20, np.random.default_rng(0)) == np.arange(9)).all()
    assert len(set(drawn(None, 90, 20, np.random.default_rng(0)))) == 20


# --- places -------------------------------------------------------------------------------------------


def detections(form: Form = Form.CORNERS) -> Judgement:
    return Judgement(Detections(Head((Level(Columns(0, -1, 0, 4), (Columns(0, -1, 4, 6),)),), form)))


def test_places_count_by_the_surest_box():
    rows = np.zeros((2, 3, 6), np.float32)
    rows[0] = [[0, 0, 80, 40, 0.9, 0.0], [40, 20, 120, 60, 0.0, 0.5], [0, 80, 160, 80, 0.01, 0.0]]
    places = Places({"y": detections()}, Answering(y=rows))
    (found,) = places([{"x": np.zeros((2, 3, 80, 160), np.float32)}], None)
    assert found.shape == (2, CELLS, CELLS) and not found[1].any()
    first, second = np.zeros((2, CELLS, CELLS))
    first[:20, :20], second[10:30, 10:30] = 0.9, 0.5
    assert found[0] == pytest.approx(np.maximum(first, second), abs=1e-6)
    # As shares of the picture, and one sample at a time.
    rows[0, :, :4] /= [160, 80, 160, 80]
    (shares,) = places([{"x": np.zeros((1, 3, 80, 160), np.float32)}], 1)
    assert shares == pytest.approx(found[:1])


def test_an_input_without_axes_goes_with_all_samples():
    places = Places({"y": detections()}, Answering(y=np.zeros((2, 3, 6), np.float32)))
    feed = {"x": np.zeros((2, 3, 8, 8), np.float32), "threshold": np.array(0.5, np.float32)}
    (found,) = places([feed], 1)
    assert found.shape == (2, CELLS, CELLS)


@pytest.mark.parametrize(
    "judged", [Judgement(Values()), Judgement(Sequences(True, 0)), detections(Form.UNKNOWN)]
)
def test_other_outputs_tell_no_places(judged):
    assert Places({"y": judged}, Answering())([{"x": np.zeros((1, 3, 8, 8))}], None) == [None]


# --- a refit ------------------------------------------------------------------------------------------


def test_a_refit_is_better_where_it_is_asked_to_be():
    proto = support.model(
        """net (float[N,2,8,8] x) => (float[N,4,8,8] y)
        <float[12,2,3,3] w1, float[12] b1, float[4,12,1,1] w2> {
          h = Conv<pads=[1,1,1,1]>(x, w1, b1)  r = Relu(h)  y = Conv(r, w2) }"""
    )
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 2, 8, 8)).astype(np.float32)
    where = np.zeros((64, 8, 8))
    for sample, (top, left) in enumerate(rng.integers(0, 7, (64, 2))):
        # Something large and of another kind at a few places.
        x[sample, :, top : top + 2, left : left + 2] = 3 + rng.standard_normal((2, 1, 1))
        where[sample, top : top + 2, left : left + 2] = 1
    data = Dataset("x", arrays={"x": x})
    analysis = Analysis.of(load(proto), partial(support.RUNTIME.trace, feed={"x": x[:1]}))
    (group,) = analysis.channels.groups
    selection = Selection({group.name: np.arange(6)})
    expected = support.RUNTIME.session(proto).run({"x": x})["y"]

    def errors(places) -> tuple[float, float]:
        kept, folds = reconstruct(
            analysis.channels, analysis.sites, analysis.proto, selection, data, support.RUNTIME,
            LeastSquares(), None, None, None, places,
        )  # fmt: skip
        smaller = support.RUNTIME.session(pruned(analysis, kept, folds, None)).run({"x": x})["y"]
        squares = ((smaller - expected) ** 2).mean(1)
        return float(squares[where > 0].mean()), float(squares[where == 0].mean())

    inside, outside = errors(None)
    counted, other = errors(
        lambda feeds, batch: np.split(where, np.cumsum([len(f["x"]) for f in feeds])[:-1])
    )
    assert counted < 0.9 * inside and other >= outside

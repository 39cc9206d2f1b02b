"""What is not held in memory is the same where it is used: samples, pieces of batches, halves of matrices."""

import pickle
from functools import partial

import numpy as np
import pytest
import support

from onnxmerge import limits
from onnxmerge.channels.analysis import Analysis
from onnxmerge.compensation import LeastSquares
from onnxmerge.data import Dataset
from onnxmerge.data.columns import Column, folder_for
from onnxmerge.data.generic import generic_dataset, photographs
from onnxmerge.graph.external_weights import Stored
from onnxmerge.graph.files import load
from onnxmerge.plan import Selection
from onnxmerge.statistics import moments
from onnxmerge.statistics.moments import Accumulator, merged, products, submatrix

VALUES = np.random.default_rng(0).standard_normal((50, 3, 4)).astype(np.float32)


@pytest.fixture
def tiny(monkeypatch):
    """Nothing fits into memory."""
    monkeypatch.setattr(limits, "LIMITS", limits.Limits(data=0, piece=1, waiting=0))


def in_files(values: np.ndarray) -> Column:
    return Column.gathered(np.array_split(values, 7), folder_for(1))


@pytest.mark.parametrize("where", ["memory", "files"])
def test_rows_of_a_column_are_those_of_an_array(where, tiny):
    whole = Column.of(VALUES) if where == "memory" else in_files(VALUES)
    rng = np.random.default_rng(1)
    rows = rng.permutation(50)[:30]
    some = whole.rows(rows)
    again = some.rows(np.arange(5, 20))
    both = Column.joined([some, whole.rows(np.arange(10, 40))])
    for column, expected in (
        (whole, VALUES),
        (some, VALUES[rows]),
        (again, VALUES[rows[5:20]]),
        (both, np.concatenate([VALUES[rows], VALUES[10:40]])),
    ):
        assert (column.shape, column.dtype, column.nbytes) == (
            expected.shape,
            expected.dtype,
            expected.nbytes,
        )
        assert len(column) == len(expected)
        for part in (slice(None), slice(3, 11), slice(2, 2), np.array([4, 1, 9]), np.zeros(0, np.int64)):
            np.testing.assert_array_equal(column[part], expected[part])
        np.testing.assert_array_equal(np.concatenate(list(column.pieces())), expected)
        np.testing.assert_array_equal(np.asarray(column), expected)
    if where == "memory":
        assert np.shares_memory(whole[5:9], VALUES), "neighbours in memory are a view"


def test_data_in_files_are_fed_and_cut_like_those_in_memory(tiny):
    data = Dataset(
        "numbers", arrays={"x": VALUES, "k": np.float32(2)[()] * np.ones(3)}, shared=frozenset("k")
    )
    stored = data.in_files()
    assert all(isinstance(store, Stored) for store in stored.arrays["x"]._stores)
    pairs = zip((data, *data.split(0.3, 4)), (stored, *stored.split(0.3, 4)), strict=True)
    for one, other in pairs:
        for expected, found in zip(one.feeds(8), other.feeds(8), strict=True):
            assert expected.keys() == found.keys()
            for name, values in expected.items():
                np.testing.assert_array_equal(found[name], values)


def test_small_data_stay_where_they_are():
    data = Dataset("numbers", arrays={"x": VALUES})
    assert data.in_files() is data


def test_photographs_in_files_are_the_same(monkeypatch):
    proto = support.model("""net (float[N,3,40,40] x) => (float[N,4] y) <float[4,3,3,3] w> {
      h = Conv(x, w)  m = GlobalAveragePool(h)  y = Flatten(m) }""")
    inputs = support.RUNTIME.session(proto).inputs

    def found():
        made = generic_dataset(proto, inputs, support.RUNTIME, samples=24)
        return [feed["x"] for part in (made.fit, made.fresh) for feed in part.feeds()]

    expected = found()
    monkeypatch.setattr(limits, "LIMITS", limits.Limits(data=0))
    for one, other in zip(expected, found(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert photographs._pack.cache_info().currsize == 0, "the pictures are let go"


@pytest.mark.parametrize("features", [0, 5, 256, 257, 700])
def test_halves_of_a_covariance_are_the_whole_to_the_last_bit(features, monkeypatch):
    def found(narrow: int):
        monkeypatch.setattr(moments, "_NARROW", narrow)
        rng, several = np.random.default_rng(2), (Accumulator(), Accumulator())
        for weight in (1.0, 2.0):
            for total in several:
                x, t = (rng.standard_normal((20, n)).astype(np.float32) for n in (features, 4))
                shift = np.zeros(features, np.float32), np.zeros(4, np.float32)
                total.add(products(x, t, shift, weight))
        parts = [total.moments() for total in several]
        every, some = np.arange(features), np.arange(features)[::3]
        return [submatrix(m.gram, rows) for m in (*parts, merged(parts)) for rows in (every, some)]

    whole, halves = found(features), found(-1)
    for one, other in zip(whole, halves, strict=True):
        np.testing.assert_array_equal(one, other)


CONVOLUTIONS = """net (float[N,3,8,8] x) => (float[N,5] y)
<float[16,3,3,3] w1, float[16,1,3,3] w2, float[16,16,1,1] w3, float[5,16] w4> {
  h = Conv<pads=[1,1,1,1]>(x, w1)  a = Relu(h)
  d = Conv<pads=[1,1,1,1], group=16>(a, w2)  b = Relu(d)
  p = Conv(b, w3)  s = Add(p, a)  r = Relu(s)
  m = GlobalAveragePool(r)  f = Flatten(m)  y = Gemm<transB=1>(f, w4)
}"""
# The samples are on the second axis of what layers read, and one operand is the same for all.
TIME_FIRST = """net (float[N,6,8] x) => (float[N,6,5] y)
<float[6,1,4] e, float[4,8] w0, float[8,24] w1, float[24,24] w2, float[24,5] w3> {
  t = Transpose<perm=[1,0,2]>(x)  k = MatMul(e, w0)  z = Add(t, k)
  h = MatMul(z, w1)  a = Relu(h)  g = MatMul(a, w2)  b = Relu(g)
  o = MatMul(b, w3)  y = Transpose<perm=[1,0,2]>(o)
}"""


@pytest.mark.parametrize(
    ("text", "shape", "patches"),
    [(CONVOLUTIONS, (3, 8, 8), 3000), (CONVOLUTIONS, (3, 8, 8), 140), (TIME_FIRST, (6, 8), 3000)],
)
def test_batches_that_run_in_pieces_give_the_same_weights(text, shape, patches, monkeypatch):
    x = np.random.default_rng(3).standard_normal((200, *shape)).astype(np.float32)
    data = Dataset("numbers", arrays={"x": x})
    analysis = Analysis.of(load(support.model(text)), partial(support.RUNTIME.trace, feed={"x": x[:1]}))
    half = Selection({g.name: np.arange(len(g) // 2) for g in analysis.channels.groups})

    def found() -> list[np.ndarray]:
        fitted = LeastSquares(patches=patches)
        _, folds = support.reconstructed(analysis, half, data, compensation=fitted)
        return [v for fold in folds for v in (fold.weight, fold.bias) if v is not None]

    whole = found()
    monkeypatch.setattr(limits, "LIMITS", limits.Limits(piece=1))
    pieces = found()
    assert len(whole) == len(pieces)
    for one, other in zip(whole, pieces, strict=True):
        if text == CONVOLUTIONS:
            np.testing.assert_array_equal(one, other)
        # Rows come in another order where the samples are not first, and others of them are held out.
        assert np.linalg.norm(one - other) < 0.1 * np.linalg.norm(one)


def test_a_column_is_read_like_an_array_and_copied_with_its_values(tiny):
    column = in_files(VALUES)
    assert np.array_equal(column[-1], VALUES[-1]) and np.array_equal(list(column), VALUES)
    copied = pickle.loads(pickle.dumps(column))
    del column
    assert np.array_equal(copied[:], VALUES)

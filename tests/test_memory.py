"""What is not held in memory is the same where it is used: samples, pieces of batches, halves of matrices."""

import numpy as np
import pytest
import support

import onnxmerge
from onnxmerge import limits
from onnxmerge.data import Dataset
from onnxmerge.data.columns import Column, folder_for
from onnxmerge.data.generic import generic_dataset, photographs
from onnxmerge.graph.external_weights import Stored
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
    ("text", "shape", "exact"), [(CONVOLUTIONS, (3, 8, 8), True), (TIME_FIRST, (6, 8), False)]
)
def test_batches_that_run_in_pieces_give_the_same_weights(text, shape, exact, monkeypatch):
    x = np.random.default_rng(3).standard_normal((200, *shape)).astype(np.float32)
    options = {"macs": 0.6, "calibration": x, "patches": 3000, "threads": 1, "align": 1}

    def found():
        result = onnxmerge.optimize(support.model(text), **options)
        return result.model.SerializeToString(), result.report.parity.relative_error

    whole = found()
    monkeypatch.setattr(limits, "LIMITS", limits.Limits(data=0, piece=1, waiting=0))
    pieces = found()
    if exact:
        assert whole == pieces
    assert pieces[1] == pytest.approx(whole[1], rel=0.1)

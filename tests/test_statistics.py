"""Dense statistics against plain numpy, and running a model in segments against running it whole."""

from __future__ import annotations

import numpy as np
import pytest
import support
from onnx import numpy_helper

from onnxmerge import limits
from onnxmerge.channels.residual import destination
from onnxmerge.channels.sensitivity import output_sensitivity
from onnxmerge.channels.sites import fold_sites
from onnxmerge.criteria import Reconstruction
from onnxmerge.data import Dataset
from onnxmerge.data.batching import batches_of, open_batch
from onnxmerge.data.columns import read as values_of
from onnxmerge.errors import UsageError
from onnxmerge.runtime.partial import Segments
from onnxmerge.statistics import dense as statistics
from onnxmerge.statistics.moments import AxisSums

TEXT = """net (float[BATCH,3,6,6] x) => (float[BATCH,5] y)
<float[8,3,3,3] w1, float[4,8,1,1] w2, float[4] scale, float[4] shift, float[4] mean, float[4] var,
 float[4,3,1,1] w3, float[5,144] w4> {
  h = Conv<pads=[1,1,1,1]>(x, w1)
  a = Relu(h)
  g = Conv(a, w2)
  n = BatchNormalization(g, scale, shift, mean, var)
  s = Conv(x, w3)
  t = Add(n, s)
  r = Relu(t)
  f = Flatten(r)
  y = Gemm<transB=1>(f, w4)
}"""
FEED = {"x": np.random.default_rng(0).standard_normal((40, 3, 6, 6)).astype(np.float32)}


@pytest.fixture(scope="module")
def analysed():
    return support.analysed(support.model(TEXT.replace("BATCH", "N")), {"x": FEED["x"][:1]})


def collected(analysed, **options):
    sites = fold_sites(analysed.channels)
    data = Dataset("random", arrays=FEED)
    sensitivity = output_sensitivity(analysed.channels, sites)
    return sites, statistics.collect(
        analysed.channels, sites, sensitivity, analysed.proto, data, support.RUNTIME, **options
    )


def values(analysed, *names: str) -> list[np.ndarray]:
    return list(support.RUNTIME.values(analysed.proto, FEED, names).values())


def test_means_and_variances(analysed):
    sites, found = collected(analysed)
    a, t, f = values(analysed, "a", "t", "f")
    by_tensor = {site.data.tensor: site for site in sites}
    np.testing.assert_allclose(found.mean(by_tensor["a"]), a.mean(axis=(0, 2, 3)), atol=1e-5)
    np.testing.assert_allclose(found.mean(by_tensor["f"]), f.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(found.variance("t", 1), t.var(axis=(0, 2, 3)), rtol=1e-4)
    assert found.samples == 40


def test_covariances_of_receptive_fields(analysed):
    sites, found = collected(analysed, patches=10**6)
    (a,) = values(analysed, "a")
    site = next(s for s in sites if s.data.tensor == "a")
    expected = np.cov(a.transpose(0, 2, 3, 1).reshape(-1, 8).T, bias=True)
    np.testing.assert_allclose(found.features[site.node.index].grams[0].square, expected, atol=1e-4)


def test_many_covariances_are_held_in_single_precision(analysed, monkeypatch):
    _, double = collected(analysed)
    monkeypatch.setattr(limits, "LIMITS", limits.Limits(covariances=0))
    _, single = collected(analysed)
    for index, features in single.features.items():
        for gram, expected in zip(features.grams, double.features[index].grams, strict=True):
            assert gram.square.dtype == np.float32 and expected.square.dtype == np.float64
            np.testing.assert_allclose(gram.square, expected.square, rtol=1e-4, atol=1e-5)
    scores, others = (Reconstruction()(analysed.channels, found) for found in (single, double))
    for name, curve in others.curves.items():
        np.testing.assert_allclose(scores.curves[name], curve, rtol=1e-3, atol=1e-6)


def test_where_the_output_of_a_site_goes(analysed):
    site = next(s for s in fold_sites(analysed.channels) if s.data.tensor == "a")
    to = destination(site)
    g, t, s = values(analysed, "g", "t", "s")
    assert (to.total, to.other) == ("t", "s")
    shape = (1, -1, 1, 1)
    np.testing.assert_allclose(to.scale.reshape(shape) * g + to.shift.reshape(shape) + s, t, atol=1e-4)


@pytest.mark.parametrize("limit", ["MOST_FEATURES", "MOST_POSITIONS"])
def test_large_receptive_fields_are_described_more_coarsely(analysed, limit, monkeypatch):
    for name in ("MOST_FEATURES", "MOST_POSITIONS") if limit == "MOST_POSITIONS" else (limit,):
        monkeypatch.setattr(statistics, name, 5)
    _, found = collected(analysed)
    scores = Reconstruction()(analysed.channels, found)
    for group in analysed.channels.groups:
        assert np.isfinite(scores.values[group.name]).all()
        assert np.all(np.diff(scores.curves[group.name]) <= 0)
        assert scores.curves[group.name][0] > 0


def test_the_criterion_needs_statistics(analysed):
    with pytest.raises(UsageError, match="calibration"):
        Reconstruction()(analysed.channels, None)


def read(segments, names):
    with segments.read(names) as reading:
        return [reading(batch) for batch in range(len(segments))]


@pytest.mark.parametrize("keep_bytes", [0, 1 << 30])
def test_segments_give_what_the_whole_model_gives(analysed, keep_bytes):
    wanted = ["a", "g", "t", "s", "f"]
    batches = list(Dataset("random", arrays=FEED).feeds(16))
    segments = Segments(analysed.proto, batches, support.RUNTIME, wanted, keep_bytes)
    whole = dict(zip(wanted, values(analysed, *wanted), strict=True))
    for names in (["a"], ["t", "g"], ["f", "s"]):
        parts = read(segments, names)
        for name in names:
            joined = np.concatenate([part[name] for part in parts])
            np.testing.assert_allclose(joined, whole[name], rtol=1e-4, atol=1e-4)


def test_a_stored_constant_is_read_like_any_tensor_and_is_the_same_in_every_batch(analysed):
    batches = list(Dataset("random", arrays=FEED).feeds(16))
    segments = Segments(analysed.proto, batches, support.RUNTIME, ["w2", "x", "a"])
    weight = segments.constant("w2")
    for names in (["w2"], ["w2", "x", "a"]):
        parts = read(segments, names)
        assert all(np.array_equal(part["w2"], weight) for part in parts)
    assert np.array_equal(np.concatenate([part["x"] for part in parts]), FEED["x"])
    segments.set_constant("w2", weight + 1)
    assert np.array_equal(read(segments, ["w2"])[0]["w2"], weight + 1)


def test_edited_segments(analysed):
    batches = list(Dataset("random", arrays=FEED).feeds(16))
    segments = Segments(analysed.proto, batches, support.RUNTIME, ["a", "g"])
    a = np.concatenate([part["a"] for part in read(segments, ["a"])])
    node = next(n for n in analysed.channels.view if n.y[0].name == "g")
    segments.set_constant("w2", np.ones((4, 8, 1, 1), np.float32))
    segments.add_to_output(node.index, np.arange(4, dtype=np.float32).reshape(1, 4, 1, 1))
    mask = np.array([0, 1, 1, 1, 1, 1, 1, 1], np.float32).reshape(1, 8, 1, 1)
    segments.scale_input(node.index, 0, mask)
    g = np.concatenate([part["g"] for part in read(segments, ["g"])])
    expected = (a * mask).sum(axis=1, keepdims=True) + np.arange(4).reshape(1, 4, 1, 1)
    np.testing.assert_allclose(g, expected, atol=1e-4)


def test_a_batch_of_one_is_opened_where_that_changes_nothing():
    proto = support.model(TEXT.replace("BATCH", "1"))
    data = Dataset("random", arrays=FEED, batch=1)
    analysed = support.analysed(proto, {"x": FEED["x"][:1]})
    opened, feeds_, _ = batches_of(analysed.proto, data, support.RUNTIME, analysed.channels.view.shapes)
    assert len(feeds_) < 40
    together = np.concatenate([support.RUNTIME.session(opened).run(values_of(f))["y"] for f in feeds_])
    session = support.RUNTIME.session(proto)
    single = np.concatenate([session.run({"x": x[None]})["y"] for x in FEED["x"]])
    np.testing.assert_allclose(together, single, rtol=1e-3, atol=1e-3)


def test_a_batch_that_is_mixed_stays_one():
    proto = support.model("""net (float[1,3] x) => (float[1,3] y) <float[3,3] w> {
      h = MatMul(x, w)
      m = ReduceMean<axes=[0], keepdims=1>(h)
      y = Sub(h, m)
    }""")
    data = Dataset("random", arrays={"x": FEED["x"][:, :, 0, 0]}, batch=1)
    _, feeds_, _ = batches_of(proto, data, support.RUNTIME, {"x": (1, 3)})
    assert len(feeds_) == 40
    assert open_batch(proto) is not proto


@pytest.mark.parametrize("shape", [(3, 4, 5, 2), (3, 4), (4,), (0, 4, 5), (3, 4, 0)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64])
def test_sums_of_any_shape(shape, dtype):
    values = (10 * np.random.default_rng(0).standard_normal(shape)).astype(dtype)
    axis = shape.index(4)
    found = AxisSums.of(values, axis)
    rows = np.moveaxis(values, axis, -1).reshape(values.size // 4, 4).astype(np.float64)
    assert found.count == len(rows)
    np.testing.assert_allclose(found.sum, rows.sum(0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.squares, (rows**2).sum(0), rtol=1e-5)


def test_several_inputs_of_one_node_are_scaled():
    """A recurrent layer sums over its data and over its own states."""
    proto = support.model("""g (float[N,7,5] x) => (float[N,1,7,8] y)
        <float[1,32,5] w, float[1,32,8] r> { y = LSTM<hidden_size = 8>(x, w, r) }""")
    feed = {"x": np.random.default_rng(0).standard_normal((3, 7, 5)).astype(np.float32)}
    masks = {0: np.float32([1, 0, 1, 0, 1]), 2: np.float32([1, 1, 0, 1, 1, 0, 1, 1])}
    segments = Segments(proto, [feed], support.RUNTIME, ["y"])
    for operand, mask in masks.items():
        segments.scale_input(0, operand, mask)
    with segments.read(["y"]) as values:
        found = values(0)["y"]
    weight = proto.graph.initializer[1]
    masked = numpy_helper.to_array(weight) * masks[2]
    weight.CopyFrom(numpy_helper.from_array(masked, weight.name))
    expected = support.RUNTIME.session(proto).run({"x": feed["x"] * masks[0]})["y"]
    np.testing.assert_allclose(found, expected, atol=1e-6)

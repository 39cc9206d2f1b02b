"""The walk where data or graphs are unusual: nothing in a batch, scalars, vectors, few rows, two groups."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import support
from onnx import numpy_helper

import onnxmerge
from onnxmerge import rewrite
from onnxmerge.channels.analysis import Analysis
from onnxmerge.compensation.least_squares import lowest
from onnxmerge.data import Dataset
from onnxmerge.graph import load
from onnxmerge.plan import Selection
from onnxmerge.runtime import Runtime
from onnxmerge.statistics.pieces import RowSample

RNG = np.random.default_rng(0)
TWO_LAYERS = """net ({0} x) => ({1} y) <float[16,32] w, float[32,5] v> {{
    h = MatMul(x, w)  a = Relu(h)  y = MatMul(a, v) }}"""
BRANCHES = """net (float[N,3,8,8] x) => (float[N,5,8,8] y)
    <float[8,3,3,3] w1, float[8,3,3,3] w2, float[5,16,1,1] w3> {
    h = Conv<pads = [1,1,1,1]>(x, w1)  k = Conv<pads = [1,1,1,1]>(x, w2)
    a = Relu(h)  b = Relu(k)  c = Concat<axis = 1>(a, b)  y = Conv(c, w3) }"""


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape, dtype=np.float32)


def halved(proto, feed, data: Dataset, runtime: Runtime = support.RUNTIME):
    """The model with every group at half its width."""
    subject = Analysis.of(load(proto), partial(runtime.trace, feed=feed))
    half = Selection({g.name: np.arange(len(g) // 2) for g in subject.channels.groups})
    return rewrite.pruned(subject, *support.reconstructed(subject, half, data, runtime))


def test_what_one_branch_loses_the_other_keeps():
    proto = support.model(BRANCHES)
    weights = {t.name: t for t in proto.graph.initializer}
    copied = numpy_helper.to_array(weights["w1"])[RNG.permutation(8)]
    weights["w2"].CopyFrom(numpy_helper.from_array(copied, "w2"))
    x = normal(96, 3, 8, 8)
    small = halved(proto, {"x": x[:1]}, Dataset("random", arrays={"x": x}))
    before, after = (support.RUNTIME.session(m).run({"x": x})["y"] for m in (proto, small))
    assert np.linalg.norm(after - before) < 1e-4 * np.linalg.norm(before)


def test_threads_change_nothing():
    x = normal(200, 3, 8, 8)
    data, proto = Dataset("random", arrays={"x": x}), support.model(BRANCHES)
    models = [halved(proto, {"x": x[:1]}, data, Runtime.create("cpu", n)) for n in (1, 3)]
    for one, three in zip(*(m.graph.initializer for m in models), strict=True):
        np.testing.assert_allclose(
            numpy_helper.to_array(one), numpy_helper.to_array(three), rtol=1e-4, atol=1e-5
        )


def test_few_rows_behind_a_shared_weight():
    text = """net (float[N,6] x, float[N,6] z) => (float[N,5] y) <float[6,4096] w, float[4096,5] v> {
        h = MatMul(x, w)  k = MatMul(z, w)  a = Relu(h)  c = Relu(k)
        d = MatMul(a, v)  e = MatMul(c, v)  y = Sub(d, e) }"""
    feed = {name: normal(64, 6) for name in "xz"}
    small = halved(support.model(text), {n: v[:1] for n, v in feed.items()}, Dataset("random", arrays=feed))
    assert np.isfinite(support.RUNTIME.session(small).run(feed)["y"]).all()


@pytest.mark.parametrize("nothing", [(1, 0, 16), (0, 3, 16)])
def test_a_first_batch_without_rows(nothing):
    proto = support.model(TWO_LAYERS.format("float[N,T,16]", "float[N,T,5]"))
    feeds = [{"x": normal(1, 5 + i % 7, 16)} for i in range(40)]
    data = Dataset("random", ready=({"x": np.zeros(nothing, np.float32)}, *feeds))
    small = halved(proto, feeds[0], data)
    assert np.isfinite(support.RUNTIME.session(small).run(feeds[0])["y"]).all()


def test_vectors():
    proto = support.model(TWO_LAYERS.format("float[16]", "float[5]"))
    result = onnxmerge.optimize(proto, macs=0.5, calibration=[{"x": normal(16)} for _ in range(64)])
    assert result.report["parity"]["relative_error"] < 1


def test_a_scalar_beside_the_samples():
    text = """net (float g, float[N,16] x) => (float[N,5] y) <float[16,32] w, float[32,5] v> {
        q = Mul(x, g)  h = MatMul(q, w)  a = Relu(h)  y = MatMul(a, v) }"""
    data = {"g": np.float32(1.5), "x": normal(256, 16)}
    result = onnxmerge.optimize(support.model(text), macs=0.5, calibration=data)
    assert result.report["parity"]["relative_error"] < 1


def test_every_fourth_sample_is_held_out():
    sample = RowSample(per_batch=100, batches=2, samples=16, seed=(0,))
    rows, cut = sample.of(8, (2,), batch=0)
    assert sorted(rows[cut:]) == [6, 7, 14, 15] and sorted(rows) == list(range(16))
    assert [len(sample.of(1, (4,), batch)[0]) - sample.of(1, (4,), batch)[1] for batch in range(8)] == [
        0,
        0,
        0,
        4,
    ] * 2
    assert len(sample.of(100, (10,), batch=1)[0]) == 100


def test_a_covariance_takes_enough_rows():
    assert RowSample(100, 2, 16, (0,)).supports_covariance(1000, each=1)
    assert not RowSample(63, 16, 512, (0,)).supports_covariance(4096, each=64)
    assert RowSample(63, 64, 512, (0,)).supports_covariance(4096, each=64)


@pytest.mark.parametrize("best", range(5))
def test_downhill(best):
    asked = []
    assert lowest(lambda v: asked.append(v) or abs(v - best), range(5), 1) == best
    assert len(asked) == len(set(asked))


# A map of places beside the picture: the layers over it depend on nothing but stored values.
PLACES = """net (float[N,3,8,8] x) => (float[N,5,8,8] y)
    <float[16,3,3,3] w1, float[12,16,1,1] w2, float[1,2,8,8] places, float[8,2,1,1] u1, float[8] b,
    float[12,8,1,1] u2, float[16,12,1,1] v1, float[5,16,1,1] v2> {
    h = Conv<pads = [1,1,1,1]>(x, w1)  a = Relu(h)  k = Conv(a, w2)
    p = Conv(places, u1, b)  q = Relu(p)  r = Conv(q, u2)
    s = Add(BRANCHES)  m = Conv(s, v1)  n = Relu(m)  y = Conv(n, v2) }"""


@pytest.mark.parametrize("branches", ["k, r", "r, k"])
@pytest.mark.parametrize("allocation", ["auto", "uniform", "global"])
@pytest.mark.parametrize("compensation", ["auto", "bias", "gaussian"])
def test_layers_over_stored_constants(branches: str, allocation: str, compensation: str):
    """What such a layer reads is a constant of the file, and as long as one sample."""
    proto = support.model(PLACES.replace("BRANCHES", branches))
    x = normal(96, 3, 8, 8)
    options = {"allocation": allocation, "compensation": compensation, "threads": 1}
    result = onnxmerge.optimize(proto, macs=0.6, calibration=x, **options)
    groups = {group["name"]: group for group in result.report["groups"]}
    assert "Conv:p" in groups
    assert any(group["after"] < group["before"] for group in groups.values())
    assert result.report["parity"]["relative_error"] < 1


def test_only_a_layer_over_stored_constants_is_cut():
    """Its new weights are fitted to what the constants make of it, the same for every sample."""
    proto = support.model(PLACES.replace("BRANCHES", "k, r"))
    x = normal(96, 3, 8, 8)
    result = onnxmerge.optimize(proto, params=0.95, calibration=x, threads=1, only=["q"])
    groups = {group["name"]: group for group in result.report["groups"]}
    assert [name for name, g in groups.items() if g["after"] < g["before"]] == ["Conv:p#2"]
    assert result.report["parity"]["relative_error"] < 0.2

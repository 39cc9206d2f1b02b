"""Depth is width zero: which groups may be left without a channel, and what is left of the graph then."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import support

import onnxmerge
from onnxmerge import rewrite
from onnxmerge.channels.analysis import Analysis
from onnxmerge.channels.depth import Depth
from onnxmerge.data import Dataset
from onnxmerge.graph import load
from onnxmerge.plan import Selection

SHARED = Path(__file__).parents[2] / "shared" / "models"

RESIDUAL = """g (float[N,3,6,6] x) => (float[N,2,6,6] y)
    <float[4,3,1,1] w0, float[8,4,3,3] w1, float[8] b1, float[4,8,3,3] w2, float[4] scale, float[4] shift,
     float[4] mean, float[4] var, float[2,4,1,1] w3> {
    s = Conv(x, w0)
    a = Conv<pads = [1, 1, 1, 1]>(s, w1, b1)  h = Relu(a)
    c = Conv<pads = [1, 1, 1, 1]>(h, w2)  n = BatchNormalization(c, scale, shift, mean, var)
    t = Add(n, s)  r = Relu(t)  y = Conv(r, w3) }"""
SHIFTED = RESIDUAL.replace("s = Conv(x, w0)", "p = Conv(x, w0)  s = Relu(p)")
PLAIN_SUM = """g (float[N,3,6,6] x) => (float[N,2,6,6] y)
    <float[4,3,1,1] w0, float[8,4,3,3] w1, float[4,8,3,3] w2, float[2,4,1,1] w3> {
    s = Conv(x, w0)  q = Relu(s)
    a = Conv<pads = [1, 1, 1, 1]>(q, w1)  h = Relu(a)  c = Conv<pads = [1, 1, 1, 1]>(h, w2)
    t = Add(c, q)  r = Relu(t)  y = Conv(r, w3) }"""
INVERTED = """g (float[N,3,6,6] x) => (float[N,2,6,6] y)
    <float[4,3,1,1] w0, float[8,4,1,1] w1, float[8] b1, float[8,1,3,3] d, float[8] bd, float[4,8,1,1] w2,
     float[4] b2, float[2,4,1,1] w3> {
    s = Conv(x, w0)
    a = Conv(s, w1, b1)  h = Relu(a)
    e = Conv<group = 8, pads = [1, 1, 1, 1]>(h, d, bd)  f = Relu(e)
    c = Conv(f, w2, b2)  t = Add(s, c)  r = Relu(t)  y = Conv(r, w3) }"""
SHORTCUT = """g (float[N,3,6,6] x) => (float[N,2,4,4] y)
    <float[8,3,3,3] w1, float[4,8,1,1] w2, float[4] b2, float[4,3,3,3] ws, float[2,4,1,1] w3> {
    a = Conv(x, w1)  h = Relu(a)  c = Conv(h, w2, b2)
    s = Conv(x, ws)  t = Add(c, s)  r = Relu(t)  y = Conv(r, w3) }"""
FEED_FORWARD = """g (float[N,T,6] x) => (float[N,T,5] y)
    <float[6,6] w0, float[6,12] w1, float[12] b1, float[12,6] w2, float[6] b2, float[6,5] w3> {
    s = MatMul(x, w0)
    a = MatMul(s, w1)  b = Add(a, b1)  h = Tanh(b)  c = MatMul(h, w2)  d = Add(c, b2)
    t = Add(s, d)  y = MatMul(t, w3) }"""
DENSE = """g (float[N,3,6,6] x) => (float[N,2,6,6] y)
    <float[4,3,1,1] w0, float[8,4,1,1] w1, float[3,8,3,3] w2, float[3] b2, float[2,7,3,3] w3> {
    s = Conv(x, w0)  a = Conv(s, w1)  h = Relu(a)  c = Conv<pads = [1, 1, 1, 1]>(h, w2, b2)
    t = Concat<axis = 1>(s, c)  r = Relu(t)  y = Conv<pads = [1, 1, 1, 1]>(r, w3) }"""
SQUEEZE = """g (float[N,3,6,6] x) => (float[N,2,6,6] y)
    <float[4,3,1,1] w0, float[3,4,1,1] w1, float[3] b1, float[4,3,1,1] w2, float[4] b2, float[2,4,1,1] w3> {
    s = Conv(x, w0)  p = GlobalAveragePool(s)  a = Conv(p, w1, b1)  h = Relu(a)  c = Conv(h, w2, b2)
    g = Sigmoid(c)  t = Mul(s, g)  y = Conv(t, w3) }"""
CHAIN = """g (float[N,3,6,6] x) => (float[N,2,6,6] y)
    <float[4,3,1,1] w0, float[8,4,3,3] w1, float[5,8,1,1] w2, float[5] b2, float[4,5,1,1] w3, float[4] b3,
     float[2,4,1,1] w4> {
    s = Conv(x, w0)  a = Conv<pads = [1, 1, 1, 1]>(s, w1)  h = Relu(a)
    c = Conv(h, w2, b2)  i = Tanh(c)  d = Conv(i, w3, b3)  t = Add(s, d)  y = Conv(t, w4) }"""
POOLED = """g (float[N,3,6,6] x, float[N,3] z) => (float[N,2] y)
    <float[8,3,1,1] w1, float[5,8,1,1] w2, float[5] b2, float[5,4] w3, float[4] b3, float[3,4] w4,
     float[4,2] w5> {
    a = Conv(x, w1)  h = Relu(a)  c = Conv(h, w2, b2)  i = Sigmoid(c)
    m = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(i)  p = GlobalAveragePool(m)  f = Flatten(p)
    d = Gemm(f, w3, b3)  s = MatMul(z, w4)  t = Add(d, s)  y = MatMul(t, w5) }"""


def ops(model: onnx.ModelProto) -> str:
    return " ".join(node.op_type for node in model.graph.node)


def without(*names: str) -> Selection:
    return Selection({name: np.zeros(0, dtype=np.int64) for name in names})


def names_of(model: support.Analysed, widths: list[int]) -> list[str]:
    """The groups of these widths, each of another one."""
    by_width = {len(group): group.name for group in model.channels.groups}
    return [by_width[width] for width in widths]


@pytest.mark.parametrize(
    ("text", "widths", "left"),
    [
        pytest.param(RESIDUAL, [8], "Conv Relu Conv", id="residual block"),
        pytest.param(SHIFTED, [8], "Conv Relu BatchNormalization Relu Conv", id="behind an activation"),
        pytest.param(PLAIN_SUM, [8], "Conv Relu Conv", id="residual block without biases"),
        pytest.param(INVERTED, [8], "Conv Relu Conv", id="inverted residual"),
        pytest.param(SHORTCUT, [8], "Conv Relu Conv", id="into the bias of a shortcut"),
        pytest.param(FEED_FORWARD, [12], "MatMul Add MatMul", id="feed-forward branch"),
        pytest.param(DENSE, [3], "Conv Relu Conv", id="an operand of a Concat"),
        pytest.param(SQUEEZE, [3], "Conv Mul Conv", id="squeeze and excite"),
        pytest.param(CHAIN, [8], "Conv Conv", id="a constant goes on through a 1x1 convolution"),
        pytest.param(CHAIN, [5], "Conv Conv", id="what only it read goes with it"),
        pytest.param(POOLED, [8], "MatMul Add MatMul", id="a constant goes on through pooling and Gemm"),
    ],
)
def test_what_is_left(text: str, widths: list[int], left: str):
    """The layers of an emptied group are gone, and the model answers like its masked reference."""
    model = support.analysed(support.model(text), sizes=1)
    model = replace(model, feed=support.random_feed(support.RUNTIME.session(model.proto)))
    names = names_of(model, widths)
    assert set(names) <= set(Depth(model.channels).names)
    for selection in (without(*names), Selection(model.selection(1).keep | without(*names).keep)):
        assert support.difference(model, selection) <= support.TOLERANCE
        assert support.difference(model, selection, folds=model.folds(0)) <= support.TOLERANCE
    folded = support.difference(model, without(*names), folds=model.folds(3))
    assert folded <= support.TOLERANCE
    assert ops(model.prune(without(*names))) == left


@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param(
            """g (float[N,3,6,6] x) => (float[N,2,6,6] y)
            <float[8,3,1,1] w1, float[4,8,1,1] w2, float[4] b2, float[4,4,3,3] w3, float[2,4,1,1] w4> {
            s = Conv(x, w1)  a = Conv(s, w2, b2)  h = Relu(a)
            c = Conv<pads = [1, 1, 1, 1]>(h, w3)  t = Add(c, c)  y = Conv(t, w4) }""",
            "a constant has borders behind a padded convolution, and nothing else reaches the output",
            id="borders",
        ),
        pytest.param(
            """g (float[N,3,6,6] x) => (float[N,2,6,6] y)
            <float[5,3,1,1] w0, float[8,5,1,1] w1, float[4,8,1,1] w2, float[4] b2, float[5,4,3,3] w3,
             float[2,5,1,1] w4> {
            s = Conv(x, w0)  i = Conv(s, w1)  a = Conv(i, w2, b2)  h = Relu(a)
            c = Conv<pads = [1, 1, 1, 1]>(h, w3)  t = Add(c, s)  y = Conv(t, w4) }""",
            "of the three groups of the branch only the last one leaves nothing to pad",
            id="borders before a sum",
        ),
        pytest.param(
            "g (float[N,3] x) => (float[N,2] y) <float[3,8] w1, float[8,2] w2> { h = MatMul(x, w1)"
            " y = MatMul(h, w2) }",
            "nothing but a constant would be left",
            id="graph output",
        ),
    ],
)
def test_what_stays(text: str, why: str):
    model = support.analysed(support.model(text))
    found = set(Depth(model.channels).names)
    expected = set(names_of(model, [4])) if "last one" in why else set()
    assert found == expected, why


def test_a_residual_stream_stays():
    """Also where another branch would go on without it."""
    model = support.analysed(
        support.model(
            """g (float[N,3] x) => (float[N,2] y)
            <float[3,8] w0, float[8,5] w1, float[5,8] w2, float[8,6] w3, float[3,6] w4, float[6,2] w5> {
            s = MatMul(x, w0)  a = MatMul(s, w1)  h = Relu(a)  b = MatMul(h, w2)  t = Add(s, b)
            u = MatMul(t, w3)  v = MatMul(x, w4)  z = Add(u, v)  y = MatMul(z, w5) }"""
        )
    )
    assert names_of(model, [8])[0] not in Depth(model.channels).names
    assert names_of(model, [5])[0] in Depth(model.channels).names


def test_two_branches_of_a_sum_cannot_both_go():
    model = support.analysed(
        support.model(
            """g (float[N,3] x) => (float[N,2] y)
            <float[3,8] w1, float[8,4] w2, float[3,5] w3, float[5,4] w4, float[4,2] w5> {
            a = MatMul(x, w1)  h = Relu(a)  b = MatMul(h, w2)  c = MatMul(x, w3)  i = Relu(c)
            d = MatMul(i, w4)  s = Add(b, d)  y = MatMul(s, w5) }"""
        )
    )
    depth = Depth(model.channels)
    one, other = names_of(model, [8, 5])
    assert {one, other} <= set(depth.names) and not depth.together([one, other])
    assert depth.most([other, one]) == [other]
    with pytest.raises(AssertionError, match="cannot all go"):
        model.prune(without(one, other))


def test_followers_are_what_nothing_reads_any_more():
    model = support.analysed(support.model(CHAIN))
    depth = Depth(model.channels)
    before, after = names_of(model, [8, 5])
    assert depth.followers([after]) == {before}, "its outputs are read by nobody"
    assert depth.followers([before]) == {after}, "its outputs are constant"
    assert depth.followers([]) == set()


def test_a_graph_output_keeps_its_name():
    model = support.analysed(
        support.model(
            """g (float[N,3,6,6] x) => (float[N,4,6,6] y)
            <float[4,3,1,1] w0, float[8,4,1,1] w1, float[4,8,1,1] w2> {
            s = Conv(x, w0)  a = Conv(s, w1)  h = Relu(a)  c = Conv(h, w2)  y = Add(s, c) }"""
        )
    )
    (name,) = names_of(model, [8])
    assert support.difference(model, without(name)) == 0
    assert ops(model.prune(without(name))) == "Conv"


def test_a_graph_input_cannot_be_an_output():
    model = support.analysed(
        support.model(
            """g (float[N,4] x) => (float[N,4] y) <float[4,8] w1, float[8,4] w2> {
            a = MatMul(x, w1)  h = Relu(a)  c = MatMul(h, w2)  y = Add(x, c) }"""
        )
    )
    (name,) = names_of(model, [8])
    assert support.difference(model, without(name)) == 0
    assert ops(model.prune(without(name))) == "Add"


@pytest.mark.parametrize("name", ["resnet20_bn", "resnet56_bn", "mobilenetv2"])
def test_trained_models(name: str):
    path = SHARED / f"{name}.onnx"
    if not path.is_file():
        pytest.skip("the trained models are not here")
    model = support.analysed(path)
    depth = Depth(model.channels)
    assert len(depth.names) >= {"resnet20_bn": 9, "resnet56_bn": 27, "mobilenetv2": 10}[name]
    for names in [depth.names[:1], depth.names[-1:], depth.most(depth.names)]:
        assert support.difference(model, without(*names)) <= support.TOLERANCE
    everything = without(*depth.most(depth.names))
    assert support.difference(model, everything, folds=model.folds(0)) <= support.TOLERANCE
    assert len(model.prune(everything).graph.node) <= len(model.proto.graph.node) / 1.9


def reconstructed(text: str, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The answers of a model, of the one without a group, and of the latter without any compensation."""
    proto = support.model(text)
    session = support.RUNTIME.session(proto)
    feed = support.random_feed(session, seed=1, sizes=64)
    subject = Analysis.of(
        load(proto), partial(support.RUNTIME.trace, feed={name: x[:1] for name, x in feed.items()})
    )
    name = next(group.name for group in subject.channels.groups if len(group) == width)
    selection, folds = support.reconstructed(subject, without(name), Dataset("random", arrays=feed))
    assert len(selection.keep[name]) == 0
    models = (
        rewrite.pruned(subject, selection, folds),
        rewrite.masked(subject, selection, folds),
        rewrite.pruned(subject, selection),
    )
    pruned, masked, bare = (support.RUNTIME.session(model).run(feed)["y"] for model in models)
    np.testing.assert_allclose(pruned, masked, atol=1e-4)
    return session.run(feed)["y"], pruned, bare


@pytest.mark.parametrize(
    ("text", "width"),
    [(RESIDUAL, 8), (SHIFTED, 8), (INVERTED, 8), (FEED_FORWARD, 12), (DENSE, 3), (SQUEEZE, 3), (SHORTCUT, 8)],
)
def test_the_bias_carries_the_mean_of_what_went(text: str, width: int):
    """After the refit nothing is wrong on average, and later sites repair some of the rest."""
    before, after, bare = reconstructed(text, width)
    axes = (0, *range(2, before.ndim)) if before.ndim == 4 else tuple(range(before.ndim - 1))
    np.testing.assert_allclose(after.mean(axis=axes), before.mean(axis=axes), atol=1e-3)
    assert np.linalg.norm(after - before) < 0.9 * np.linalg.norm(bare - before)


# --- the whole program --------------------------------------------------------------------------------

DIGITS = Path(__file__).parents[1] / "models" / "digits.onnx"
IMAGES = np.load(DIGITS.parent / "digits_calib.npz")
IMAGES = IMAGES[IMAGES.files[0]][:64]
BLOCK = "/block2/conv1/Conv"


def planned(name: str, **method: object) -> onnxmerge.Result:
    """A run that applies a plan in which one group keeps no channel."""
    whole = onnxmerge.optimize(DIGITS, calibration=IMAGES, ratio=0.0, device="cpu", threads=1).plan
    plan = onnxmerge.Plan(whole.fingerprint, {name: ()}, method)
    again = onnxmerge.Plan.from_json(plan.to_json())
    return onnxmerge.optimize(DIGITS, calibration=IMAGES, plan=again, device="cpu", threads=1)


@pytest.mark.parametrize("compensation", ["lstsq", "bias", "none", "merge", "gaussian"])
def test_a_plan_can_leave_out_a_layer(compensation: str):
    result = planned(BLOCK, compensation=compensation)
    group = next(g for g in result.report["groups"] if g["name"] == BLOCK)
    assert group["after"] == 0 and result.plan.keep[BLOCK] == ()
    assert str(result.report["emptied"]).startswith("1 of ")
    assert not any("left whole" in warning for warning in result.report["warnings"])
    assert len(result.model.graph.node) < len(onnx.load(DIGITS).graph.node)
    assert result.report["reached"]["macs"] < 1


def test_a_plan_cannot_leave_out_what_something_needs():
    with pytest.raises(onnxmerge.OnnxMergeError, match=r"keeps no channel of '/fc1/Gemm'"):
        planned("/fc1/Gemm")


def test_no_depth_keeps_every_layer():
    asked = {"params": 0.1, "criterion": "l1", "compensation": "none", "allocation": "curves"}
    after = {}
    for depth in (True, False):
        result = onnxmerge.optimize(DIGITS, calibration=IMAGES, depth=depth, device="cpu", threads=1, **asked)
        after[depth] = [group["after"] for group in result.report["groups"]]
        assert (result.report["emptied"] is None) == (0 not in after[depth])
    assert 0 not in after[False]


DEAD = """g (float[N,4,6,6] x) => (float[N,4,6,6] y)
    <float[8,4,1,1] a, float[8,8,1,1] b, float[4,8,3,3] c, float[4] d, float[4,4,1,1] e> {
    h = Conv(x, a)  i = Relu(h)  j = Conv(i, b)  k = Relu(j)
    l = Conv<pads = [1, 1, 1, 1]>(k, c, d)  m = Conv(x, e)  y = Add(l, m) }"""


def test_layers_that_nobody_reads_any_more_are_not_counted_as_kept():
    proto = support.model(DEAD)
    feed = support.random_feed(support.RUNTIME.session(proto), seed=1, sizes=2)
    analysis = Analysis.of(load(proto), partial(support.RUNTIME.trace, feed=feed))
    last = max(analysis.depth.names, key=[g.name for g in analysis.channels.groups].index)
    selection = Selection({last: np.empty(0, np.int64)})
    again = Analysis.of(load(rewrite.pruned(analysis, selection)), partial(support.RUNTIME.trace, feed=feed))
    assert len(again.channels.view.nodes) < 4, "the layer before it went with it"
    assert analysis.kept("macs", selection) == again.cost.macs < analysis.cost.macs / 4

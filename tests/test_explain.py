"""What `inspect` shows: groups with their shares, and what is frozen by root cause."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import support

from onnxmerge import optimize
from onnxmerge.channels.explain import explain
from onnxmerge.channels.scope import in_scope, without_statistics
from onnxmerge.errors import UsageError


def explained(text: str):
    model = support.analysed(support.model(text))
    return explain(model.channels, model.cost)


def test_groups_carry_their_share_of_the_costs():
    result = explained("""g (float[N,4] x) => (float[N,3] y) <float[4,8] w1, float[8] b, float[8,3] w2> {
        h = Gemm(x, w1, b)  a = Relu(h)  y = MatMul(a, w2) }""")
    (group,) = result.groups
    assert (group.name, group.channels) == ("Gemm:h", 8)
    assert group.nodes == ("Gemm:h", "Relu:a", "MatMul:y")
    assert result.macs == 2 * (4 * 8 + 8 * 3), "of the traced batch"
    assert result.params == 4 * 8 + 8 + 8 * 3
    assert group.macs_share == pytest.approx(1 / 8)
    assert group.params_share == pytest.approx((4 + 1 + 3) / result.params)
    assert result.reach == pytest.approx(7 / 8)


def test_frozen_channels_are_told_by_their_root_cause():
    result = explained("""g (float[N,5,4] x) => (float[N,5,3] y)
        <float[4,8] w1, float[8,8] w2, float[8,3] w3> {
        h = MatMul(x, w1)  k = MatMul(h, w2)  s = Add(h, k)  n = Softmax<axis = -1>(s)
        y = MatMul(n, w3) }""")
    assert result.groups == ()
    reasons = {entry.reason: entry for entry in result.frozen}
    assert set(reasons) == {"Softmax normalises over it", "graph output 'y'"}
    stream = reasons["Softmax normalises over it"]
    assert stream.count == 8
    assert stream.examples == ("MatMul:h", "MatMul:k")
    assert stream.axes == ("h[2]", "k[2]")
    assert stream.causes == ("Softmax:n",)
    assert result.frozen[0] is stream, "most channels first"


@pytest.mark.parametrize(
    "norm",
    ["n = LayerNormalization(h, scale)", "m = ReduceMean<axes = [-1]>(h)  d = Sub(h, m)  n = Mul(d, scale)"],
)
def test_what_is_normalised_together_goes_only_where_it_is_refitted(norm):
    proto = support.model(f"""g (float[N,5,4] x) => (float[N,5,3] y)
        <float[4,8] w1, float[8] scale, float[8,16] w2, float[16,3] w3> {{
        h = MatMul(x, w1)  {norm}  k = MatMul(n, w2)  r = Relu(k)  y = MatMul(r, w3) }}""")
    channels = support.analysed(proto).channels
    assert [len(group) for group in channels.groups] == [8, 16]
    assert [len(group) for group in without_statistics(channels).groups] == [16]
    data = np.random.default_rng(0).standard_normal((64, 5, 4)).astype(np.float32)
    options = {"ratio": 0.5, "criterion": "l1", "calibration": data, "threads": 1}
    merged = optimize(proto, compensation="merge", **options)
    refitted = optimize(proto, compensation="lstsq", **options)
    assert "keeps its width" in merged.report.method.why
    assert {g.before: g.after for g in merged.report.groups} == {16: 8}
    assert {g.before: g.after for g in refitted.report.groups} == {8: 4, 16: 8}
    edited = replace(refitted.plan, method=refitted.plan.method | {"compensation": "merge"})
    with pytest.raises(UsageError, match="is normalised or averaged together: its channels go only where"):
        optimize(proto, plan=edited, calibration=data, threads=1)


def test_channels_that_nothing_freezes_are_told_apart():
    text = """g (float[N,4] x) => (float[N,3] y) <float[4,1] w, float[1,8] u, float[8,3] v> {
        a = MatMul(x, w)  h = MatMul(a, u)  y = MatMul(h, v) }"""
    model = support.analysed(support.model(text))
    whole = explain(in_scope(model.channels, skip=["*:h"]), model.cost)
    assert {e.reason: e.count for e in whole.frozen} == {
        "its group is left whole, as asked": 8,
        "graph output 'y'": 3,
    }


def test_channels_that_are_alone_on_their_axes_were_not_left_whole_by_anybody():
    """Two parts of a joint projection, each of one channel: nothing freezes them, and nobody spared them."""
    result = explained("""g (float[N,4] x) => (float[N,3] y, float[N,3] z)
        <float[4,2] w, float[1,3] u, float[1,3] v> {
        h = MatMul(x, w)  a, b = Split<axis = 1>(h)  r = Relu(a)  y = MatMul(r, u)  z = MatMul(b, v) }""")
    assert result.groups == ()
    assert {e.reason: e.count for e in result.frozen if "output" not in e.reason} == {
        "it is the only channel of its kind": 2
    }


def test_an_explanation_is_json():
    result = explained("""g (float[N,4,5,5] x) => (float[N,3,5,5] y) <float[8,4,1,1] w, float[3,8,1,1] v> {
        h = Conv(x, w)  t = Relu(h)  y = Conv(t, v) }""")
    assert json.loads(json.dumps(asdict(result)))["groups"][0]["channels"] == 8


def test_weights_behind_dequantization_count_as_stored():
    result = explained("""g (float[N,4] x) => (float[N,8] y) <int8[4,8] w, float[8] scale> {
        v = DequantizeLinear<axis = 1>(w, scale)  y = MatMul(x, v) }""")
    assert [(e.reason, e.count) for e in result.frozen] == [("graph output 'y'", 8)]

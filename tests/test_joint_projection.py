"""Queries, keys and values from one projection, [.., 3, heads, width] in one axis: what is a group.

The three parts are never channels: each would be alone of its kind.
"""

from __future__ import annotations

import pytest
import support

from onnxmerge.channels.explain import explain

_FORMS = {
    "split and squeeze": """a, b, c = Split<axis = 0>(p, ones)
        q = Squeeze(a, zero)  k = Squeeze(b, zero)  v = Squeeze(c, zero)""",
    "slice and squeeze": """a = Slice(p, zero, one, zero, one)  b = Slice(p, one, two, zero, one)
        c = Slice(p, two, three, zero, one)
        q = Squeeze(a, zero)  k = Squeeze(b, zero)  v = Squeeze(c, zero)""",
    "gather": "q = Gather<axis = 0>(p, n0)  k = Gather<axis = 0>(p, n1)  v = Gather<axis = 0>(p, n2)",
}


def attention(form: str, heads: int, width: int) -> support.Analysed:
    """Attention over 5 tokens from [N, 5, 4] to [N, 5, 3], behind a joint projection."""
    c = heads * width
    text = f"""g (float[N,5,4] x) => (float[N,5,3] y)
        <float[4,{3 * c}] w, float[{3 * c}] bias, float[{c},3] u, int64[5] s = {{0, 5, 3, {heads}, {width}}},
        int64[3] flat = {{0, 5, {c}}}, int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] two = {{2}},
        int64[1] three = {{3}}, int64[3] ones = {{1, 1, 1}}, int64 n0 = {{0}}, int64 n1 = {{1}},
        int64 n2 = {{2}}> {{
        j = MatMul(x, w)  h = Add(j, bias)  r = Reshape(h, s)  p = Transpose<perm = [2, 0, 3, 1, 4]>(r)
        {_FORMS[form]}
        t = Transpose<perm = [0, 1, 3, 2]>(k)  scores = MatMul(q, t)  shares = Softmax(scores)
        o = MatMul(shares, v)  i = Transpose<perm = [0, 2, 1, 3]>(o)  f = Reshape(i, flat)
        y = MatMul(f, u) }}"""
    return support.analysed(support.model(text))


@pytest.mark.parametrize("form", _FORMS)
@pytest.mark.parametrize(
    ("heads", "width", "channels"), [(4, 2, 4), (6, 8, 6), (2, 8, 8), (1, 8, 8), (3, 2, 3), (3, 8, 8)]
)
def test_heads_are_a_group_or_the_places_within_heads_where_these_are_few(form, heads, width, channels):
    model = attention(form, heads, width)
    assert model.widths == [channels]
    reasons = {entry.reason for entry in explain(model.channels, model.cost).frozen}
    assert reasons == {"graph output 'y'"}
    support.check(model, seeds=range(6))


def test_readings_that_exclude_each_other_are_taken_anew():
    """Six heads of queries share three of keys and values: no place within heads is free then."""
    text = """g (float[N,5,4] x) => (float[N,5,3] y)
        <float[4,24] w, float[4,12] wk, float[4,12] wv, float[24,3] u, int64[4] s = {0, 5, 6, 4},
        int64[4] few = {0, 5, 3, 4}, int64[3] flat = {0, 5, 24}, int64[1] two = {2},
        int64[5] twice = {1, 1, 2, 1, 1}, int64[4] all = {0, 6, 5, 4}> {
        h = MatMul(x, w)  a = Reshape(h, s)  q = Transpose<perm = [0, 2, 1, 3]>(a)
        hk = MatMul(x, wk)  b = Reshape(hk, few)  k = Transpose<perm = [0, 2, 1, 3]>(b)
        kk = Unsqueeze(k, two)  ke = Expand(kk, twice)  kr = Reshape(ke, all)
        hv = MatMul(x, wv)  c = Reshape(hv, few)  v = Transpose<perm = [0, 2, 1, 3]>(c)
        vv = Unsqueeze(v, two)  ve = Expand(vv, twice)  vr = Reshape(ve, all)
        t = Transpose<perm = [0, 1, 3, 2]>(kr)  scores = MatMul(q, t)  shares = Softmax(scores)
        o = MatMul(shares, vr)  i = Transpose<perm = [0, 2, 1, 3]>(o)  f = Reshape(i, flat)
        y = MatMul(f, u) }"""
    model = support.analysed(support.model(text))
    assert model.widths == [3]
    support.check(model, seeds=range(4))

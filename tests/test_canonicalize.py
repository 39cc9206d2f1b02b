"""The canonical form: what is folded, what is not, and that nothing else changes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
import support
from onnx import numpy_helper

import onnxmerge
from onnxmerge.graph import canonicalize
from onnxmerge.graph.files import load


def constants(text: str, **options) -> dict[str, np.ndarray]:
    graph = canonicalize(support.model(text, **options))
    return {name: t.values for name, t in graph.tensors().items() if isinstance(t, gs.Constant)}


def operators(text: str, **options) -> list[str]:
    return [node.op for node in canonicalize(support.model(text, **options)).nodes]


def test_lengths_that_are_fixed_become_numbers_and_others_do_not():
    text = """g (float[N,4,6] x) => (float[P,Q] y, int64[1] n) <int64[1] i = {0}, int64[1] j = {1},
        int64[1] k = {2}> {
        s = Shape(x)  n = Gather(s, i)  c = Gather(s, j)  d = Gather(s, k)  e = Mul(c, d)
        t = Concat<axis = 0>(n, e)  y = Reshape(x, t) }"""
    found = constants(text)
    assert found["e"].tolist() == [24]
    assert "t" not in found and "n" not in found


def test_a_chain_of_views_with_a_dynamic_batch_is_followed_to_its_end():
    """Every Reshape hides the next length from inference until the one before is known."""
    body, x = "", "x"
    for i in range(4):
        body += f"""s{i} = Shape({x})  n{i} = Gather(s{i}, zero)  c{i} = Gather(s{i}, one)
            h{i} = Div(c{i}, two)
            u{i} = Unsqueeze(n{i}, first)  v{i} = Unsqueeze(h{i}, first)
            t{i} = Concat<axis = 0>(u{i}, v{i}, rest)  r{i} = Reshape({x}, t{i})  """
        x = f"r{i}"
    text = f"""g (float[N,32,3] x) => (float[N,P,Q] y) <int64 zero = {{0}}, int64 one = {{1}},
        int64 two = {{2}},
        int64[1] first = {{0}}, int64[1] rest = {{-1}}> {{ {body} y = Relu({x}) }}"""
    found = constants(text)
    assert [int(np.ravel(found[f"v{i}"])[0]) for i in range(4)] == [16, 8, 4, 2]


def test_what_a_view_leaves_over_is_known_where_the_dynamic_lengths_cancel():
    text = """g (float[N,M,24] x) => (float[N,H,M,W] y) <int64 zero = {0}, int64 one = {1},
        int64[1] first = {0}, int64[2] rest = {3, -1}, int64[1] last = {3}> {
        s = Shape(x)  n = Gather(s, zero)  m = Gather(s, one)  u = Unsqueeze(n, first)
        v = Unsqueeze(m, first)  t = Concat<axis = 0>(u, v, rest)  r = Reshape(x, t)
        k = Transpose<perm = [0, 2, 1, 3]>(r)  w = Shape(k)  d = Gather(w, last)  f = Cast<to = 1>(d)
        q = Sqrt(f)  y = Div(k, q) }"""
    found = constants(text)
    assert found["q"].tolist() == pytest.approx([8**0.5])
    # Both views of one axis, none of the other.
    odd = text.replace("Concat<axis = 0>(u, v, rest)", "Concat<axis = 0>(u, u, rest)")
    assert "q" not in constants(odd)


def test_a_weight_that_layers_share_through_an_identity_stays_one():
    text = """g (float[N,8] x) => (float[N,8] y) <float[8,16] w, float[16] b, float[16,8] v> {
        h = MatMul(x, w)  i = Add(h, b)  r = Relu(i)  k = MatMul(r, v)
        w2 = Identity(w)  w3 = Identity(w2)  b2 = Identity(b)  v2 = Identity(v)
        l = MatMul(k, w3)  j = Add(l, b2)  s = Relu(j)  y = MatMul(s, v2) }"""
    proto = support.model(text)
    graph = canonicalize(proto)
    assert [node.op for node in graph.nodes] == ["MatMul", "Add", "Relu", "MatMul"] * 2
    result = onnxmerge.optimize(
        proto, macs=0.6, calibration=np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32)
    )
    assert 0.5 < result.report.reached.macs <= 0.6
    assert result.report.output.bytes < result.report.input.bytes


def test_the_rank_of_folded_integers_is_kept():
    text = """g (float[2,3] x) => (int64[P,Q] y) <int64[1] a = {0}, int64[1] b = {5}> {
        s = Shape(x)  u = Unsqueeze(s, a)  v = Mul(u, b)  w = Add(v, s)  y = Identity(w) }"""
    found = constants(text)
    assert found["w"].shape == (1, 2)
    assert found["w"].tolist() == [[12, 18]]


@pytest.mark.parametrize(("a", "b", "quotient"), [(7, 2, 3), (-7, 2, -3), (7, -2, -3), (2**62, 1, 2**62)])
def test_integer_division_goes_towards_zero(a: int, b: int, quotient: int):
    text = f"""g (float[2,3] x) => (float[2,3] y) <int64[1] a = {{{a}}}, int64[1] b = {{{b}}}> {{
        d = Div(a, b)  e = Cast<to = 1>(d)  y = Add(x, e) }}"""
    assert constants(text)["e"].tolist() == [quotient]


@pytest.mark.parametrize("step", [0, 1])
def test_odd_slices_and_shapes_of_scalars_end_quietly(step: int):
    text = f"""g (float x) => (float[P] y, int64[Q] z) <int64[1] a = {{1}}, int64[1] b = {{2}},
        int64[1] zero = {{0}}, int64[1] s = {{{step}}}> {{
        n = Shape(x)  m = Mul(n, a)  z = Slice(m, zero, b, zero, s)  y = Reshape(x, a) }}"""
    assert "Reshape" in operators(text)


def test_folding_does_not_blow_a_file_up():
    text = """g (float[1,1] x) => (float[P,Q] y) <float[1,1] v, int64[2] r = {100000, 100000}> {
        t = Tile(v, r)  y = Add(x, t) }"""
    assert operators(text) == ["Tile", "Add"]


def test_a_large_weight_that_others_use_too_is_not_copied():
    text = """g (int64[N] x) => (float[N,700] y) <float[700,200] e> {
        h = Gather(e, x)  t = Transpose<perm = [1, 0]>(e)  y = MatMul(h, t) }"""
    assert "Transpose" in operators(text)
    alone = "g (float[N,200] x) => (float[N,700] y) <float[700,200] e> {\n" + (
        "t = Transpose<perm = [1, 0]>(e)  y = MatMul(x, t) }"
    )
    assert operators(alone) == ["MatMul"]


def test_quantised_weights_stay_quantised():
    text = """g (float[N,4] x) => (float[N,3] y) <int8[4,3] w, float[3] scale> {
        v = DequantizeLinear<axis = 1>(w, scale)  y = MatMul(x, v) }"""
    assert operators(text) == ["DequantizeLinear", "MatMul"]


# Weight standardisation as exporters write it; w [256, 32, 3, 3] is not small.
_STANDARDISED = {
    "variance of the differences": """m = ReduceMean<axes = [1, 2, 3]>(w)  d = Sub(w, m)  q = Mul(d, d)
        v = ReduceMean<axes = [1, 2, 3]>(q)  e = Add(v, eps)  r = Sqrt(e)  s = Div(d, r)""",
    "normalised in training mode": """f = Reshape(w, flat)
        n, nm, nv = BatchNormalization<training_mode = 1, epsilon = 0.000001>(f, scale, b, m0, var)
        s = Reshape(n, back)""",
}


@pytest.mark.parametrize("form", _STANDARDISED)
def test_standardised_weights_are_weights(form: str):
    text = f"""g (float[N,32,4,4] x) => (float[N,4,P,Q] y)
        <float[256,32,3,3] w, float eps = {{0.000001}}, int64[3] flat = {{1, 256, 288}},
        int64[4] back = {{256, 32, 3, 3}}, float[256] scale, float[256] b, float[256] m0, float[256] var,
        float[4,256,1,1] u> {{ {_STANDARDISED[form]}
        h = Conv(x, s)  r1 = Relu(h)  y = Conv(r1, u) }}"""
    model = support.analysed(support.model(text), sizes={"N": 2})
    assert [node.op for node in model.channels.view] == ["Conv", "Relu", "Conv"]
    assert model.widths == [256]
    feed = model.feed
    before, after = (support.RUNTIME.session(m).run(feed)["y"] for m in (model.original, model.proto))
    np.testing.assert_allclose(after, before, rtol=1e-3, atol=1e-3)
    support.check(model, seeds=(0,))
    sizes = [m.ByteSize() for m in (model.original, model.proto)]
    assert sizes[1] <= sizes[0]


def test_parts_of_a_large_weight_take_no_more_room_than_it():
    text = """g (float[N,300] x) => (float[N,300] y) <float[900,300] w, int64[3] sizes = {300, 300, 300}> {
        a, b, c = Split<axis = 0>(w, sizes)
        p = Transpose<perm = [1, 0]>(a)  q = Transpose<perm = [1, 0]>(b)  r = Transpose<perm = [1, 0]>(c)
        i = MatMul(x, p)  j = MatMul(i, q)  y = MatMul(j, r) }"""
    assert operators(text) == ["MatMul"] * 3


def test_small_results_of_a_large_weight_that_others_use_are_stored():
    text = """g (int64[N] x) => (float[N,200] y) <float[700,200] e> {
        h = Gather(e, x)  m = ReduceMean<axes = [0]>(e)  y = Sub(h, m) }"""
    assert operators(text) == ["Gather", "Sub"]


def test_a_large_weight_that_is_read_in_several_arrangements_is_stored_once():
    text = """g (float[N,300] x) => (float[N,300] y) <float[300,300] w> {
        p = Transpose<perm = [1, 0]>(w)  q = Neg(w)  r = Abs(w)
        i = MatMul(x, p)  j = MatMul(i, q)  y = MatMul(j, r) }"""
    proto = support.model(text)
    model = support.analysed(proto)
    stored = sum(
        t.values.size for t in model.channels.view.graph.tensors().values() if isinstance(t, gs.Constant)
    )
    assert stored == 300 * 300
    before, after = (support.RUNTIME.session(m).run(model.feed)["y"] for m in (proto, model.proto))
    np.testing.assert_allclose(after, before, rtol=1e-5)


def test_results_of_what_cannot_be_evaluated_are_left():
    text = """g (float[N,4] x) => (float[N,3] y) <float[4,3] w> {
        a = custom.Thing(w)  b = Neg(a)  c = Neg(w)  d = Add(b, c)  y = MatMul(x, d) }"""
    proto = support.model(text)
    assert [node.op for node in canonicalize(proto).nodes] == ["Thing", "Neg", "Add", "MatMul"]


def test_layers_that_share_zeros_and_ones_are_not_tied_by_them():
    """Exporters store equal constants once: biases of zero, the scale of a normalisation over groups."""
    text = """g (float[N,4,6,6] x) => (float[N,3,6,6] y)
        <float[8,4,1,1] w1, float[8,8,1,1] w2, float[3,8,1,1] w3, float[3] b> {
        h = Conv(x, w1, zeros)  i = InstanceNormalization(h, ones, zeros)  a = Relu(i)
        k = Conv(a, w2, zeros)  j = InstanceNormalization(k, ones, zeros)  c = Relu(j)
        y = Conv(c, w3, b) }"""
    proto = support.model(text)
    for name, value in (("ones", 1), ("zeros", 0)):
        proto.graph.initializer.append(numpy_helper.from_array(np.full(8, value, np.float32), name))
    model = support.analysed(proto)
    assert model.widths == [8, 8]
    support.check(model)
    proto.graph.initializer[-1].CopyFrom(numpy_helper.from_array(np.arange(8, dtype=np.float32), "zeros"))
    assert support.analysed(proto).widths == [8], "what differs from element to element stays shared"


def test_shared_constants_that_may_be_given_are_not_separated():
    text = """g (float[N,4] x, float[8] z) => (float[N,3] y) <float[4,8] w1, float[8,8] w2, float[8,3] w3> {
        h = MatMul(x, w1)  a = Add(h, z)  k = MatMul(a, w2)  b = Add(k, z)  y = MatMul(b, w3) }"""
    proto = support.model(text)
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros(8, np.float32), "z"))
    assert support.analysed(proto, {"x": np.ones((2, 4), np.float32)}).widths in ([8], [])


@pytest.mark.parametrize("given", ["file", "proto"])
def test_lengths_that_are_stated_as_minus_one_are_open(given, tmp_path):
    text = f"""g (float[N,4,H] x) => (float[P,Q] y) <int64[1] i = {{0}}, int64[1] j = {{1}},
        int64[1] k = {{2}}, float[4,4,1] w = {{{",".join("1" * 16)}}}> {{
        c = Conv(x, w)  s = Shape(c)  n = Gather(s, i)  a = Gather(s, j)  h = Gather(s, k)  e = Mul(a, h)
        t = Concat<axis = 0>(n, e)  y = Reshape(c, t) }}"""
    model = support.model(text)
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = -1
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    loaded = load(path if given == "file" else model)
    dims = loaded.proto.graph.input[0].type.tensor_type.shape.dim
    assert [dim.HasField("dim_value") for dim in dims] == [False, True, False]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == -1
    assert isinstance(canonicalize(loaded.proto).tensors()["t"], gs.Variable)
    shapes = {"x": (2, 4, 5)}
    found = onnxmerge.inspect(path if given == "file" else model, shapes=shapes, device="cpu")
    assert found.input.macs == 4 * 4 * 5

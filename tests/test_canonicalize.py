"""The canonical form: what is folded, what is not, and that nothing else changes."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest
import support

from onnxmerge.graph import canonicalize


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

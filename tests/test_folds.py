"""A fold adds to what the consumer computes: the same as an Add before anything that follows it."""

from __future__ import annotations

import numpy as np
import pytest
import support
from onnx import numpy_helper

from onnxmerge.channels.sites import fold_sites
from onnxmerge.graph.edit import Editor
from onnxmerge.rewrite.fold import Fold, apply_folds

CHANGE = np.linspace(-1, 2, 3)
ROWS = "g (float[N,4] x) => (float[N,3] y) <float[4,8] w, float[8,3] v {more}> {{ h = MatMul(x, w)  {body} }}"
MAPS = """g (float[N,4,5,5] x) => (float[N,3,P,Q] y) <float[8,4,1,1] w, float[3,8,1,1] v {more}> {{
    h = Conv(x, w)  {body} }}"""
_BN = "float[3] scale, float[3] b, float[3] m, float[3] var"

CASES = {
    # name: frame, consumer as it is, consumer with the change "c" added, further weights
    "Gemm without bias": (ROWS, "y = Gemm(h, v)", "a = Gemm(h, v)  y = Add(a, c)", ""),
    "Gemm with a bias": (ROWS, "y = Gemm(h, v, b)", "a = Gemm(h, v, b)  y = Add(a, c)", "float[3] b"),
    "Gemm with a row": (ROWS, "y = Gemm(h, v, b)", "a = Gemm(h, v, b)  y = Add(a, c)", "float[1,3] b"),
    "Gemm with one number": (
        ROWS,
        "y = Gemm<beta = 0.5, alpha = 2.0>(h, v, b)",
        "a = Gemm<beta = 0.5, alpha = 2.0>(h, v, b)  y = Add(a, c)",
        "float[1] b",
    ),
    "Gemm without its bias": (
        ROWS,
        "y = Gemm<beta = 0.0>(h, v, b)",
        "a = Gemm<beta = 0.0>(h, v, b)  y = Add(a, c)",
        "float[3] b",
    ),
    "a bias of two": (
        ROWS,
        "k = Gemm(x, u, b)  a = Gemm(h, v, b)  y = Add(a, k)",
        "k = Gemm(x, u, b)  d = Gemm(h, v, b)  a = Add(d, c)  y = Add(a, k)",
        "float[4,3] u, float[3] b",
    ),
    "MatMul": (ROWS, "a = MatMul(h, v)  y = Relu(a)", "d = MatMul(h, v)  a = Add(d, c)  y = Relu(a)", ""),
    "FusedMatMul": (
        ROWS,
        "a = com.microsoft.FusedMatMul<alpha = 0.5>(h, v)  y = Relu(a)",
        "d = MatMul(h, v)  k = Constant<value_float = 0.5>()  e = Mul(d, k)  a = Add(e, c)  y = Relu(a)",
        "",
    ),
    "FusedGemm": (
        ROWS,
        'y = com.microsoft.FusedGemm<activation = "Relu">(h, v)',
        "d = Gemm(h, v)  a = Add(d, c)  y = Relu(a)",
        "",
    ),
    "FusedConv": (
        MAPS,
        'y = com.microsoft.FusedConv<activation = "Relu">(h, v)',
        "d = Conv(h, v)  a = Add(d, c)  y = Relu(a)",
        "",
    ),
    "Conv": (MAPS, "a = Conv(h, v)  y = Relu(a)", "d = Conv(h, v)  a = Add(d, c)  y = Relu(a)", ""),
    "Conv before BatchNormalization": (
        MAPS,
        "a = Conv(h, v)  y = BatchNormalization(a, scale, b, m, var)",
        "d = Conv(h, v)  a = Add(d, c)  y = BatchNormalization(a, scale, b, m, var)",
        _BN,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_bias_arrives_where_the_sum_is(name: str):
    frame, as_is, added, more = CASES[name]
    model = support.analysed(
        support.model(frame.format(body=as_is, more=more and f", {more}"), contrib="microsoft" in as_is)
    )
    site = next(s for s in fold_sites(model.channels) if s.weight.name == "v")
    editor = Editor(model.channels.view.graph)
    apply_folds(editor, [Fold(site, None, CHANGE)])
    folded = support.export_model(editor.graph, model.original)
    expected = support.model(frame.format(body=added, more=more and f", {more}"))
    shape = (3, 1, 1) if frame is MAPS else (3,)
    expected.graph.initializer.append(numpy_helper.from_array(CHANGE.reshape(shape).astype("f"), "c"))
    left, right = (support.RUNTIME.session(m).run(model.feed)["y"] for m in (folded, expected))
    np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-5)
    assert len(folded.graph.node) == len(model.proto.graph.node) + (name in ("MatMul", "FusedMatMul"))


def test_a_convolution_that_is_an_output_too_shows_the_change():
    frame = MAPS.replace("=> (float[N,3,P,Q] y)", "=> (float[N,3,P,Q] y, float[N,3,R,S] a)")
    body = "a = Conv(h, v)  y = BatchNormalization(a, scale, b, m, var)"
    model = support.analysed(support.model(frame.format(body=body, more=f", {_BN}")))
    site = next(s for s in fold_sites(model.channels) if s.weight.name == "v")
    editor = Editor(model.channels.view.graph)
    apply_folds(editor, [Fold(site, None, CHANGE)])
    folded = support.RUNTIME.session(support.export_model(editor.graph, model.original)).run(model.feed)
    before = support.RUNTIME.session(model.proto).run(model.feed)
    np.testing.assert_allclose(folded["a"], before["a"] + CHANGE.reshape(3, 1, 1), rtol=1e-4, atol=1e-5)

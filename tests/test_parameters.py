"""What is stored in one node, in whichever of its forms it is asked."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import support

from onnxmerge.graph import import_model
from onnxmerge.graph.extract import evaluate
from onnxmerge.operators import parameters
from onnxmerge.operators.table import linear_of, normalization_of
from onnxmerge.operators.traits import Form, attribute, domain_of, name_of

TEXT = """g (float[N,4] x) => (float[N,3] y, float[N,3] s)
    <float[4,3] w, float[3] b = {1, 2, 3}, float[1,3] f = {2, 4, 8}> {
    h = Gemm<alpha = 2.0, beta = 0.5>(x, w, b)  y = Sub(f, h)  s = Div(h, f) }"""
NORM = """g (float[N,2,4,4] x) => (float[N,2,4,4] y) <float[2] g = {1, 2}, float[2] b = {3, 4},
    float[2] m = {5, 6}, float[2] v = {3, 15}> { y = BatchNormalization<epsilon = 1.0>(x, g, b, m, v) }"""


def test_traits_are_the_same_for_every_form_of_a_node():
    proto = support.model(TEXT)
    forms = (proto.graph.node[0], import_model(proto).nodes[0], support.analysed(proto).node("Gemm"))
    for node in forms:
        linear = linear_of(node)
        assert linear is not None and (linear.form, linear.bias, linear.bias_axis) == (Form.PRODUCT, 2, 1)
        assert (name_of(node), domain_of(node), attribute(node, "alpha")) == ("Gemm", "", 2.0)
        assert (parameters.alpha_of(node), parameters.beta_of(node)) == (2.0, 0.5)
        assert parameters.is_plain_sum(node) and normalization_of(node) is None


def test_a_stored_bias_counts_with_its_factor():
    model = support.analysed(support.model(TEXT))
    view, gemm = model.channels.view, model.node("Gemm")
    assert np.array_equal(parameters.stored_bias(view, gemm, 3), [0.5, 1, 1.5])


@pytest.mark.parametrize(
    ("number", "scale", "shift"), [(1, [-1, -1, -1], [2, 4, 8]), (2, [1 / 2, 1 / 4, 1 / 8], 0)]
)
def test_arithmetic_with_a_constant_is_a_scale_and_a_shift(number, scale, shift):
    view = support.analysed(support.model(TEXT)).channels.view
    found = parameters.affine(view.nodes[number], view.tensor("h"), 1)
    assert found is not None and np.array_equal(found[0], scale)
    assert np.array_equal(found[1], np.zeros(3) + shift)


def test_normalisation_is_a_scale_and_a_shift():
    view = support.analysed(support.model(NORM)).channels.view
    (node,) = view
    norm = parameters.channel_norm(node)
    assert norm is not None and np.array_equal(norm.variance, [3, 15]) and norm.epsilon == 1
    scale, shift = parameters.affine(node, view.tensor("x"), 1) or ((), ())
    assert np.array_equal(scale, [0.5, 0.5]) and np.array_equal(shift, [0.5, 1])
    assert parameters.channel_bias(node) == 2 and parameters.convolution_bias(node) is None


def test_a_shift_per_channel_as_an_operator():
    name, attributes, values = parameters.as_channel_shift(np.array([1, 2], np.float32))
    node = onnx.helper.make_node(name, list("xgbmv"), ["y"], **attributes)
    x = np.random.default_rng(0).standard_normal((1, 2, 3)).astype(np.float32)
    (y,) = evaluate([node], {"x": x, **dict(zip("gbmv", values, strict=True))}, ["y"], 15) or ()
    assert np.allclose(y, x + np.array([1, 2])[:, None])


def test_a_fused_activation_hides_the_sum():
    node = onnx.helper.make_node("FusedGemm", ["x", "w", "b"], ["h"], domain="com.microsoft")
    assert parameters.is_plain_sum(node)
    node.attribute.append(onnx.helper.make_attribute("activation", "Relu"))
    assert not parameters.is_plain_sum(node)

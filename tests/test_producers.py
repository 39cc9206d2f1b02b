"""What makes the channels of a group: filters, biases and BatchNorm parameters, of quantised weights too."""

from __future__ import annotations

import numpy as np
import support
from onnx import numpy_helper

from onnxmerge.channels.sites import producers


def made(text: str):
    proto = support.model(text)
    model = support.analysed(proto)
    values = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    return producers(model.channels, model.channels.groups[0]), values


def test_quantised_weights_and_biases_are_dequantised():
    (producer, *_), values = made("""g (float[N,4,5,5] x) => (float[N,3,5,5] y)
        <int8[8,4,1,1] w, float[8] scale, int8[8] z, int32[8] b, float[3,8,1,1] v> {
        k = DequantizeLinear<axis = 0>(w, scale, z)  c = DequantizeLinear<axis = 0>(b, scale)
        h = Conv(x, k, c)  y = Conv(h, v) }""")
    scale = values["scale"][:, None].astype(np.float64)
    weights = (values["w"].reshape(8, 4) - values["z"][:, None].astype(np.float64)) * scale
    np.testing.assert_allclose(producer.filters, weights)
    np.testing.assert_allclose(producer.bias, values["b"][:, None] * scale)


def test_a_channel_that_owns_several_rows_has_them_side_by_side():
    (producer,), values = made("""g (float[N,4,4,4] x) => (float[N,3,8,8] y)
        <float[8,4,1,1] w, float[8] b, float[3,2,1,1] v> {
        h = Conv(x, w, b)  t = DepthToSpace<blocksize = 2>(h)  y = Conv(t, v) }""")
    rows = values["w"].reshape(4, 2, 4)
    np.testing.assert_allclose(producer.filters, rows.transpose(1, 0, 2).reshape(2, 16), rtol=1e-6)
    np.testing.assert_allclose(producer.bias, values["b"].reshape(4, 2).T, rtol=1e-6)


def test_batch_norm_and_depthwise_producers():
    found, values = made("""g (float[N,4,5,5] x) => (float[N,3,5,5] y)
        <float[6,4,1,1] w, float[6] scale, float[6] b, float[6] m, float[6] var, float[6,1,3,3] d,
        float[3,6,1,1] v> {
        h = Conv(x, w)  n = BatchNormalization<epsilon = 0.002>(h, scale, b, m, var)
        r = Relu(n)  k = Conv<group = 6, pads = [1, 1, 1, 1]>(r, d)  y = Conv(k, v) }""")
    dense, depthwise = found
    assert not dense.depthwise and depthwise.depthwise
    assert depthwise.filters.shape == (6, 9)
    norm = dense.batch_norm
    np.testing.assert_allclose(norm.gamma, values["scale"])
    np.testing.assert_allclose(norm.variance, values["var"])
    assert np.isclose(norm.epsilon, 0.002)

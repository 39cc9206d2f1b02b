"""Denormal weights, and weights that are inputs of the graph, too: both are slow, and neither is needed."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import support
from onnx import helper, numpy_helper

import onnxmerge
from onnxmerge.operators.layer_parameters import flush_denormals, layer_parameters

TEXT = """
net (float[n, 3, 8, 8] x) => (float[n, 4] y) <
    float[6, 3, 3, 3] w1, float[6] b1, float[6] scale, float[6] shift, float[6] mean, float[6] var,
    float[6, 4] w2, float[4] b2, float[1] tiny
> {
    c = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
    n1 = BatchNormalization (c, scale, shift, mean, var)
    r = Relu(n1)
    p = GlobalAveragePool(r)
    f = Flatten(p)
    z = MatMul(f, w2)
    h = Add(z, b2)
    y = Max(h, tiny)
}
"""
SMALL = np.float32(1e-40)
DATA = {"x": np.random.default_rng(0).standard_normal((32, 3, 8, 8)).astype(np.float32)}


def with_denormals() -> onnx.ModelProto:
    """A channel that died in weights and bias, in a variance and in a bound of the output."""
    proto = support.model(TEXT)
    dead = {"w1": np.s_[2], "b1": np.s_[2], "w2": np.s_[2], "b2": np.s_[1], "var": np.s_[2], "tiny": np.s_[:]}
    for tensor in proto.graph.initializer:
        if tensor.name in dead:
            values = np.array(numpy_helper.to_array(tensor))
            values[dead[tensor.name]] = SMALL
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return proto


def denormals(proto: onnx.ModelProto) -> dict[str, int]:
    found = {}
    for tensor in proto.graph.initializer:
        size = np.abs(numpy_helper.to_array(tensor))
        if count := int(((size > 0) & (size < np.finfo(np.float32).tiny)).sum()):
            found[tensor.name] = count
    return found


def listed(proto: onnx.ModelProto, *names: str) -> onnx.ModelProto:
    """The model with these stored tensors as inputs of its graph, too."""
    for tensor in proto.graph.initializer:
        if tensor.name in names:
            shape = list(tensor.dims)
            proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, shape))
    return proto


def test_parameters_are_those_of_layers_and_a_bias_of_its_own():
    graph = onnxmerge.graph.import_model(support.model(TEXT))
    names = {tensor.name for _, _, tensor in layer_parameters(graph)}
    assert names == {"w1", "b1", "scale", "shift", "mean", "var", "w2", "b2"}


def test_denormal_weights_become_zero_and_what_is_divided_by_stays():
    graph = onnxmerge.graph.import_model(with_denormals())
    assert flush_denormals(graph) == 3 * 9 + 1 + 4 + 1
    values = {name: t.values for name, t in graph.tensors().items() if hasattr(t, "values")}
    assert not values["w1"][2].any() and values["w1"][1].all()
    assert values["var"][2] == values["tiny"][0] == SMALL
    assert flush_denormals(graph) == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_smallest_normal_number_and_zero_are_no_denormals(dtype):
    smallest = np.finfo(dtype).tiny
    proto = support.model("net (float[n, 2] x) => (float[n, 2] y) <float[2, 2] w> { y = MatMul(x, w) }")
    values = np.array([[smallest, -smallest], [0.0, -smallest / 2]], dtype)
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "w"))
    graph = onnxmerge.graph.import_model(proto)
    assert flush_denormals(graph) == 1
    assert np.array_equal(graph.tensors()["w"].values, [[smallest, -smallest], [0.0, 0.0]])


def test_what_is_written_has_no_denormal_weights_and_answers_alike():
    proto = with_denormals()
    before = proto.SerializeToString()
    result = onnxmerge.optimize(proto, latency=1.0, calibration=DATA)
    assert proto.SerializeToString() == before
    assert denormals(result.model).keys() <= {"tiny", "var"}
    assert not result.report.unchanged
    assert "denormal weights" in result.report.headline.time
    feed = {"x": DATA["x"]}
    (y,), (new,) = (support.RUNTIME.session(m).run(feed).values() for m in (proto, result.model))
    assert np.allclose(y, new, rtol=0, atol=1e-5)


def test_a_share_of_everything_gives_the_file_as_it_was():
    proto = with_denormals()
    result = onnxmerge.optimize(proto, macs=1.0, calibration=DATA)
    assert result.report.unchanged and result.model.SerializeToString() == proto.SerializeToString()
    assert "denormal" not in result.report.headline.time


def test_weights_are_no_inputs_any_more_and_what_a_caller_may_replace_is():
    proto = listed(support.model(TEXT), "w1", "b1", "w2", "tiny")
    result = onnxmerge.optimize(proto, macs=0.7, calibration=DATA)
    assert [value.name for value in result.model.graph.input] == ["x", "tiny"]
    assert "3 stored tensors that were inputs" in result.report.headline.time
    bound = np.full(1, 100.0, np.float32)
    (y,) = support.RUNTIME.session(result.model).run({"x": DATA["x"], "tiny": bound}).values()
    assert (y == 100).all()


def test_where_everything_is_listed_nothing_is_for_a_caller_to_replace():
    proto = support.model(TEXT)
    proto = listed(proto, *(tensor.name for tensor in proto.graph.initializer))
    result = onnxmerge.optimize(proto, macs=0.7, calibration=DATA)
    assert [value.name for value in result.model.graph.input] == ["x"]


def test_an_inspection_and_a_sweep_say_what_is_slow():
    proto = listed(with_denormals(), "w1")
    inspection = onnxmerge.inspect(proto)
    assert any("33 stored weights are denormal" in warning for warning in inspection.warnings)
    assert any("1 stored tensors are inputs" in warning for warning in inspection.warnings)
    sweep = onnxmerge.sweep(proto, steps=[0.8], calibration=DATA)
    assert any("33 stored weights are denormal" in warning for warning in sweep.warnings)

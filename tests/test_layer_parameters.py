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
    assert any("latency=1 mends that" in warning for warning in result.report.warnings)


PARAMETERS = ("w1", "b1", "scale", "shift", "mean", "var", "w2", "b2")


def test_weights_are_no_inputs_any_more_and_what_a_caller_may_replace_is():
    proto = listed(support.model(TEXT), *PARAMETERS, "tiny")
    result = onnxmerge.optimize(proto, macs=0.7, calibration=DATA)
    assert [value.name for value in result.model.graph.input] == ["x", "tiny"]
    latency = result.report.latency
    assert latency.all_channels_ratio is not None
    said = f"With all channels it would take {latency.all_channels_ratio:.2f}: 8 weights that were inputs"
    assert said in result.report.headline.time
    bound = np.full(1, 100.0, np.float32)
    (y,) = support.RUNTIME.session(result.model).run({"x": DATA["x"], "tiny": bound}).values()
    assert (y == 100).all()


@pytest.mark.parametrize(("version", "names"), [(8, ("w1", "b1")), (3, (*PARAMETERS, "tiny"))])
def test_weights_that_are_meant_to_be_replaced_or_had_to_be_listed_stay_inputs(version, names):
    """An adapter replaces some weights; before IR version 4 onnxruntime takes none to be replaced."""
    proto = listed(support.model(TEXT), *names)
    proto.ir_version = version
    result = onnxmerge.optimize(proto, macs=0.7, calibration=DATA)
    assert {value.name for value in result.model.graph.input} >= {"x", "w1", names[-1]}
    assert result.report.latency.all_channels_ratio is None
    assert not any("inputs of the graph" in warning for warning in onnxmerge.inspect(proto).warnings)


def test_what_is_divided_by_elsewhere_or_read_by_a_caller_stays():
    text = """net (float[n, 3] x) => (float[n, 3] y, float[3] b) <float[3, 3] w> {
        h = MatMul(x, w)  z = Add(h, b)  y = Div(z, d) }"""
    proto = support.model(text)
    for name in ("b", "d"):
        proto.graph.initializer.append(numpy_helper.from_array(np.full(3, SMALL), name))
    proto.graph.node[1].input[1] = "d"
    graph = onnxmerge.graph.import_model(proto)
    assert {tensor.name for _, _, tensor in layer_parameters(graph)} == {"w", "d"}
    assert flush_denormals(graph) == 0
    proto.graph.node[1].input[1] = "b"
    assert flush_denormals(onnxmerge.graph.import_model(proto)) == 0


def test_a_mask_that_is_added_to_computed_products_is_no_bias():
    text = """net (float[n, 3, 4] q, float[n, 4, 3] k) => (float[n, 3, 3] y) <float[3] mask> {
        s = MatMul(q, k)  y = Add(s, mask) }"""
    graph = onnxmerge.graph.import_model(support.model(text))
    assert not list(layer_parameters(graph))


def test_weights_of_recurrent_layers_are_parameters_and_states_are_not():
    text = """net (float[5, 1, 3] x) => (float[5, 1, 1, 4] y)
        <float[1, 16, 3] w, float[1, 16, 4] r, float[1, 32] b, float[1, 1, 4] h> {
        y = LSTM<hidden_size = 4>(x, w, r, b, "", h) }"""
    graph = onnxmerge.graph.import_model(support.model(text))
    assert [tensor.name for _, _, tensor in layer_parameters(graph)] == ["w", "r", "b"]


def test_what_written_anew_answers_otherwise_is_not_written(monkeypatch):
    proto = with_denormals()
    monkeypatch.setattr("onnxmerge.decisions._answers_alike", lambda *_: False)
    result = onnxmerge.optimize(proto, latency=1.0, calibration=DATA)
    assert result.report.unchanged and result.model.SerializeToString() == proto.SerializeToString()


@pytest.mark.parametrize("budget", [{"macs": 1.0}, {"latency": 1.0}])
def test_a_plan_that_keeps_everything_gives_the_same_bytes(budget):
    proto = with_denormals()
    first = onnxmerge.optimize(proto, calibration=DATA, **budget)
    again = onnxmerge.optimize(proto, calibration=DATA, plan=first.plan)
    assert again.model.SerializeToString() == first.model.SerializeToString()
    assert again.report.unchanged == first.report.unchanged == ("macs" in budget)
    assert again.plan.method["fit_on"] == first.plan.method["fit_on"]


def test_an_inspection_and_a_sweep_say_what_is_slow():
    proto = listed(with_denormals(), *PARAMETERS)
    inspection = onnxmerge.inspect(proto)
    assert any("33 stored weights are denormal" in warning for warning in inspection.warnings)
    assert any("8 stored weights are inputs" in warning for warning in inspection.warnings)
    sweep = onnxmerge.sweep(proto, steps=[0.8], calibration=DATA)
    assert any("33 stored weights are denormal" in warning for warning in sweep.warnings)

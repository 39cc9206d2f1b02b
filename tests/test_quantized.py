"""Convolutional networks as onnxruntime's ``quantize_static`` writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import support
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
from support import analysed, check

import onnxmerge
from onnxmerge.channels.residual import destination
from onnxmerge.channels.sites import fold_sites
from onnxmerge.cli import main
from onnxmerge.operators.grid import grid_of
from onnxmerge.runtime import Runtime

RUNTIME = Runtime.create("cpu", 1)
IMAGES = np.random.default_rng(1).standard_normal((32, 3, 12, 12)).astype(np.float32)


def convnet() -> onnx.ModelProto:
    """Conv, Relu, two Conv that an Add joins, pooled, and a Gemm: [N, 3, 12, 12] to [N, 10]."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (16, 3, 3, 3), "b1": (16,), "w2": (24, 16, 3, 3), "b2": (24,), "w3": (24, 16, 1, 1)}
    shapes |= {"v": (10, 24), "c": (10,)}
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["h1"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["h1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["h2"], name="second", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["r1", "w3"], ["h3"], name="beside"),
        helper.make_node("Add", ["h2", "h3"], ["sum"]),
        helper.make_node("GlobalAveragePool", ["sum"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "v", "c"], ["y"], name="last", transB=1),
    ]
    stored = [
        numpy_helper.from_array(
            (rng.standard_normal(shape) / max(np.prod(shape[1:]), 1) ** 0.5).astype(np.float32), name
        )
        for name, shape in shapes.items()
    ]
    graph = helper.make_graph(
        nodes,
        "convnet",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])],
        stored,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


class Reader(CalibrationDataReader):
    def __init__(self) -> None:
        self._left = iter(IMAGES[:8])

    def get_next(self):
        image = next(self._left, None)
        return None if image is None else {"x": image[None]}


@pytest.fixture(params=[False, True], ids=["per tensor", "per channel"])
def quantized(request, tmp_path) -> Path:
    onnx.save(convnet(), tmp_path / "float.onnx")
    path = tmp_path / "quantized.onnx"
    quantize_static(
        tmp_path / "float.onnx", path, Reader(), quant_format=QuantFormat.QDQ, per_channel=request.param
    )
    return path


@pytest.mark.parametrize(
    "options",
    [{}, {"compensation": "lstsq"}, {"compensation": "merge"}, {"criterion": "reconstruction"}],
    ids=str,
)
def test_a_budget_is_met_exactly_as_masked(options, quantized, tmp_path):
    result = onnxmerge.optimize(quantized, calibration=IMAGES, macs=0.6, **options)
    report = result.report
    assert 0.4 < report["output"]["macs"] / report["input"]["macs"] <= 0.6
    # What differs from its masked reference would be left whole, and said.
    assert not any("left whole" in warning for warning in report["warnings"])
    assert any(group["after"] < group["before"] for group in report["groups"])
    out = tmp_path / "out.onnx"
    result.save(out)
    onnx.checker.check_model(str(out), full_check=True)
    found = RUNTIME.session(str(out)).run({"x": IMAGES})["y"]
    assert found.shape == (32, 10) and np.isfinite(found).all()
    kinds = {t.data_type for t in onnx.load(out).graph.initializer}
    assert TensorProto.INT8 in kinds, "weights stay quantised"


def test_any_channels_go_as_their_mask_says(quantized):
    check(analysed(quantized))


def test_refitted_weights_answer_better_than_those_that_are_only_cut(quantized):
    fitted = onnxmerge.optimize(quantized, calibration=IMAGES, macs=0.6).report
    cut = onnxmerge.optimize(quantized, calibration=IMAGES, macs=0.6, compensation="none").report
    assert (fitted["method"]["compensation"], fitted["method"]["criterion"]) == ("lstsq", "reconstruction")
    assert fitted["parity"]["relative_error"] < 0.7 * cut["parity"]["relative_error"]


def test_the_scale_of_a_bias_stays_that_of_data_times_weight(quantized):
    model = onnxmerge.optimize(quantized, calibration=IMAGES, macs=0.6).model
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    made = {node.output[0]: node for node in model.graph.node}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm") and len(node.input) > 2:
            data, weight, bias = (stored[made[name].input[1]] for name in node.input)
            np.testing.assert_allclose(bias, np.broadcast_to(data * weight, bias.shape), rtol=1e-5)


def test_products_change_the_bias_that_is_added_behind_their_rounding(tmp_path):
    rows = np.random.default_rng(2).standard_normal((64, 12)).astype(np.float32)
    float_model = support.model("""g (float[N,12] x) => (float[N,5] y)
        <float[12,32] v, float[32] b, float[32,5] w, float[5] c> {
        h = MatMul(x, v)  i = Add(h, b)  r = Relu(i)  k = MatMul(r, w)  y = Add(k, c) }""")
    onnx.save(float_model, tmp_path / "float.onnx")
    feeds = iter([{"x": rows}])

    class Rows(CalibrationDataReader):
        def get_next(self):
            return next(feeds, None)

    quantize_static(tmp_path / "float.onnx", tmp_path / "q.onnx", Rows(), quant_format=QuantFormat.QDQ)
    result = onnxmerge.optimize(tmp_path / "q.onnx", calibration=rows, macs=0.6, compensation="lstsq")
    assert not any("left whole" in warning for warning in result.report["warnings"])
    before = onnx.load(tmp_path / "q.onnx").graph
    assert [n.op_type for n in result.model.graph.node] == [n.op_type for n in before.node]
    biases = [
        {t.name: numpy_helper.to_array(t) for t in graph.initializer}["c_quantized"]
        for graph in (before, result.model.graph)
    ]
    assert not np.array_equal(*biases)


def test_growth_holds_what_the_grid_could_not():
    text = """g (float[N,4] x) => (float[N,3] y)
        <int8[4,3] w = {100, 0, 1, 0, -90, 0, 0, 5, 0, 0, 0, 127}, float[3] s = {0.5, 0.25, 1},
        int8[3] z = {0, 0, 0}> {
        k = DequantizeLinear<axis = 1>(w, s, z)  y = MatMul(x, k) }"""
    view = analysed(support.model(text)).channels.view
    grid = grid_of(view, view.tensor("k"))
    assert grid is not None and grid.alone and grid.axis == 1
    values = np.zeros((4, 3))
    values[0] = 127, -12.7, 64
    growth = grid.growth(values)
    np.testing.assert_allclose(growth, [2, 1, 1])
    found = grid.values(grid.rounded(values, growth), growth)
    np.testing.assert_allclose(found, values, atol=0.13)
    assert grid.rounded(values).max() == 127, "without growth the largest is cut off"


def test_without_a_budget_and_without_data(quantized, tmp_path):
    np.save(tmp_path / "images.npy", IMAGES)
    out = str(tmp_path / "out.onnx")
    assert main([str(quantized), out, "--calib", str(tmp_path / "images.npy"), "-q"]) == 0
    assert main([str(quantized), out, "--ratio", "0.25", "--tolerance", "100", "-q"]) == 0


SUM_OF_ROUNDED = """
net (float[n, 3, 6, 6] x) => (float[n, 4, 6, 6] y) <float[4, 3, 1, 1] v, float[4, 4, 1, 1] w, float step> {
    s = Conv (x, v)
    c = Conv (s, w)
    q = QuantizeLinear(c, step, zero)
    d = DequantizeLinear(q, step, zero)
    y = Add(s, d)
}
"""


@pytest.mark.parametrize(("zero", "total", "other"), [(117, "y", "s"), (0, "c", None), (250, "c", None)])
def test_what_is_only_rounded_goes_on_to_a_sum(zero, total, other):
    """With zero near an end of the range, rounding cuts what lies beyond it, as a Relu does."""
    proto = support.model(SUM_OF_ROUNDED)
    proto.graph.initializer.append(numpy_helper.from_array(np.array(zero, np.uint8), "zero"))
    site = next(s for s in fold_sites(support.analysed(proto).channels) if s.data.tensor == "s")
    to = destination(site)
    assert (to.total, to.other) == (total, other)
    assert (to.scale == 1).all() and not to.shift.any()

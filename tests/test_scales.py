"""Scales and shifts that go into the layers beside them: fewer operators that compute the same."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
import support

import onnxmerge
from onnxmerge.graph import canonicalize, export_model
from onnxmerge.graph.edit import Editor
from onnxmerge.rewrite.scales import merge_scales

NUMBERS = "float three = {3.0}, float zero = {0.0}, float six = {6.0}"


def merged(proto: onnx.ModelProto, feed: support.Feed | None = None) -> onnx.ModelProto:
    """The model after merging, checked to compute what it computed, its names included."""
    feed = feed or support.random_feed(support.RUNTIME.session(proto))
    graph = canonicalize(proto)
    editor = Editor(graph)
    merge_scales(editor, support.RUNTIME.trace(export_model(graph, proto), feed))
    result = export_model(editor.graph, proto)
    onnx.checker.check_model(result, full_check=True)
    common = {name for node in proto.graph.node for name in node.output}
    common &= {name for node in result.graph.node for name in node.output}
    before, after = (values_of(one, feed, common) for one in (proto, result))
    for name in common:
        np.testing.assert_allclose(after[name], before[name], rtol=1e-4, atol=1e-5, err_msg=name)
    return result


def values_of(proto: onnx.ModelProto, feed, names) -> dict[str, np.ndarray]:
    """The values of inner tensors, too."""
    shown = onnx.ModelProto()
    shown.CopyFrom(proto)
    del shown.graph.output[:]
    kinds = {value.name: value for value in proto.graph.output}
    shown.graph.output.extend(kinds.get(name, onnx.ValueInfoProto(name=name)) for name in sorted(names))
    return support.RUNTIME.session(shown).run(feed)


def operators(proto: onnx.ModelProto) -> dict[str, int]:
    return dict(Counter(node.op_type for node in proto.graph.node if node.op_type != "Constant"))


def model(body: str, weights: str, x="float[2,4,5,5] x", y="float[a,b,c,d] y") -> onnx.ModelProto:
    return support.model(f"g ({x}) => ({y}) <{weights}> {{ {body} }}")


CASES = {
    "a learned scale and shift behind a convolution": (
        "h = Conv<pads=[1,1,1,1]>(x, w) s = Mul(k, h) y = Add(s, t)",
        "float[3,4,3,3] w, float[1] k, float[1] t",
        {"Conv": 1},
    ),
    "one number per channel, in a convolution of groups": (
        "h = Conv<group=2>(x, w, b) s = Mul(h, k) y = Sub(s, t)",
        "float[6,2,3,3] w, float[6] b, float[6,1,1] k, float[1,6,1,1] t",
        {"Conv": 1},
    ),
    "before a convolution whose borders are padded, the shift stays": (
        "s = Mul(x, k) h = Add(s, t) y = Conv<pads=[1,1,1,1]>(h, w, b)",
        "float[3,4,3,3] w, float[3] b, float[4,1,1] k, float[4,1,1] t",
        {"Add": 1, "Conv": 1},
    ),
    "before convolutions of groups without padding, nothing stays": (
        "s = Mul(x, k) h = Add(s, t) y1 = Conv<group=2>(h, w, b) y2 = Conv<group=4>(h, v) y = Add(y1, y2)",
        "float[4,2,3,3] w, float[4] b, float[4,1,3,3] v, float[4,1,1] k, float[4,1,1] t",
        {"Conv": 2, "Add": 1},
    ),
    "a quotient and two scales": (
        "r = Relu(x) a = Div(r, k) b = Mul(a, s) c = Mul(b, t) y = Conv(c, w)",
        "float[3,4,3,3] w, float[1] k, float s, float[1,4,1,1] t",
        {"Relu": 1, "Conv": 1},
    ),
    "around a transposed convolution": (
        "s = Mul(x, k) h = ConvTranspose<group=2>(s, w) y = Mul(h, l)",
        "float[4,3,2,2] w, float[4,1,1] k, float[6,1,1] l",
        {"ConvTranspose": 1},
    ),
    "into a normalisation": (
        "n = BatchNormalization(x, g, b, m, var) s = Mul(n, k) y = Add(s, t)",
        "float[4] g, float[4] b, float[4] m, float[4] var, float[4,1,1] k, float[1] t",
        {"BatchNormalization": 1},
    ),
    "a shift that cancels a bias": (
        "h = Conv(x, w, one) y = Sub(h, k)",
        "float[3,4,3,3] w, float[3] one = {1.0,1.0,1.0}, float k = {1.0}",
        {"Conv": 1},
    ),
    "a scale of zero": (
        "h = Conv(x, w, b) y = Mul(h, zero)",
        f"float[3,4,3,3] w, float[3] b, {NUMBERS}",
        {"Conv": 1},
    ),
    "a hard swish that was written out": (
        "h = Conv(x, w) s = Add(h, three) c = Clip(s, zero, six) p = Mul(h, c) y = Div(p, six)",
        f"float[3,4,3,3] w, {NUMBERS}",
        {"Conv": 1, "HardSigmoid": 1, "Mul": 1},
    ),
    "a hard sigmoid that was written out": (
        "s = Add(x, three) c = Clip(s, zero, six) y = Div(c, six)",
        NUMBERS,
        {"HardSigmoid": 1},
    ),
}
PRODUCTS = {
    "around matrix products": (
        "s = Mul(x, k) h = MatMul(s, w) g = Mul(h, l) y = Gemm<transB=1, beta=2.0>(g, v, b)",
        "float[4,6] w, float[4] k, float[6] l, float[3,6] v, float[3] b",
        {"MatMul": 1, "Gemm": 1},
    ),
    "a shift before a Gemm": (
        "s = Add(x, k) y = Gemm(s, w)",
        "float[4,6] w, float[4] k",
        {"Gemm": 1},
    ),
    "a shift that takes the bias away": (
        "h = Gemm(x, w, three) y = Sub(h, three)",
        "float[4,6] w, float three = {3.0}",
        {"Gemm": 1},
    ),
    "a shift behind a MatMul has nowhere to go": (
        "h = MatMul(x, w) s = Mul(h, k) y = Add(s, t)",
        "float[4,6] w, float[1] k, float[6] t",
        {"MatMul": 1, "Add": 1},
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_images(case):
    body, weights, expected = case
    proto = model(body, weights)
    assert operators(merged(proto)) == expected


@pytest.mark.parametrize("case", PRODUCTS.values(), ids=PRODUCTS)
def test_rows(case):
    body, weights, expected = case
    proto = model(body, weights, "float[5,4] x", "float[a,b] y")
    assert operators(merged(proto)) == expected


STAYS = {
    "somebody else reads what lies between": (
        "h = Conv(x, w) s = Mul(h, k) r = Relu(h) y = Add(s, r)",
        "float[3,4,3,3] w, float[1] k",
    ),
    "two layers share the weight": (
        "s = Mul(x, k) a = Conv(s, w) b = Conv(x, w) y = Add(a, b)",
        "float[3,4,3,3] w, float[1] k",
    ),
    "numbers differ from place to place": (
        "h = Conv(x, w) y = Mul(h, k)",
        "float[3,4,3,3] w, float[3,3] k",
    ),
    "the numbers have more axes than the data": (
        "h = Conv(x, w) y = Mul(h, k)",
        "float[3,4,3,3] w, float[1,1,1,1,1] k",
    ),
    "a zero cannot be divided by": (
        "h = Relu(x) s = Mul(h, k) t = Add(s, l) y = Conv<pads=[1,1,1,1]>(t, w)",
        "float[3,4,3,3] w, float k = {0.0}, float[1] l",
    ),
}


@pytest.mark.parametrize("case", STAYS.values(), ids=STAYS)
def test_what_stays(case):
    body, weights = case
    y = "float[a,b,c,d,e] y" if "1,1,1,1,1" in weights else "float[a,b,c,d] y"
    proto = model(body, weights, y=y)
    assert operators(merged(proto)) == operators(proto)


WIDENS = {
    "a scale": ("h = Mul(x, k) y = Conv(h, w)", {"Mul": 1, "Conv": 1}),
    "a shift": ("h = Add(x, k) y = Conv(h, w)", {"Add": 1, "Conv": 1}),
    "both": ("h = Mul(x, k) s = Add(h, t) y = Conv(s, w)", {"Mul": 1, "Conv": 1}),
}


@pytest.mark.parametrize("case", WIDENS.values(), ids=WIDENS)
def test_numbers_that_make_several_channels_of_one_stay(case):
    body, expected = case
    weights = "float[3,4,3,3] w, float[4,1,1] k, float[4,1,1] t"
    proto = model(body, weights, "float[2,1,5,5] x")
    assert operators(merged(proto)) == expected
    column = model("h = Mul(x, k) y = Gemm(h, w)", "float[6,3] w, float[6] k", "float[5,1] x", "float[a,b] y")
    assert operators(merged(column)) == operators(column)


def test_numbers_beyond_single_precision_stay():
    proto = model("h = Mul(x, k) y = Mul(h, l)", "float k = {1e30}, float l = {1e30}")
    tiny = {"x": np.full((2, 4, 5, 5), 1e-30, dtype=np.float32)}
    assert operators(merged(proto, tiny)) == {"Mul": 2}
    proto = model("h = Conv(x, w) y = Mul(h, k)", "float[3,4,3,3] w, float k = {1e10}")
    large = np.full((3, 4, 3, 3), 1e30, dtype=np.float32)
    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    weights["w"].CopyFrom(onnx.numpy_helper.from_array(large, "w"))
    tiny = {"x": np.full((2, 4, 5, 5), 1e-30, dtype=np.float32)}
    assert operators(merged(proto, tiny)) == {"Conv": 1, "Mul": 1}


def test_a_normalisation_per_place_keeps_its_scale():
    weights = "float[3,2,2] g, float[3,2,2] b, float[3,2,2] m, float[3,2,2] var, float k"
    proto = support.model(
        f"g (float[2,3,2,2] x) => (float[a,b,c,d] y) <{weights}> {{"
        " n = BatchNormalization<spatial=0>(x, g, b, m, var) y = Mul(n, k) }",
        opset=8,
    )
    assert operators(merged(proto)) == operators(proto)


@pytest.mark.parametrize("read", ["h", "w", "b", "k", "s"])
def test_what_a_branch_reads_stays_as_it_is(read):
    rank = {"b": "[a]", "k": "[a]"}.get(read, "[a,b,c,d]")
    proto = support.model(f"""g (float[2,4,5,5] x, bool c) => (float[e,f,g,h] r, float{rank} z)
        <float[3,4,3,3] w, float[3] b, float[1] k> {{
        h = Conv(x, w, b) s = Mul(h, k) r = Relu(s) z = Identity(x) }}""")
    branches = {}
    for name, op in (("then_branch", "Relu"), ("else_branch", "Neg")):
        out = onnx.helper.make_tensor_value_info(f"{op}_out", onnx.TensorProto.FLOAT, None)
        inner = onnx.helper.make_node(op, [read], [out.name])
        branches[name] = onnx.helper.make_graph([inner], op, [], [out])
    proto.graph.node[-1].CopyFrom(onnx.helper.make_node("If", ["c"], ["z"], **branches))
    images = np.random.default_rng(0).standard_normal((2, 4, 5, 5)).astype(np.float32)
    for chosen in (True, False):
        result = merged(proto, {"x": images, "c": np.array(chosen)})
    assert ("Mul" in operators(result)) == (read in "hw")


def test_an_output_of_the_graph_keeps_its_name_and_its_values():
    proto = support.model(
        "g (float[2,4,5,5] x) => (float[a,b,c,d] h, float[a,b,c,d] y) <float[3,4,3,3] w, float[1] k> {"
        " h = Conv(x, w) y = Mul(h, k) }"
    )
    assert operators(merged(proto)) == {"Conv": 1, "Mul": 1}
    proto = support.model(
        "g (float[2,4,5,5] x) => (float[a,b,c,d] y, float[3,4,3,3] w) <float[3,4,3,3] w, float[1] k> {"
        " h = Conv(x, w) y = Mul(h, k) }"
    )
    assert operators(merged(proto)) == {"Conv": 1, "Mul": 1}


def written_out() -> onnx.ModelProto:
    """Two layers with a hard swish between them, of which no channel can go within a tiny tolerance."""
    return support.model(
        "g (float[N,4,6,6] x) => (float[N,b,c,d] y)"
        f" <float[16,4,3,3] w, float[16] b, float[1] k, float[5,16,1,1] v, {NUMBERS}> {{"
        " g = Conv<pads=[1,1,1,1]>(x, w, b) h = Mul(g, k) s = Add(h, three) c = Clip(s, zero, six)"
        " p = Mul(h, c) r = Div(p, six) y = Conv(r, v) }"
    )


def test_without_a_channel_to_remove_fewer_operators_are_written():
    proto = written_out()
    images = np.random.default_rng(0).standard_normal((64, 4, 6, 6)).astype(np.float32)
    result = onnxmerge.optimize(proto, calibration=images, tolerance=1e-5, threads=1)
    report = result.report
    assert not report.unchanged and all(group.before == group.after for group in report.groups)
    assert (report.input.nodes, report.output.nodes) == (7, 4)
    assert "all channels are kept, and 4 operators do what 7 did" in report.headline.size
    assert report.parity.change < 1e-5 and "within 0.001%:" in report.headline.size
    assert "by less than 0.1%)" in report.headline.answers
    lower = onnxmerge.optimize(proto, calibration=images, tolerance=1e-5, threads=1, precision="int8")
    assert "all channels are kept, and 4 operators do what 7 did; turned" in lower.report.headline.size
    assert operators(result.model) == {"Conv": 2, "HardSigmoid": 1, "Mul": 1}


def test_who_asks_for_all_of_a_model_gets_the_file_as_it_is():
    result = onnxmerge.optimize(written_out(), macs=1.0, threads=1)
    assert result.report.unchanged and operators(result.model) == operators(written_out())

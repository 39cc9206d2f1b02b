"""Graphs that nobody tidied: sharing, capture, functions, old and new versions, types, dynamic lengths."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import support
from onnx import TensorProto, helper, numpy_helper

import onnxmerge
from onnxmerge.plan import Selection

CHAIN = """g (float[N,4] x) => (float[N,3] y) <float[4,8] w1, float[8] b1, float[8,6] w2, float[6,3] w3> {
    h = Gemm(x, w1, b1)  a = Relu(h)  k = MatMul(a, w2)  b = Tanh(k)  y = MatMul(b, w3)
}"""


def initializer(proto: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in proto.graph.initializer if tensor.name == name)


def pruned_half(model: support.Analysed) -> onnx.ModelProto:
    """Every group at half its width, the first channels kept."""
    return model.prune(support.Selection({g.name: np.arange(len(g) // 2) for g in model.channels.groups}))


# --- sharing ------------------------------------------------------------------------------------------


def test_a_weight_of_two_consumers_ties_them():
    text = """g (float[N,4] x) => (float[N,3] y, float[N,3] z) <float[4,8] w, float[8,3] v> {
        h = MatMul(x, w)  y = MatMul(h, v)  a = Relu(h)  b = Neg(a)  z = MatMul(b, v) }"""
    model = support.analysed(support.model(text))
    assert model.widths == [8]
    support.check(model)


def test_a_weight_of_two_producers_ties_them():
    text = """g (float[N,4] x) => (float[N,3] y) <float[4,8] w, float[8,3] u, float[8,3] v> {
        h = MatMul(x, w)  n = Neg(x)  k = MatMul(n, w)  a = MatMul(h, u)  b = MatMul(k, v)  y = Add(a, b) }"""
    model = support.analysed(support.model(text))
    assert model.widths == [8]
    support.check(model)


def test_embeddings_that_are_also_the_last_layer():
    text = """g (int64[N,5] x) => (float[N,5,7] y) <float[7,8] e, float[8,8] w> {
        h = Gather(e, x)  r = Relu(h)  k = MatMul(r, w)  s = Add(h, k)
        t = Transpose<perm = [1, 0]>(e)  y = MatMul(s, t) }"""
    model = support.analysed(support.model(text))
    # The transposed copy is a constant of its own, so both sides are cut through the stream they share.
    assert model.widths == [8]
    support.check(model)


def test_a_shape_constant_of_two_reshapes_is_split_where_their_widths_differ():
    text = """g (float[2,4,3,3] x) => (float[2,5] y, float[2,5] z)
        <float[8,4,1,1] w, float[8,4,1,1] v, float[72,5] u, int64[2] s = {2, 72}> {
        h = Conv(x, w)  k = Conv(x, v)  a = Reshape(h, s)  b = Reshape(k, s)
        y = MatMul(a, u2)  z = MatMul(b, u) }""".replace("float[72,5] u,", "float[72,5] u, float[72,5] u2,")
    model = support.analysed(support.model(text))
    assert model.widths == [8, 8]
    support.check(model)


def test_a_split_and_a_gather_that_share_their_constants():
    text = """g (float[N,4,3,3] x) => (float[N,5,3,3] y)
        <float[8,4,1,1] w, float[8,4,1,1] v, float[5,12,1,1] u,
        int64[2] s = {4, 4}, int64[4] i = {1, 2, 3, 4}> {
        h = Conv(x, w)  k = Conv(x, v)  a, b = Split<axis = 1>(h, s)  c, d = Split<axis = 1>(k, s)
        e = Gather<axis = 1>(h, i)  f = Gather<axis = 1>(k, i)  m = Mul(a, b)  n = Add(c, d)  o = Mul(e, f)
        t = Concat<axis = 1>(m, n, o)  y = Conv(t, u) }"""
    model = support.analysed(support.model(text))
    assert sum(model.widths) >= 4
    support.check(model)


def test_the_analysed_graph_is_never_changed():
    model = support.analysed(support.model(CHAIN))
    before = model.proto.SerializeToString(deterministic=True)
    pruned_half(model)
    model.mask(model.selection(0))
    after = support.export_model(model.channels.view.graph, model.original).SerializeToString(
        deterministic=True
    )
    assert before == after


# --- where files keep things --------------------------------------------------------------------------


def test_weights_in_constant_nodes():
    proto = support.model(CHAIN)
    for tensor in list(proto.graph.initializer):
        proto.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
    del proto.graph.initializer[:]
    model = support.analysed(proto)
    assert model.widths == [8, 6]
    support.check(model)


def old_chain() -> onnx.ModelProto:
    """A file of IR version 3: all initializers are graph inputs."""
    proto = support.model(CHAIN)
    proto.ir_version = 3
    for tensor in proto.graph.initializer:
        proto.graph.input.append(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        )
    return proto


def test_initializers_that_are_also_inputs():
    proto = old_chain()
    model = support.analysed(proto, {"x": np.ones((2, 4), np.float32)})
    assert model.widths == [8, 6]
    support.check(model)
    shapes = {
        i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in pruned_half(model).graph.input
    }
    assert shapes["w1"] == [4, 4] and shapes["w2"] == [4, 3]


def test_nodes_without_names():
    model = support.analysed(support.model(CHAIN))
    assert not any(node.name for node in model.proto.graph.node)
    assert [group.name for group in model.channels.groups] == ["Gemm:h", "MatMul:k"]
    support.check(model)


def test_a_weight_that_is_also_an_output_stays():
    proto = support.model(CHAIN)
    proto.graph.output.append(helper.make_tensor_value_info("w2", TensorProto.FLOAT, [8, 6]))
    model = support.analysed(proto)
    assert model.widths == []
    assert initializer(model.prune(model.selection(0)), "w2").dims == [8, 6]


def test_a_hidden_tensor_that_is_also_an_output_stays():
    proto = support.model(CHAIN)
    proto.graph.output.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, ["N", 8]))
    model = support.analysed(proto)
    assert model.widths == [6]
    support.check(model)


def test_stale_shapes_in_the_file_are_not_believed():
    proto = support.model(CHAIN)
    proto.graph.value_info.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, ["N", 8]))
    proto.graph.value_info.append(helper.make_tensor_value_info("gone", TensorProto.FLOAT, [77]))
    model = support.analysed(proto)
    support.check(model)
    stated = {v.name: v for v in pruned_half(model).graph.value_info}
    assert stated["h"].type.tensor_type.shape.dim[1].dim_value == 4


def test_names_of_lengths_go_where_the_length_does():
    """Two tensors whose lengths have one name in the file are no longer equally long."""
    proto = support.model("""g (float[N,4] x) => (float[N,3] y) <float[4,8] w1, float[8,8] w2, float[8,3] w3,
        float[N,W] h, float[N,W] a, float[N,W] k, float[N,W] b> {
        h = MatMul(x, w1)  a = Relu(h)  k = MatMul(a, w2)  b = Relu(k)  y = MatMul(b, w3) }""")
    model = support.analysed(proto)
    first, second = (group.name for group in model.channels.groups)
    selection = Selection({first: np.arange(3), second: np.arange(8)})
    assert support.difference(model, selection) <= support.TOLERANCE
    lengths = {
        value.name: [d.dim_param for d in value.type.tensor_type.shape.dim]
        for value in model.prune(selection).graph.value_info
    }
    assert lengths == {"h": ["N", ""], "a": ["N", ""], "k": ["N", "W"], "b": ["N", "W"]}


def test_sparse_weights_stay():
    proto = support.model(CHAIN)
    weight = numpy_helper.to_array(initializer(proto, "w2")).copy()
    proto.graph.initializer.remove(initializer(proto, "w2"))
    values = numpy_helper.from_array(weight.reshape(-1), "w2")
    index = numpy_helper.from_array(np.arange(weight.size, dtype=np.int64), "w2_index")
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, index, list(weight.shape)))
    model = support.analysed(proto)
    support.check(model, checked=False)


# --- subgraphs and functions --------------------------------------------------------------------------


def branch(name: str, op: str, operand: str) -> onnx.GraphProto:
    out = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)
    return helper.make_graph([helper.make_node(op, [operand], [f"{name}_out"])], name, [], [out])


def test_values_that_a_branch_uses_stay():
    proto = support.model("""g (float[N,4] x, bool c) => (float[N,8] z, float[N,3] y)
        <float[4,8] w1, float[8,6] w2, float[6,3] w3> {
        h = MatMul(x, w1)  k = MatMul(h, w2)  b = Relu(k)  y = MatMul(b, w3)  z = Relu(h) }""")
    del proto.graph.node[-1]
    branches = {"then_branch": branch("a", "Relu", "h"), "else_branch": branch("b", "Neg", "h")}
    proto.graph.node.append(helper.make_node("If", ["c"], ["z"], **branches))
    model = support.analysed(proto)
    assert model.widths == [6]
    assert any("used inside of a subgraph" in str(s.relation) for s, _ in model.channels.frozen)
    support.check(model)


def test_weights_that_a_branch_uses_stay_and_its_result_is_free():
    proto = support.model("""g (float[N,4] x, bool c) => (float[N,3] y)
        <float[4,8] w1, float[8,3] w2, float[8,3] w3> {
        h = MatMul(x, w1)  z = Identity(w2)  y = MatMul(h, z) }""")
    proto.graph.node[1].CopyFrom(helper.make_node(
        "If", ["c"], ["z"],
        then_branch=branch("a", "Identity", "w2"), else_branch=branch("b", "Identity", "w3"),
    ))  # fmt: skip
    model = support.analysed(proto)
    assert model.widths == []
    support.check(model)


def test_loops_and_what_they_capture_stay():
    proto = support.model("""g (float[N,8] x) => (float[N,3] y)
        <float[8,8] w1, float[8,6] w2, float[6,3] w3, int64 n = {3}, bool on = {1}> {
        s = Loop(n, on, x)  k = MatMul(s, w2)  r = Relu(k)  y = MatMul(r, w3) }""")
    body = onnx.parser.parse_graph("""body (int64 i, bool c, float[N,8] s) => (bool d, float[N,8] t) {
        d = Identity(c)  m = MatMul(s, w1)  t = Tanh(m) }""")
    proto.graph.node[0].attribute.append(helper.make_attribute("body", body))
    model = support.analysed(proto)
    assert model.widths == [6]
    support.check(model)
    assert initializer(pruned_half(model), "w1").dims == [8, 8]


def test_local_functions_are_inlined():
    text = """<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
        g (float[N,4] x) => (float[N,3] y) { h = local.Layer(x, w)  y = MatMul(h, v) }
        <domain: "local", opset_import: ["" : 17]>
        Layer (a, b) => (c) { m = MatMul(a, b)  c = Relu(m) }"""
    proto = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    for name, shape in (("w", (4, 8)), ("v", (8, 3))):
        proto.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype("f"), name))
    model = support.analysed(proto)
    assert model.widths == [8]
    support.check(model)


# --- versions and types -------------------------------------------------------------------------------

NEWEST = min(onnx.defs.onnx_opset_version(), 24)


@pytest.mark.parametrize("opset", range(7, NEWEST + 1))
def test_every_opset(opset):
    pad = "p = Pad<pads = [0, 0, 1, 1, 0, 0, 1, 1]>(h)" if opset < 11 else "p = Pad(h, pads)"
    squeeze = "s = Squeeze<axes = [2, 3]>(q)" if opset < 13 else "s = Squeeze(q, axes)"
    split = "c, d = Split<axis = 1>(n)" if opset < 18 else "c, d = Split<axis = 1, num_outputs = 2>(n)"
    more = ", int64[8] pads = {0, 0, 1, 1, 0, 0, 1, 1}" if opset >= 11 else ""
    more += ", int64[2] axes = {2, 3}" if opset >= 13 else ""
    text = f"""g (float[N,4,6,6] x) => (float[N,3] y)
        <float[8,4,1,1] w1, float[8] b1, float[8] scale, float[8] b, float[8] m, float[8] var,
        float[6,4,3,3] w2, float[6,3] w3, float[3] b3 {more}> {{
        h = Conv(x, w1, b1)  {pad}  n = BatchNormalization(p, scale, b, m, var)  {split}
        e = Mul(c, d)  r = Relu(e)  k = Conv(r, w2)  q = GlobalAveragePool(k)  {squeeze}
        y = Gemm(s, w3, b3) }}"""
    model = support.analysed(support.model(text, opset=opset))
    assert model.widths == [4, 6]
    support.check(model, seeds=(0, 1))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 2e-2), ("double", 1e-9)])
def test_other_float_types(dtype, tolerance):
    model = support.analysed(support.model(CHAIN.replace("float[", f"{dtype}[")))
    assert model.widths == [8, 6]
    support.check(model, tolerance=tolerance)


def test_bfloat16_weights_behind_casts():
    text = """g (float[N,4] x) => (float[N,3] y) <bfloat16[4,8] w, bfloat16[8,3] v> {
        a = Cast<to = 1>(w)  b = Cast<to = 1>(v)  h = MatMul(x, a)  y = MatMul(h, b) }"""
    model = support.analysed(support.model(text))
    assert model.widths == [8]
    support.check(model)


def test_masks_have_the_type_of_what_they_mask():
    text = """g (float[N,4] x) => (bfloat16[N,3] y) <bfloat16[4,8] w, bfloat16[8,3] v> {
        a = Cast<to = 16>(x)  h = MatMul(a, w)  y = MatMul(h, v) }"""
    graph = support.canonicalize(support.model(text))
    shapes = {"x": (2, 4), "a": (2, 4), "h": (2, 8), "y": (2, 3)}
    channels = support.find_channels(support.GraphView(graph, shapes))
    editor = support.Editor(graph)
    removed = support.removed_channels(channels, {g.name: np.arange(3) for g in channels.groups})
    support.mask(editor, channels, removed)
    masked = support.export_model(editor.graph, support.model(text))
    onnx.checker.check_model(masked, full_check=True)
    assert initializer(masked, "h_kept").data_type == TensorProto.BFLOAT16


# --- lengths ------------------------------------------------------------------------------------------


def test_dynamic_lengths_stay_dynamic():
    text = """g (float[N,4,H,W] x) => (float[N,3,P,Q] y, float[N,K] z)
        <float[8,4,3,3] w1, float[8,8,1,1] w2, float[3,8,1,1] w3,
        int64[1] zero = {0}, int64[1] two = {2}, int64[1] four = {4}, int64[1] rest = {-1}> {
        h = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(x, w1)  k = Conv(h, w2)  s = Shape(x)
        places = Slice(s, two, four)  t = Shape(k)  front = Slice(t, zero, two)
        size = Concat<axis = 0>(front, places)  r = Resize(k, , , size)  y = Conv(r, w3)
        n = Gather(s, zero)  flat = Concat<axis = 0>(n, rest)  z = Reshape(y, flat) }"""
    model = support.analysed(support.model(text), sizes={"N": 1, "H": 8, "W": 6})
    assert model.widths == [8, 8]
    support.check(model)
    selection = model.selection(3)
    pruned, masked = (
        support.RUNTIME.session(model.prune(selection)),
        support.RUNTIME.session(model.mask(selection)),
    )
    for size in ((2, 8, 8), (3, 11, 5)):
        feed = support.random_feed(pruned, sizes=dict(zip("NHW", size, strict=True)))
        for name, value in masked.run(feed).items():
            np.testing.assert_allclose(pruned.run(feed)[name], value, rtol=1e-4, atol=1e-4)


def test_lengths_in_a_chain_of_arithmetic_are_known_and_the_batch_stays_dynamic():
    """The bounds of a Slice of a Shape are computed from constants, as by the older exporter of torch."""
    text = """g (float[N,5,4] x) => (float[N,5,3] y)
        <float[4,24] w, float[8,3] v, int64[1] last = {2}, int64[1] rank = {3}, int64[1] zero = {0},
        int64[2] parts = {3, 8}, int64[1] two = {2}, int64 n0 = {0}, int64 n1 = {1}, int64 n2 = {2}> {
        h = MatMul(x, w)  s = Shape(h)  end = Mod(last, rank)  front = Slice(s, zero, end)
        t = Concat<axis = 0>(front, parts)  r = Reshape(h, t)
        q = Gather<axis = 2>(r, n0)  k = Gather<axis = 2>(r, n1)  m = Gather<axis = 2>(r, n2)
        size = Shape(q)  length = Gather(size, n2)  real = Cast<to = 1>(length)  root = Sqrt(real)
        a = Div(q, root)  c = Mul(a, k)  e = Mul(c, m)  y = MatMul(e, v) }"""
    model = support.analysed(support.model(text))
    assert model.widths == [8]
    support.check(model)
    pruned, masked = (support.RUNTIME.session(made(model.selection(3))) for made in (model.prune, model.mask))
    feed = {"x": np.random.default_rng(0).standard_normal((7, 5, 4)).astype(np.float32)}
    np.testing.assert_allclose(pruned.run(feed)["y"], masked.run(feed)["y"], rtol=1e-4, atol=1e-4)


def test_batch_and_tokens_in_one_axis():
    text = """g (float[N,T,4] x) => (float[N,T,3] y)
        <float[4,8] w, float[8,8] u, float[8,3] v, int64[2] flat = {-1, 4}, int64 zero = {0}, int64 one = {1},
        int64[1] first = {0}, int64[1] rest = {-1}> {
        a = Reshape(x, flat)  h = MatMul(a, w)  s = Shape(x)  n0 = Gather(s, zero)  t0 = Gather(s, one)
        n = Unsqueeze(n0, first)  t = Unsqueeze(t0, first)  back = Concat<axis = 0>(n, t, rest)
        k = Reshape(h, back)  l = MatMul(k, u)  r = Relu(l)  y = MatMul(r, v) }"""
    model = support.analysed(support.model(text), sizes={"N": 2, "T": 5})
    assert model.widths == [8, 8]
    support.check(model)


def test_several_inputs_and_outputs():
    text = """g (float[N,4] x, float[N,5] z) => (float[N,3] y, float[N,2] q)
        <float[4,8] w, float[5,8] v, float[8,3] u, float[8,2] t> {
        h = MatMul(x, w)  k = MatMul(z, v)  s = Add(h, k)  y = MatMul(s, u)  q = MatMul(k, t) }"""
    model = support.analysed(support.model(text))
    assert model.widths == [8]
    assert not model.channels.groups[0].chain
    support.check(model)


def test_channels_last_as_tf2onnx_writes_it():
    text = """g (float[N,6,6,4] x) => (float[N,6,6,3] y)
        <float[8,4,3,3] w, float[8] b, float[8,1,3,3] d, float[1,1,1,8] s, float[3,8,1,1] v> {
        a = Transpose<perm = [0, 3, 1, 2]>(x)  h = Conv<pads = [1, 1, 1, 1]>(a, w, b)
        i = Transpose<perm = [0, 2, 3, 1]>(h)  m = Mul(i, s)  r = Relu(m)
        c = Transpose<perm = [0, 3, 1, 2]>(r)  e = Conv<group = 8, pads = [1, 1, 1, 1]>(c, d)
        k = Conv(e, v)  y = Transpose<perm = [0, 2, 3, 1]>(k) }"""
    model = support.analysed(support.model(text))
    assert model.widths == [8]
    support.check(model)


def test_new_constants_of_old_files_become_inputs_as_all_of_theirs_are():
    """Before IR version 4 an initializer had to be a graph input: a bias that a compensation adds, too."""
    proto = old_chain()
    inputs = np.random.default_rng(0).standard_normal((32, 4)).astype(np.float32)
    result = onnxmerge.optimize(proto, ratio=0.5, calibration={"x": inputs}, compensation="lstsq")
    added = {t.name for t in result.model.graph.initializer} - {t.name for t in proto.graph.initializer}
    assert added and added <= {value.name for value in result.model.graph.input}
    onnx.checker.check_model(result.model)

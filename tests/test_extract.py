"""Parts of a graph as models of their own, and nodes on constants."""

from __future__ import annotations

import numpy as np
import onnx
import support
from onnx import helper

from onnxmerge.graph.extract import ancestors, evaluate, extract, reads, typed
from onnxmerge.runtime import Runtime

TEXT = """g (float[N,4] x, float[N,4] z) => (float[N,2] y, float[N,4] s) <float[4,3] w, float[3,2] v> {
    h = MatMul(x, w)  r = Relu(h)  y = MatMul(r, v)  s = Add(x, z) }"""


def test_a_part_between_named_tensors_computes_what_the_whole_does():
    proto, runtime = support.model(TEXT), Runtime.create("cpu", 1)
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    h = np.random.default_rng(1).standard_normal((5, 3)).astype(np.float32)
    stored, opsets = proto.graph.initializer[1], proto.opset_import
    part = extract(proto.graph.node[1:3], [typed("h", h.dtype)], ["y"], [stored], opsets=opsets)
    weight = onnx.numpy_helper.to_array(stored)
    assert np.allclose(runtime.session(part).run({"h": h})["y"], np.maximum(h, 0) @ weight, atol=1e-6)
    whole = runtime.session(proto).run({"x": x, "z": x})
    assert np.array_equal(runtime.session(ancestors(proto, ["y"])).run({"x": x})["y"], whole["y"])


def test_ancestors_are_what_is_needed_and_nothing_else():
    part = ancestors(support.model(TEXT), ["h"])
    assert [node.output[0] for node in part.graph.node] == ["h"]
    assert [value.name for value in part.graph.input] == ["x"]
    assert [tensor.name for tensor in part.graph.initializer] == ["w"]
    assert [value.name for value in part.graph.output] == ["h"]


def test_a_node_reads_what_its_branches_capture():
    inner = helper.make_graph(
        [helper.make_node("Add", ["outer", "own"], ["sum"])],
        "branch",
        [],
        [helper.make_empty_tensor_value_info("sum")],
        [onnx.numpy_helper.from_array(np.ones(1, np.float32), "own")],
    )
    node = helper.make_node("If", ["condition"], ["y"], then_branch=inner, else_branch=inner)
    assert reads(node) == ["condition", "outer", "outer"]


def test_nodes_on_constants():
    nodes = [helper.make_node("Add", ["a", "b"], ["c"]), helper.make_node("Neg", ["c"], ["d"])]
    values = {"a": np.arange(3.0, dtype=np.float32), "b": np.ones(1, np.float32)}
    d, c = evaluate(nodes, values, ["d", "c"], 17) or ()
    assert np.array_equal(c, [1, 2, 3]) and np.array_equal(d, [-1, -2, -3])
    unknown = [helper.make_node("Gelu", ["a"], ["c"], domain="com.microsoft")]
    assert evaluate(unknown, values, ["c"], 17) is None

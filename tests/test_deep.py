"""Deep graphs: nothing follows one by recursion, and the time grows with the number of nodes."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxmerge
from onnxmerge.compensation.solvers import ridge
from onnxmerge.graph import GraphView, canonicalize, load
from onnxmerge.pipeline import inspect
from onnxmerge.runtime import Runtime

RUNTIME = Runtime.create("cpu", 1)
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def model(nodes, inputs, outputs, stored) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "deep",
        [helper.make_tensor_value_info(n, t, s) for n, t, s in inputs],
        [helper.make_tensor_value_info(n, t, s) for n, t, s in outputs],
        [numpy_helper.from_array(values, name) for name, values in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def chain(length: int) -> onnx.ModelProto:
    """MatMul, ``length`` Relu, MatMul; and the product of what comes out of the last Relu with itself."""
    rng = np.random.default_rng(0)
    stored = {"w": rng.standard_normal((8, 16)), "v": rng.standard_normal((16, 4))}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h0"], name="first"),
        *(helper.make_node("Relu", [f"h{i}"], [f"h{i + 1}"]) for i in range(length)),
        helper.make_node("MatMul", [f"h{length}", "v"], ["y"], name="last"),
        helper.make_node("Transpose", [f"h{length}"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", [f"h{length}", "t"], ["z"], name="square"),
    ]
    return model(
        nodes,
        [("x", FLOAT, ["n", 8])],
        [("y", FLOAT, ["n", 4]), ("z", FLOAT, ["n", "n"])],
        {name: values.astype(np.float32) for name, values in stored.items()},
    )


DATA = np.random.default_rng(1).standard_normal((32, 8)).astype(np.float32)


@pytest.mark.parametrize("length", [480, 10_000])
def test_a_chain_goes_through_the_whole_pipeline(length):
    assert length < sys.getrecursionlimit() or length > 5 * sys.getrecursionlimit()
    result = onnxmerge.optimize(chain(length), calibration=DATA, ratio=0.5)
    (group,) = result.report["groups"]
    assert (group["before"], group["after"]) == (16, 8)
    assert not any("left whole" in warning for warning in result.report["warnings"])
    assert RUNTIME.session(result.model).run({"x": DATA})["y"].shape == (32, 4)


@pytest.mark.parametrize("options", [{"params": 0.6}, {"params": 0.6, "compensation": "merge"}, {}], ids=str)
def test_every_way_through_a_deep_chain(options):
    result = onnxmerge.optimize(chain(2000), calibration=DATA, **options)
    if options:
        assert result.report["output"]["params"] <= 0.6 * result.report["input"]["params"]
    assert inspect(chain(2000)).content["groups"]


def test_nodes_in_the_wrong_order_are_sorted():
    shuffled = chain(3000)
    nodes = list(shuffled.graph.node)
    del shuffled.graph.node[:]
    shuffled.graph.node.extend(nodes[::-1])
    made: set[str] = {"x", "w", "v"}
    for node in canonicalize(load(shuffled).proto).nodes:
        assert all(tensor.name in made for tensor in node.inputs)
        made |= {tensor.name for tensor in node.outputs}


def test_a_deep_chain_of_lengths_is_followed():
    """A shape whose numbers go through thousands of operators on integers."""
    count = 5000
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Slice", ["s", "zero", "one"], ["n0"]),
        *(helper.make_node("Add", [f"n{i}", "step"], [f"n{i + 1}"]) for i in range(count)),
        helper.make_node("Concat", [f"n{count}", "minus"], ["to"], axis=0),
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Reshape", ["h", "to"], ["y"]),
    ]
    stored = {name: np.array([v]) for name, v in {"zero": 0, "one": 1, "step": 0, "minus": -1}.items()}
    stored["w"] = np.ones((8, 4), np.float32)
    proto = model(nodes, [("x", FLOAT, ["n", 8])], [("y", FLOAT, ["n", 4])], stored)
    graph = canonicalize(proto)
    view = GraphView(graph, RUNTIME.trace(proto, {"x": DATA[:1]}))
    assert next(node for node in view if node.op == "Reshape").elements(1) == [None, -1]


def test_a_covariance_that_rounding_made_indefinite_is_still_solved():
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.standard_normal((6, 6)))
    gram = basis @ np.diag([1.0, 0.5, 0.2, 0.1, 1e-9, -1e-6]) @ basis.T
    truth = rng.standard_normal((3, 6)) @ np.diag([1, 1, 1, 1, 0, 0]) @ basis.T
    found = ridge(gram, truth @ gram, np.zeros((3, 6)), 1e-8)
    assert np.allclose(found, truth, atol=1e-4)


def test_no_outputs_are_none():
    """onnxruntime takes an empty list of names for all outputs."""
    proto = chain(1)
    assert RUNTIME.session(proto).run({"x": DATA}, []) == {}
    assert RUNTIME.session(proto).run({"x": DATA}, ["y"]).keys() == {"y"}

"""Made-up inputs: sizes that run, and values that mean what the model takes them for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxmerge.cli.given import in_flags
from onnxmerge.data import made_up_inputs
from onnxmerge.errors import ModelError, UsageError
from onnxmerge.runtime import Runtime

SHARED = Path(__file__).parents[2] / "shared"
CPU = Runtime.create("cpu", threads=1)
F, I64, I32, B = TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL


def model(nodes, inputs, outputs, initializers=()):
    values = [helper.make_tensor_value_info(n, t, s) for n, t, s in inputs]
    results = [helper.make_tensor_value_info(n, t, s) for n, t, s in outputs]
    tensors = [numpy_helper.from_array(a, n) for n, a in initializers]
    graph = helper.make_graph(nodes, "g", values, results, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def made(proto, samples=8, seed=0, **shapes):
    session = CPU.session(proto)
    data = made_up_inputs(proto, session.inputs, shapes, seed, samples, CPU)
    for feed in data.feeds():
        session.run(feed)
    return data


def whole(data, name):
    return np.concatenate([feed[name] for feed in data.feeds()])


def conv(size=("h", "w"), kernel=5):
    weight = ("w", np.ones((2, 3, kernel, kernel), np.float32))
    return model(
        [helper.make_node("Conv", ["x", "w"], ["y"])], [("x", F, ["N", 3, *size])], [("y", F, None)], [weight]
    )


def test_floats_are_normal_seeded_and_named_in_the_source():
    data = made(conv(), samples=64)
    values = whole(data, "x")
    assert values.shape == (64, 3, 8, 8)  # 8 is the first size of the ladder that a 5x5 kernel allows
    assert abs(values.mean()) < 0.05 and abs(values.std() - 1) < 0.05
    assert data.made_up and "x [1, 3, 8, 8]" in data.source
    np.testing.assert_array_equal(values, whole(made(conv(), samples=64), "x"))
    assert not np.array_equal(values, whole(made(conv(), samples=64, seed=1), "x"))


def test_given_shapes_are_used_and_checked():
    assert whole(made(conv(), x=(2, 3, 5, 9)), "x").shape == (8, 3, 5, 9)
    with pytest.raises(UsageError, match=r"needs \[N, 3, h, w\]"):
        made(conv(), x=(1, 4, 5, 9))
    with pytest.raises(UsageError, match="declares"):
        made(conv(), x=(3, 5, 9))
    with pytest.raises(UsageError, match="inputs are x"):
        made(conv(), y=(1, 3, 5, 9))
    with pytest.raises(UsageError, match="at least 1"):
        made(conv(), x=(1, 3, 0, 9))


def test_one_name_is_one_size():
    nodes = [helper.make_node("Add", ["a", "b"], ["y"])]
    data = made(model(nodes, [("a", F, ["N", "T"]), ("b", F, ["N", "T"])], [("y", F, None)]), a=(1, 7))
    assert whole(data, "b").shape == (8, 7)


def test_a_size_must_give_outputs_that_are_finite_and_not_empty():
    nodes = [helper.make_node("Slice", ["x", "from", "to", "axes"], ["y"])]
    constants = [(n, np.array([v], np.int64)) for n, v in (("from", 3), ("to", 100), ("axes", 1))]
    data = made(model(nodes, [("x", F, ["N", "T"])], [("y", F, None)], constants))
    assert whole(data, "x").shape[1] == 4


def test_indices_lie_within_what_they_index():
    nodes = [
        helper.make_node("Add", ["ids", "two"], ["shifted"]),
        helper.make_node("Cast", ["shifted"], ["wide"], to=I64),
        helper.make_node("Gather", ["table", "wide"], ["y"]),
    ]
    table = [("table", np.ones((11, 3), np.float32)), ("two", np.array(2, np.int32))]
    data = made(model(nodes, [("ids", I32, ["N", "T"])], [("y", F, None)], table), samples=200)
    ids = whole(data, "ids")
    assert ids.dtype == np.int32 and ids.min() == 0 and ids.max() == 8


def test_indices_into_an_activation_follow_its_size():
    nodes = [helper.make_node("Gather", ["nodes", "edges"], ["y"])]
    proto = model(nodes, [("nodes", F, ["n", 3]), ("edges", I64, [2, "e"])], [("y", F, None)])
    data = made(proto, nodes=(30, 3), edges=(2, 60))
    edges = np.stack([feed["edges"] for feed in data.feeds()])
    assert data.ready is not None and len(data) == 8 and 25 < edges.max() < 30


def test_masks_are_true_and_other_integers_small():
    nodes = [
        helper.make_node("Where", ["flag", "x", "zero"], ["a"]),
        helper.make_node("Cast", ["attention_mask"], ["m"], to=F),
        helper.make_node("Cast", ["kind"], ["k"], to=F),
        helper.make_node("Mul", ["a", "m"], ["b"]),
        helper.make_node("Mul", ["b", "k"], ["y"]),
    ]
    shape = ["N", 4]
    inputs = [("x", F, shape), ("flag", B, shape), ("attention_mask", I64, shape), ("kind", I64, shape)]
    data = made(model(nodes, inputs, [("y", F, None)], [("zero", np.float32(0))]))
    assert whole(data, "flag").all() and (whole(data, "attention_mask") == 1).all()
    assert set(np.unique(whole(data, "kind"))) == {0, 1}


def recurrent():
    rng = np.random.default_rng(0)
    weights = [
        ("W", rng.standard_normal((1, 12, 5), np.float32)),
        ("R", rng.standard_normal((1, 12, 3), np.float32)),
    ]
    nodes = [
        helper.make_node("Unsqueeze", ["memory", "front"], ["h0"]),
        helper.make_node("LSTM", ["x", "W", "R", "", "n", "h0", "h0"], ["", "y"], hidden_size=3),
    ]
    inputs = [("x", F, ["T", "N", 5]), ("n", I32, ["N"]), ("memory", F, ["N", 3])]
    return model(nodes, inputs, [("y", F, None)], [*weights, ("front", np.array([0], np.int64))])


def test_recurrent_state_is_zero_and_lengths_are_the_sequence():
    data = made(recurrent(), samples=4, x=(7, 2, 5))
    for feed in data.feeds():
        assert (feed["n"] == 7).all() and feed["n"].shape == (2,)
        assert not feed["memory"].any() and feed["x"].any()


def test_lengths_by_name_follow_the_open_axis():
    nodes = [
        helper.make_node("Cast", ["lengths"], ["f"], to=F),
        helper.make_node("Unsqueeze", ["f", "one"], ["g"]),
        helper.make_node("Mul", ["audio", "g"], ["y"]),
    ]
    proto = model(
        nodes,
        [("audio", F, ["N", "T"]), ("lengths", I64, ["N"])],
        [("y", F, None)],
        [("one", np.array([1], np.int64))],
    )
    data = made(proto, audio=(1, 50))
    assert (whole(data, "lengths") == 50).all()


def test_the_only_input_of_a_policy_is_no_recurrent_state():
    nodes = [helper.make_node("Relu", ["state"], ["y"])]
    assert whole(made(model(nodes, [("state", F, ["N", 8])], [("y", F, None)])), "state").any()


def test_fixed_batches_are_filled():
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    data = made(model(nodes, [("x", F, [3, 2])], [("y", F, [3, 2])]), samples=7)
    assert len(data) == 9 and [f["x"].shape for f in data.feeds()] == [(3, 2)] * 3


def test_a_batch_that_only_the_graph_fixes_is_respected():
    nodes = [helper.make_node("Reshape", ["x", "to"], ["y"])]
    proto = model(nodes, [("x", F, ["N", 4])], [("y", F, None)], [("to", np.array([2, 2], np.int64))])
    data = made(proto)
    assert [f["x"].shape for f in data.feeds()] == [(1, 4)] * 8


def test_a_model_that_runs_at_no_size_asks_for_a_shape():
    nodes = [helper.make_node("Reshape", ["x", "to"], ["y"])]
    proto = model(nodes, [("x", F, ["N", "T"])], [("y", F, None)], [("to", np.array([17, 59], np.int64))])
    with pytest.raises(ModelError) as failure:
        made(proto)
    said = str(failure.value)
    assert "'x' [N, T]" in said and "from 1 to at most 16000" in said and "shapes= x=1,512 " in said
    assert "--shape x=1,512 (with your own" in in_flags(said)
    assert whole(made(proto, samples=1, x=(1, 1003)), "x").shape == (1, 1003)


def test_open_lengths_of_states_are_the_batch_where_nothing_else_runs():
    """Windows of sound with a state [layers, batch, hidden], of which a file says only the first and last."""
    nodes = [
        helper.make_node("Reshape", ["sound", "to"], ["x"]),
        helper.make_node("LSTM", ["x", "w", "r", "", "", "h0", "c0"], ["y", "h", ""], hidden_size=2),
    ]
    inputs = [("sound", F, [None, None]), ("h0", F, [1, None, 2]), ("c0", F, [1, None, 2])]
    rng = np.random.default_rng(0)
    weights = [
        ("to", np.array([1, 1, 32], np.int64)),
        ("w", rng.standard_normal((1, 8, 32)).astype(np.float32)),
        ("r", rng.standard_normal((1, 8, 2)).astype(np.float32)),
    ]
    data = made(model(nodes, inputs, [("y", F, None), ("h", F, None)], weights), samples=2)
    assert {name: a.shape for name, a in next(data.feeds()).items()} == {
        "sound": (1, 32), "h0": (1, 1, 2), "c0": (1, 1, 2)
    }  # fmt: skip
    assert "sound [1, 32]" in data.source


@pytest.mark.skipif(not (SHARED / "corpus").is_dir(), reason="the corpus of real files is not here")
def test_real_files_with_open_dimensions():
    entries = json.loads((SHARED / "corpus/index.json").read_text())
    for entry in (e for e in entries if e["runs"] and e["dynamic_dims"]):
        proto = onnx.load(SHARED / "corpus" / entry["file"])
        session = CPU.session(proto)
        data = made_up_inputs(proto, session.inputs, {}, 0, 2, CPU)
        for value in session.run(next(data.feeds())).values():
            assert not isinstance(value, np.ndarray) or value.dtype.kind != "f" or np.isfinite(value).all()
        given = {name: tuple(shape) for name, shape in entry["run_input_shapes"].items()}
        feed = next(made_up_inputs(proto, session.inputs, given, 0, 1, CPU).feeds())
        assert {name: value.shape for name, value in feed.items()} == given

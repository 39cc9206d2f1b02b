"""The runtime: devices, sessions, concrete shapes, intermediate values, sentences for failures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxmerge import limits
from onnxmerge.errors import DeviceError, ModelError, UsageError
from onnxmerge.graph.external_weights import Stored
from onnxmerge.runtime import Runtime
from onnxmerge.runtime import runtime as runtime_module
from onnxmerge.runtime.partial import Segments

SHARED = Path(__file__).parents[2] / "shared"
CPU = Runtime.create("cpu", threads=1)


def model(nodes, inputs, outputs, initializers=(), opset=17):
    values = [helper.make_tensor_value_info(n, t, s) for n, t, s in inputs]
    results = [helper.make_tensor_value_info(n, t, s) for n, t, s in outputs]
    tensors = [numpy_helper.from_array(a, n) for n, a in initializers]
    graph = helper.make_graph(nodes, "g", values, results, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def two_layers():
    rng = np.random.default_rng(0)
    weights = [("w", rng.standard_normal((4, 6), np.float32)), ("v", rng.standard_normal((6, 2), np.float32))]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Relu", ["h"], ["a"], name="act"),
        helper.make_node("MatMul", ["a", "v"], ["y"]),
    ]
    return model(nodes, [("x", 1, ["N", 4])], [("y", 1, ["N", 2])], weights)


def test_session_describes_inputs_and_runs():
    session = CPU.session(two_layers())
    assert (session.provider, session.threads) == ("CPUExecutionProvider", 1)
    (info,) = session.inputs
    assert (info.name, info.dtype, info.shape) == ("x", np.float32, ("N", 4))
    assert session.run({"x": np.ones((3, 4), np.float32)})["y"].shape == (3, 2)
    assert list(session.run({"x": np.ones((3, 4), np.float32)}, ["y"])) == ["y"]


def test_meaningless_dimensions_are_unknown():
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    session = CPU.session(model(nodes, [("x", 1, [0, 3, "?", None])], [("y", 1, None)]))
    assert session.inputs[0].shape == (None, 3, None, None)


def test_trace_gives_every_tensor_and_leaves_the_model_alone(tmp_path):
    proto = two_layers()
    before = proto.SerializeToString()
    expected = {"x": (5, 4), "w": (4, 6), "v": (6, 2), "h": (5, 6), "a": (5, 6), "y": (5, 2)}
    feed = {"x": np.ones((5, 4), np.float32)}
    assert CPU.trace(proto, feed) == expected
    assert proto.SerializeToString() == before
    path = tmp_path / "m.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="m.data", size_threshold=0)
    assert CPU.trace(path, feed) == expected
    assert CPU.trace(before, feed) == expected


def test_trace_leaves_out_what_is_no_tensor():
    nodes = [
        helper.make_node("SplitToSequence", ["x"], ["s"], axis=0),
        helper.make_node("Identity", ["s"], ["t"]),  # no operator of sequences, and no declared type
        helper.make_node("SequenceLength", ["t"], ["n"]),
    ]
    shapes = CPU.trace(model(nodes, [("x", 1, [4, 3])], [("n", 7, [])]), {"x": np.ones((4, 3), np.float32)})
    assert shapes == {"x": (4, 3), "n": ()}


def test_trace_of_a_name_that_looks_like_ours():
    nodes = [helper.make_node("Relu", ["x"], ["shape_of_0"]), helper.make_node("Relu", ["shape_of_0"], ["y"])]
    shapes = CPU.trace(model(nodes, [("x", 1, [2])], [("y", 1, [2])]), {"x": np.ones(2, np.float32)})
    assert shapes == {"x": (2,), "shape_of_0": (2,), "y": (2,)}


def test_values_of_intermediate_input_initializer_and_output():
    proto = two_layers()
    x = np.random.default_rng(1).standard_normal((3, 4), np.float32)
    found = CPU.values(proto, {"x": x}, ["a", "w", "x", "y"])
    assert list(found) == ["a", "w", "x", "y"]
    np.testing.assert_allclose(found["a"], np.maximum(x @ found["w"], 0), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found["x"], x)
    with pytest.raises(ModelError, match="no tensor named 'nonsense'"):
        CPU.values(proto, {"x": x}, ["nonsense"])


def test_bfloat16_is_exchanged_as_float32():
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    session = CPU.session(
        model(nodes, [("x", TensorProto.BFLOAT16, [3])], [("y", TensorProto.BFLOAT16, [3])])
    )
    assert session.inputs[0].dtype == np.float32
    result = session.run({"x": np.array([1.0, -2.5, 1.0 + 2**-12], np.float32)})["y"]
    np.testing.assert_array_equal(result, np.array([1.0, -2.5, 1.0], np.float32))


def test_run_failures_say_what_is_wrong():
    session = CPU.session(two_layers())
    with pytest.raises(ModelError, match="Got: 3 Expected: 4"):
        session.run({"x": np.ones((1, 3), np.float32)})
    with pytest.raises(ModelError, match=r"tensor\(double\)"):
        session.run({"x": np.ones((1, 4))})
    nodes = [helper.make_node("Reshape", ["x", "to"], ["y"], name="here")]
    broken = model(nodes, [("x", 1, ["N"])], [("y", 1, None)], [("to", np.array([7], np.int64))])
    with pytest.raises(ModelError, match="'here'"):
        CPU.session(broken).run({"x": np.ones(5, np.float32)})


@pytest.mark.parametrize("junk", [b"not a model at all", b""])
def test_junk_is_refused(junk, tmp_path):
    with pytest.raises(ModelError):
        CPU.session(junk)
    path = tmp_path / "junk.onnx"
    path.write_bytes(junk)
    with pytest.raises(ModelError):
        CPU.session(path)


def test_unknown_operator_is_named():
    nodes = [helper.make_node("Fancy", ["x"], ["y"], domain="org.example")]
    proto = model(nodes, [("x", 1, [1])], [("y", 1, [1])])
    proto.opset_import.append(helper.make_opsetid("org.example", 1))
    with pytest.raises(ModelError, match=r"no operator Fancy of domain 'org\.example'"):
        CPU.session(proto)


def test_bad_words_for_devices_and_threads():
    with pytest.raises(UsageError):
        Runtime.create("gpu")
    with pytest.raises(UsageError):
        Runtime.create("cpu", threads=0)


def test_cuda_that_does_not_work(monkeypatch):
    monkeypatch.setattr(runtime_module, "_cuda_lacks", lambda: "libcublas.so.12 is missing")
    with pytest.raises(DeviceError, match=r"libcublas\.so\.12"):
        Runtime.create("cuda")
    monkeypatch.setattr(runtime_module.ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    plain = Runtime.create("auto")
    assert (plain.provider, plain.notes) == ("CPUExecutionProvider", ())
    monkeypatch.setattr(runtime_module.ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    fallen = Runtime.create("auto")
    assert fallen.provider == "CPUExecutionProvider"
    assert len(fallen.notes) == 1 and "libcublas.so.12" in fallen.notes[0]


def test_silent_fallback_is_noticed():
    """onnxruntime builds a CPU session where CUDA was asked for; the runtime must not accept it."""
    if "CUDAExecutionProvider" in runtime_module.ort.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(DeviceError, match="CPUExecutionProvider"),
    ):
        Runtime("cuda", "CUDAExecutionProvider", 1).session(two_layers())


@pytest.mark.skipif(not (SHARED / "corpus").is_dir(), reason="the corpus of real files is not here")
def test_corpus_files_that_do_not_run_get_one_sentence():
    entries = [e for e in json.loads((SHARED / "corpus/index.json").read_text()) if not e["runs"]]
    assert entries
    for entry in entries:
        with pytest.raises(ModelError) as caught:
            session = CPU.session(SHARED / "corpus" / entry["file"])
            session.run({i.name: np.zeros(entry["inputs"][i.name], i.dtype) for i in session.inputs})
        text = str(caught.value)
        assert "\n" not in text and "ONNXRuntimeError" not in text and len(text) < 300, text


@pytest.mark.skipif(not (SHARED / "corpus").is_dir(), reason="the corpus of real files is not here")
@pytest.mark.parametrize("part", ["mlp.onnx", "gnn.onnx", "DTLN__model_1.onnx", "yunet_s_dynamic.onnx"])
def test_trace_of_real_files(part):
    entries = json.loads((SHARED / "corpus/index.json").read_text())
    entry = next(e for e in entries if e["file"].endswith(part))
    path = SHARED / "corpus" / entry["file"]
    session = CPU.session(path)
    feed = {i.name: np.zeros(entry["run_input_shapes"][i.name], i.dtype) for i in session.inputs}
    shapes = CPU.trace(path, feed)
    for name, value in session.run(feed).items():
        if isinstance(value, np.ndarray):
            assert shapes[name] == value.shape
        else:
            assert name not in shapes


def test_bound_runs_compute_the_same_without_moving_data():
    session = CPU.session(two_layers())
    feed = {"x": np.ones((3, 4), np.float32)}
    run = session.bound_runner(feed, "cpu")
    run()
    run()
    assert session.runner(feed)()["y"].shape == (3, 2)
    with pytest.raises(ModelError, match="does not run"):
        session.bound_runner({"x": np.ones((3, 5), np.float32)}, "cpu")()


def test_a_frontier_waits_in_memory_or_in_files(monkeypatch):
    feeds = [{"x": np.full((2, 4), number, np.float32)} for number in range(3)]
    found = {}
    for waiting in (0, 1 << 20):
        monkeypatch.setattr(limits, "LIMITS", limits.Limits(waiting=waiting))
        segments = Segments(two_layers(), feeds, CPU, ["a", "y"])
        with segments.read(["a"]) as reading:
            first = [reading(batch)["a"] for batch in range(3)]
        assert {isinstance(value, Stored) for value in segments.live["a"]} == {waiting == 0}
        with segments.read(["y"]) as reading:
            found[waiting] = [*first, *(reading(batch)["y"] for batch in range(3))]
    for one, other in zip(*found.values(), strict=True):
        np.testing.assert_array_equal(one, other)

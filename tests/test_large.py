"""Models whose weights stay in files: the same results as in memory, and files that are whole or not there.

The sizes from which on a model is large are lowered, so that small models take that path.
"""

from __future__ import annotations

import gc
import hashlib
import os
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import support
from onnx import TensorProto, helper, numpy_helper

import onnxmerge
from onnxmerge import limits
from onnxmerge.cli import main
from onnxmerge.errors import ModelError, OutputError, UsageError
from onnxmerge.graph import external_weights, load, wire_format
from onnxmerge.graph.external_weights import Stored
from onnxmerge.graph.output import measured, save
from onnxmerge.runtime import Runtime

DIGITS = Path(__file__).parents[1] / "models" / "digits.onnx"
CALIB = DIGITS.with_name("digits_calib.npz")
RUNTIME = Runtime.create("cpu", 1)


@pytest.fixture
def large(monkeypatch, tmp_path):
    """Every model is large, and its weights of 256 bytes and more stay in files."""
    monkeypatch.setattr(limits, "LIMITS", limits.Limits(large_model=1, mapped_tensor=256))
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def external(tmp_path) -> Path:
    """The digits model with its weights in a file of their own."""
    path = tmp_path / "in.onnx"
    onnx.save(onnx.load(DIGITS), path, save_as_external_data=True, location="in.bin", size_threshold=0)
    return path


def images(count: int = 64) -> np.ndarray:
    return np.load(CALIB)["image"][:count]


def digest(*paths: Path) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def run(model, **feed) -> np.ndarray:
    return next(iter(RUNTIME.session(model).run(feed).values()))


OPTIONS = [
    {"macs": 0.5},
    {"macs": 0.5, "compensation": "merge", "criterion": "l1"},
    {"params": 0.6, "compensation": "gaussian", "allocation": "uniform"},
    {"tolerance": 0.1},
]


@pytest.mark.parametrize(
    "source, options",
    [("single file", options) for options in OPTIONS]
    + [(source, OPTIONS[0]) for source in ("external data", "in memory")],
    ids=str,
)
def test_the_result_is_that_of_the_small_path(source, options, external, tmp_path, monkeypatch):
    given = {"single file": DIGITS, "external data": external, "in memory": onnx.load(DIGITS)}[source]
    small = onnxmerge.optimize(given, calibration=images(), **options)
    with monkeypatch.context() as context:
        context.setattr(limits, "LIMITS", limits.Limits(large_model=1, mapped_tensor=256))
        large = onnxmerge.optimize(given, calibration=images(), **options)
        assert external_weights.references(large.model), "the large path was taken"
        large.save(tmp_path / "out.onnx")
    for name, keep in small.plan.keep.items():
        assert np.array_equal(keep, large.plan.keep[name])
    expected = run(small.model, image=images())
    assert np.allclose(run(str(tmp_path / "out.onnx"), image=images()), expected, rtol=1e-4, atol=1e-5)
    assert large.report["parity"]["change"] == pytest.approx(small.report["parity"]["change"], abs=1e-6)
    assert large.report["input"]["bytes"] == small.report["input"]["bytes"]
    if source != "in memory":
        assert large.report["input"]["sha256"] == small.report["input"]["sha256"]


def test_what_waits_in_files_changes_nothing(monkeypatch):
    """Models between small and large: worked on in files, and whole when they are done."""
    given = support.narrow_digits()
    options = {"macs": 0.6, "calibration": images(48), "patches": 1000, "threads": 1}
    with monkeypatch.context() as context:
        put: list[Stored] = []
        context.setattr(limits, "LIMITS", limits.Limits(in_files=1, mapped_tensor=256, waiting=0))
        context.setattr(Stored, "values", lambda self, read=Stored.values: put.append(self) or read(self))
        found = onnxmerge.optimize(given, **options)
        assert put, "activations waited in files"
    assert found.original.scratch is not None and external_weights.references(found.original.proto)
    assert not external_weights.references(found.model)
    expected = onnxmerge.optimize(given, **options)
    assert found.report.input == expected.report.input
    assert found.plan.keep.keys() == expected.plan.keep.keys()
    for name, keep in expected.plan.keep.items():
        assert np.array_equal(found.plan.keep[name], keep)
    answers = (run(model, image=images()) for model in (found.model, expected.model))
    np.testing.assert_allclose(*answers, rtol=1e-4, atol=1e-5)


def test_weights_are_written_beside_the_model_as_the_input_had_them(large, external, tmp_path):
    before = digest(external, tmp_path / "in.bin")
    result = onnxmerge.optimize(external, calibration=images(8), macs=0.5)
    out = tmp_path / "there" / "out.onnx"
    out.parent.mkdir()
    result.save(out)
    assert sorted(p.name for p in out.parent.iterdir()) == ["out.onnx", "out.onnx.data"]
    onnx.checker.check_model(str(out), full_check=True)
    assert run(str(out), image=images(2)).shape == (2, 10)
    assert digest(external, tmp_path / "in.bin") == before
    again = load(out)
    assert abs(again.bytes - result.report["output"]["bytes"]) < 100 * len(again.proto.graph.initializer)
    assert any("alternating blocks" in warning for warning in result.report["warnings"])


def test_a_single_file_gives_a_single_file(large, tmp_path):
    result = onnxmerge.optimize(DIGITS, calibration=images(8), macs=0.5)
    result.save(tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx.data").exists()
    assert digest(tmp_path / "out.onnx") == result.report["output"]["sha256"]
    assert (tmp_path / "out.onnx").stat().st_size == result.report["output"]["bytes"]
    onnx.checker.check_model(onnx.load(tmp_path / "out.onnx"), full_check=True)


def test_what_no_single_file_holds_is_written_beside(large, tmp_path, monkeypatch):
    monkeypatch.setattr("onnxmerge.graph.output.PROTOBUF_LIMIT", 1000)
    result = onnxmerge.optimize(DIGITS, calibration=images(8), macs=0.5)
    result.save(tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx.data").stat().st_size > (tmp_path / "out.onnx").stat().st_size
    assert run(str(tmp_path / "out.onnx"), image=images(2)).shape == (2, 10)


def test_nothing_removed_is_the_input_again(large, external, tmp_path):
    result = onnxmerge.optimize(external, calibration=images(8), ratio=0.0)
    result.save(tmp_path / "out.onnx")
    assert result.report["unchanged"]
    assert np.array_equal(
        run(str(tmp_path / "out.onnx"), image=images(4)), run(str(external), image=images(4))
    )


def test_files_in_scratch_go_with_the_result(large, external):
    result = onnxmerge.optimize(external, calibration=images(8), macs=0.5)
    assert any(large.iterdir())
    del result
    gc.collect()
    assert not any(large.iterdir())


@pytest.mark.parametrize("damage", ["missing", "cut short"])
def test_data_that_is_not_there_is_an_error(damage, large, external, tmp_path):
    data = tmp_path / "in.bin"
    if damage == "missing":
        data.unlink()
    else:
        os.truncate(data, data.stat().st_size // 2)
    with pytest.raises(ModelError, match=r"in\.bin"):
        onnxmerge.optimize(external, macs=0.5)


def test_data_that_goes_while_a_result_is_held_is_an_error(large, external, tmp_path):
    loaded = load(external)
    (tmp_path / "in.bin").unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        save(loaded.proto, tmp_path / "out.onnx", external=True)
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_write_leaves_the_old_files(failure, large, external, tmp_path, monkeypatch):
    out = tmp_path / "out.onnx"
    loaded = load(external)
    save(loaded.proto, out, external=True)
    before = {path.name: digest(path) for path in tmp_path.iterdir() if path.is_file()}

    def fail(*_):
        raise failure

    monkeypatch.setattr("onnxmerge.graph.output.os.fsync", fail)
    with pytest.raises(KeyboardInterrupt if isinstance(failure, KeyboardInterrupt) else OutputError):
        save(loaded.proto, out, external=True)
    assert {path.name: digest(path) for path in tmp_path.iterdir() if path.is_file()} == before


def test_the_input_is_never_written_over(large, tmp_path):
    source = tmp_path / "in.onnx"
    onnx.save(onnx.load(DIGITS), source, save_as_external_data=True, location="o.onnx.data", size_threshold=0)
    before = digest(tmp_path / "o.onnx.data")
    with pytest.raises(UsageError, match=r"o\.onnx\.data"):
        save(load(source).proto, tmp_path / "o.onnx", external=True)
    assert digest(tmp_path / "o.onnx.data") == before


def test_a_model_is_read_and_written_around_its_weights():
    data = DIGITS.read_bytes()
    skeleton, places = wire_format.skeleton(data, 256)
    assert places and len(skeleton.SerializeToString()) < len(data) // 10
    big = {name: memoryview(data)[start : start + size] for name, (start, size) in places.items()}
    assert onnx.ModelProto.FromString(b"".join(wire_format.pieces(skeleton, big))) == onnx.load(DIGITS)


@pytest.mark.parametrize("cut", [1, 1000, 20000])
def test_a_truncated_large_file_is_an_error(cut, large, tmp_path):
    path = tmp_path / "cut.onnx"
    path.write_bytes(DIGITS.read_bytes()[:-cut])
    with pytest.raises(ModelError, match="not an ONNX file"):
        load(path)


def test_an_array_is_referred_to_where_it_lies(large, tmp_path):
    scratch = external_weights.Scratch()
    stored = scratch.store(np.arange(1000, dtype=np.float32).reshape(10, 100))
    assert external_weights.is_mapped(stored) and np.array_equal(stored[2, :3], [200, 201, 202])
    part = external_weights.tensor_of("part", stored[3:7])
    assert external_weights.is_reference(part) and np.array_equal(
        external_weights.values_of(part), stored[3:7]
    )
    assert not external_weights.is_reference(external_weights.tensor_of("columns", stored[:, 3:7]))
    external_weights.release()
    assert stored.sum() == 499500


def tokens(width: int = 32, hidden: int = 96, words: int = 50) -> onnx.ModelProto:
    """Two feed-forward blocks on a residual stream of embedded tokens: [N, T] ids to [N, T, words]."""
    rng = np.random.default_rng(0)
    nodes, stored = [helper.make_node("Gather", ["words", "input_ids"], ["x0"])], []

    def constant(name: str, *shape: int) -> None:
        values = rng.standard_normal(shape, dtype=np.float32) / shape[0] ** 0.5
        stored.append(numpy_helper.from_array(values, name))

    constant("words", words, width)
    for i in range(2):
        constant(f"up{i}", width, hidden)
        constant(f"bias{i}", hidden)
        constant(f"down{i}", hidden, width)
        stored.append(numpy_helper.from_array(np.ones(width, np.float32), f"gain{i}"))
        nodes += [
            helper.make_node("LayerNormalization", [f"x{i}", f"gain{i}"], [f"n{i}"]),
            helper.make_node("MatMul", [f"n{i}", f"up{i}"], [f"m{i}"], name=f"up{i}"),
            helper.make_node("Add", [f"m{i}", f"bias{i}"], [f"a{i}"]),
            helper.make_node("Relu", [f"a{i}"], [f"r{i}"]),
            helper.make_node("MatMul", [f"r{i}", f"down{i}"], [f"d{i}"], name=f"down{i}"),
            helper.make_node("Add", [f"x{i}", f"d{i}"], [f"x{i + 1}"]),
        ]
    constant("head", width, words)
    nodes.append(helper.make_node("MatMul", ["x2", "head"], ["logits"]))
    graph = helper.make_graph(
        nodes,
        "tokens",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["n", "t"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", "t", words])],
        stored,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("mode", ["small", "large"])
def test_feed_forward_groups_shrink_with_token_ids(mode, request, tmp_path):
    if mode == "large":
        request.getfixturevalue("large")
    source, out, calib = (tmp_path / name for name in ("in.onnx", "out.onnx", "ids.npz"))
    onnx.save(tokens(), source)
    ids = np.random.default_rng(1).integers(0, 50, (32, 12))
    np.savez(calib, input_ids=ids)
    assert main([str(source), str(out), "--calib", str(calib), "--params", "0.7", "-q"]) == 0
    shapes = {t.name: list(t.dims) for t in onnx.load(out).graph.initializer}
    assert shapes["up0"][1] == shapes["down0"][0] < 96 and shapes["words"] == [50, 32]
    expected = run(str(source), input_ids=ids)
    assert np.linalg.norm(run(str(out), input_ids=ids) - expected) < 0.3 * np.linalg.norm(expected)


def halved(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model in float16 throughout."""
    for tensor in proto.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name)
            )
    for value in [*proto.graph.input, *proto.graph.output]:
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    del proto.graph.value_info[:]
    return proto


def dense_half() -> onnx.ModelProto:
    """Gemm, Relu, Gemm, Relu, Gemm in float16, [N, 16] to [N, 4]; half of the hidden units are copies."""
    rng = np.random.default_rng(0)
    nodes, stored, x = [], [], "image"
    for i, (n, m) in enumerate(((16, 40), (40, 24), (24, 4))):
        weight = rng.standard_normal((m, n)) / n**0.5
        if i < 2:
            weight[m // 2 :] = weight[: m // 2] * 1.5
        stored += [
            numpy_helper.from_array(weight.astype(np.float16), f"w{i}"),
            numpy_helper.from_array(np.zeros(m, np.float16), f"b{i}"),
        ]
        nodes.append(helper.make_node("Gemm", [x, f"w{i}", f"b{i}"], [f"y{i}"], transB=1, name=f"gemm{i}"))
        x = f"y{i}"
        if i < 2:
            nodes.append(helper.make_node("Relu", [x], [x := f"r{i}"]))
    graph = helper.make_graph(
        nodes,
        "half",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT16, ["n", 16])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT16, ["n", 4])],
        stored,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


HALVES = {"Conv": lambda: halved(onnx.load(DIGITS)), "Gemm": dense_half}


@pytest.mark.parametrize("compensation", ["lstsq", "merge", "gaussian", "none"])
@pytest.mark.parametrize("mode", ["small", "large"])
@pytest.mark.parametrize("kind", HALVES)
def test_half_precision_stays_half_and_answers_alike(kind, mode, compensation, request, tmp_path):
    if mode == "large":
        request.getfixturevalue("large")
    model = HALVES[kind]()
    rng = np.random.default_rng(1)
    data = (images(64) if kind == "Conv" else rng.standard_normal((256, 16))).astype(np.float16)
    result = onnxmerge.optimize(model, calibration=data, ratio=0.3, compensation=compensation)
    result.save(tmp_path / "out.onnx")
    out = onnx.load(tmp_path / "out.onnx")
    types = {t.data_type for t in out.graph.initializer} - {TensorProto.INT64}
    assert types == {TensorProto.FLOAT16} and not result.report["unchanged"]
    found = run(str(tmp_path / "out.onnx"), image=data)
    assert found.dtype == np.float16 and np.isfinite(found).all()
    if compensation == "lstsq":
        expected = run(model, image=data).astype(np.float32)
        assert np.linalg.norm(found - expected) < 0.1 * np.linalg.norm(expected)


def test_bfloat16_says_what_does_not_run(tmp_path):
    model = dense_half()
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(
            helper.make_tensor(tensor.name, TensorProto.BFLOAT16, values.shape, values.reshape(-1))
        )
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.elem_type = TensorProto.BFLOAT16
    with pytest.raises(ModelError, match=r"no implementation of Gemm .* convert the model"):
        onnxmerge.optimize(model, macs=0.5, device="cpu")


def test_the_size_of_what_is_written_is_known_before(large, external, tmp_path):
    proto = load(external).proto
    save(proto, tmp_path / "model.onnx", external=True)
    again = load(tmp_path / "model.onnx")
    assert measured(proto, external=True) == (again.bytes, again.sha256)

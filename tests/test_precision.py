"""Smaller models in fewer bits: what is written, what is measured of each step, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from support import model

import onnxmerge
from onnxmerge import limits
from onnxmerge.cli import main
from onnxmerge.errors import ModelError, ToleranceExceeded, UsageError
from onnxmerge.plan import Plan
from onnxmerge.report.warnings import _of_precision
from onnxmerge.runtime import Runtime, quantisation
from onnxmerge.runtime.quantisation import Int8, to_float16, to_int8

ROOT = Path(__file__).parents[1]
DIGITS, CALIB = ROOT / "models" / "digits.onnx", ROOT / "models" / "digits_calib.npz"
RNG = np.random.default_rng(0)
TEXT = """g (float[N,3,8,8] x) => (float[N,5] y)
    <float[16,3,3,3] w, float[16] b, float[16,16,3,3] w2, float[16] b2, float[16,5] v> {
    c = Conv<pads = [1, 1, 1, 1]>(x, w, b)  r = Relu(c)
    d = Conv<pads = [1, 1, 1, 1]>(r, w2, b2)  s = Relu(d)
    m = GlobalAveragePool(s)  f = Flatten(m)  y = MatMul(f, v) }"""
NET = model(TEXT)
DATA = RNG.standard_normal((80, 3, 8, 8)).astype(np.float32)


def optimize(proto=NET, **options):
    options = {"ratio": 0.25, "calibration": DATA, "threads": 1, "device": "cpu"} | options
    return onnxmerge.optimize(proto, **options)


def types_of_weights(proto) -> set[int]:
    return {tensor.data_type for tensor in proto.graph.initializer if np.prod(tensor.dims) > 16}


@pytest.mark.parametrize(("precision", "share"), [("int8", 0.9), ("fp16", 0.7)])
def test_each_step_is_measured_and_the_headline_is_of_what_is_written(precision, share, tmp_path):
    result = optimize(precision=precision)
    report, facts = result.report, result.report.precision
    result.save(tmp_path / "out.onnx")
    assert facts.after.bytes == report.output.bytes == (tmp_path / "out.onnx").stat().st_size
    assert facts.after.bytes < share * facts.before.bytes and facts.before.bytes < report.input.bytes
    assert facts.after.change == report.parity.change != facts.before.change
    assert facts.after.latency == report.latency.ratio > 0 < facts.before.latency
    assert f"turned into {precision}, the file takes" in report.headline.size
    kinds = {"int8": {TensorProto.INT8}, "fp16": {TensorProto.FLOAT16}}
    assert types_of_weights(result.model) == kinds[precision]
    ends = [*result.model.graph.input, *result.model.graph.output]
    assert {value.type.tensor_type.elem_type for value in ends} == {TensorProto.FLOAT}
    assert not result.model.metadata_props and result.model.producer_name == NET.producer_name
    assert {o.domain for o in result.model.opset_import} == {""}
    onnx.checker.check_model(result.model, full_check=True)
    if precision == "int8":
        assert facts.samples == report.calibration.samples - report.parity.samples and facts.why
        assert report.parity.basis == "held out" and facts.after.change < 0.2


def test_nothing_removed_is_lowered_all_the_same():
    result = optimize(ratio=0.0, precision="int8")
    assert not result.report.unchanged and result.report.precision.before.change == 0
    assert "of every group: nothing was removed; turned into int8" in result.report.headline.size
    assert types_of_weights(result.model) == {TensorProto.INT8}
    assert result.report.precision.before.bytes == result.report.input.bytes > result.report.output.bytes


def test_old_operators_are_brought_up_to_scales_per_channel():
    old = model(TEXT, opset=11)
    made = to_int8(old, [{"x": DATA[:32]}], Int8.of("cpu"))
    assert made.opset_import[0].version == 13 and old.opset_import[0].version == 11
    scales = [t for t in made.graph.initializer if t.name.startswith("w") and "scale" in t.name]
    assert {tuple(t.dims) for t in scales} >= {(16,)}
    assert types_of_weights(old) == {TensorProto.FLOAT}  # what was given is not touched


def test_a_bound_is_held_by_what_is_written_and_the_score_is_of_both_steps():
    with pytest.raises(ToleranceExceeded):
        optimize(precision="int8", tolerance=1e-6)
    scores = iter([1.0, 1.0, 0.75, 0.5])
    facts = optimize(precision="int8", evaluate=lambda _: next(scores)).report
    assert (facts.precision.after.score, facts.precision.before.score, facts.score.after) == (0.75, 0.5, 0.75)


def test_weights_that_are_inputs_too_become_constants(capfd):
    old = model(TEXT, opset=11)
    old.ir_version = 3
    old.graph.input.extend(
        onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in old.graph.initializer
    )
    result = optimize(old, precision="int8")
    assert [value.name for value in result.model.graph.input] == ["x"] and result.model.ir_version >= 4
    assert types_of_weights(result.model) == {TensorProto.INT8} and capfd.readouterr().err == ""


def test_samples_of_different_shapes_give_ranges():
    proto = model("""g (float[N,2,T] x) => (float[N,4,T] y) <float[8,2,3] w, float[4,8,1] v> {
        c = Conv<pads = [1, 1]>(x, w)  r = Relu(c)  y = Conv(r, v) }""")  # fmt: skip
    data = [RNG.standard_normal((1, 2, n)).astype(np.float32) for n in RNG.integers(10, 20, 40)]
    report = optimize(proto, calibration=data, precision="int8").report
    assert 0 < report.precision.after.change < 0.5


def test_targets_choose_signs_and_bits(monkeypatch):
    assert Int8.of("tensorrt").signed and Int8.of("tensorrt").symmetric and Int8.of("cuda").signed
    monkeypatch.setattr(quantisation.platform, "machine", lambda: "aarch64")
    assert Int8.of("cpu").signed and not Int8.of("cpu").symmetric
    monkeypatch.setattr(quantisation.platform, "machine", lambda: "x86_64")
    for vnni in (True, False):
        monkeypatch.setattr(quantisation, "_has_vnni", lambda vnni=vnni: vnni)
        assert not Int8.of("cpu").signed and Int8.of("cpu").seven_bits is not vnni
        assert "VNNI" in Int8.of("cpu").why
    small = to_int8(NET, [{"x": DATA[:8]}], Int8(False, False, True, ""))
    weights = [
        onnx.numpy_helper.to_array(t) for t in small.graph.initializer if t.data_type == TensorProto.INT8
    ]
    assert max(int(abs(w.astype(int)).max()) for w in weights) <= 64
    signed = to_int8(NET, [{"x": DATA[:8]}], Int8.of("tensorrt"))
    assert TensorProto.INT32 not in {t.data_type for t in signed.graph.initializer}
    zeros = [
        t for t in signed.graph.initializer if "zero_point" in t.name and t.data_type == TensorProto.INT8
    ]
    assert zeros and not any(onnx.numpy_helper.to_array(t).any() for t in zeros)


def test_float16_keeps_what_a_client_sees():
    made = to_float16(NET)
    before, after = (Runtime.create("cpu", 1).session(m).run({"x": DATA[:4]})["y"] for m in (NET, made))
    assert after.dtype == np.float32
    np.testing.assert_allclose(after, before, rtol=0.02, atol=0.02 * abs(before).max())


def told(precision: str, before: tuple[float, float], after: tuple[float, float]) -> list[str]:
    proofs = [SimpleNamespace(parity=SimpleNamespace(change=c), latency=SimpleNamespace(ratio=r))
              for c, r in (before, after)]  # fmt: skip
    study = SimpleNamespace(
        config=SimpleNamespace(precision=precision),
        samples=SimpleNamespace(kind="given"),
        tolerance=0.01,
        searches_by_score=False,
    )
    return list(_of_precision(study, SimpleNamespace(before=proofs[0], **vars(proofs[1]))))


def test_what_was_not_worth_it_is_said():
    assert told("int8", (0.002, 0.7), (0.009, 0.4)) == []
    (large,) = told("int8", (0.002, 0.7), (0.05, 0.4))
    assert "as int8 the answers change by 0.05, in the input's own precision by 0.002" in large
    (slow,) = told("fp16", (0.002, 0.7), (0.002, 0.9))
    assert "a run takes 0.90 of the input's time here, in the input's own precision 0.70" in slow
    assert "leave precision= out" in slow


def test_what_cannot_be_is_refused_before_any_work(tmp_path, monkeypatch, capsys):
    quantised = to_int8(NET, [{"x": DATA[:8]}], Int8.of("cpu"))
    with pytest.raises(UsageError, match="quantised already"):
        optimize(quantised, precision="int8")
    with pytest.raises(UsageError, match="leave precision= out, or take optimize"):
        onnxmerge.sweep(NET, calibration=DATA, precision="fp16")
    copy = onnx.ModelProto.FromString(NET.SerializeToString())
    onnx.save(copy, tmp_path / "net.onnx", save_as_external_data=True, location="net.data", size_threshold=64)
    with pytest.raises(UsageError, match="in one file below 256 MB"):
        optimize(tmp_path / "net.onnx", precision="int8")
    monkeypatch.setattr(limits, "LIMITS", limits.Limits(large_model=1000))
    with pytest.raises(UsageError, match="leave precision= out"):
        optimize(precision="fp16")
    assert main([str(DIGITS), str(tmp_path / "out.onnx"), "--int8", "--fp16"]) == 2
    assert "not allowed with" in capsys.readouterr().err


def test_a_failing_tool_is_one_sentence(monkeypatch, caplog):
    import onnxruntime.quantization as tools

    def fail(*_, **__):
        raise KeyError("weights")

    monkeypatch.setattr(tools, "quantize_static", fail)
    with pytest.raises(
        ModelError, match=r"cannot turn the model into int8: KeyError: .*; leave precision= out"
    ):
        optimize(precision="int8")
    assert not caplog.records


def test_the_same_command_gives_the_same_bytes_and_says_little(tmp_path, capsys):
    """In another process, too, where the tools' sets have another order."""
    onnx.save(NET, tmp_path / "net.onnx")
    np.save(tmp_path / "data.npy", DATA[:40])
    outs = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    rest = ["--ratio", "0.25", "--int8", "--calib", str(tmp_path / "data.npy"), "--threads", "1"]
    commands = [[str(tmp_path / "net.onnx"), str(out), *rest, "--report", f"{out}.json"] for out in outs]
    assert main(commands[0]) == 0
    printed = capsys.readouterr()
    assert "as int8: " in printed.out and "WARNING" not in printed.err
    assert json.loads((tmp_path / "a.onnx.json").read_text())["config"]["precision"] == "int8"
    subprocess.run([sys.executable, "-m", "onnxmerge", *commands[1], "-q"], check=True)
    assert outs[0].read_bytes() == outs[1].read_bytes()
    again = tmp_path / "again.onnx"
    assert main([str(tmp_path / "net.onnx"), str(again), "--config", f"{outs[0]}.json", "-q"]) == 0
    assert again.read_bytes() == outs[0].read_bytes()
    assert main(["sweep", str(tmp_path / "net.onnx"), "--int8"]) == 2
    assert "there is no option --int8" in capsys.readouterr().err


@pytest.mark.parametrize("options", [{"ratio": None, "tolerance": 0.3}, {"precision": "fp16"}])
def test_a_plan_says_what_it_is_turned_into(options):
    made = {"precision": "int8", "target": "tensorrt"} | options
    first = optimize(**made)
    plan = Plan.from_toml(first.plan.to_toml())
    rest = {"calibration": DATA, "threads": 1, "device": "cpu"}
    again = onnxmerge.optimize(NET, plan=plan, **rest)
    assert again.model.SerializeToString() == first.model.SerializeToString()
    assert "turned into" in again.report.headline.size
    other = {"int8": "fp16", "fp16": "int8"}[made["precision"]]
    with pytest.raises(UsageError, match="contradicts the plan"):
        onnxmerge.optimize(NET, plan=plan, precision=other, **rest)
    plain = optimize(**{name: value for name, value in options.items() if name != "precision"}).plan
    assert "precision" not in plain.method
    later = onnxmerge.optimize(NET, plan=plain, precision="fp16", **rest)
    assert types_of_weights(later.model) == {TensorProto.FLOAT16}


def test_ranges_without_data_are_said_to_be_none_of_the_models_own():
    report = onnxmerge.optimize(NET, ratio=0.1, precision="int8", threads=1, tolerance=10, samples=64).report
    [found] = [warning for warning in report.warnings if "the ranges of int8 were seen on" in warning]
    assert report.calibration.source in found and "calibration=" in found


def test_ranges_are_seen_on_samples_that_do_not_judge():
    report = optimize(precision="int8", compensation="none", criterion="l1").report
    assert report.parity.basis == "held out"
    assert report.precision.samples + report.parity.samples == report.calibration.samples

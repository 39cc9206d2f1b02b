"""The command line as a user meets it: files in, files out, exit codes, one clear sentence per mistake."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import support
from onnx import helper, numpy_helper

from onnxmerge.cli import main
from onnxmerge.cli.given import config_of
from onnxmerge.cli.main import VERBS
from onnxmerge.cli.options import optimize_parser
from onnxmerge.config import Config

MODELS = Path(__file__).parents[1] / "models"
DIGITS = MODELS / "digits.onnx"
CALIB = MODELS / "digits_calib.npz"
# Where the method is not the point: the fastest one.
FAST = ("--compensation", "merge", "--criterion", "l1", "--samples", 64)


def run(*arguments) -> int:
    return main([str(a) for a in arguments])


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out.onnx"


def leftovers(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_writes_a_smaller_model_and_a_report(out, tmp_path, capsys):
    report = tmp_path / "report.json"
    assert run(DIGITS, out, "--macs", 0.5, "--calib", CALIB, "--report", report) == 0
    content = json.loads(report.read_text())
    assert content["schema_version"] == 1
    for key in ("params", "macs", "bytes", "sha256"):
        assert key in content["input"] and key in content["output"]
    assert content["output"]["macs"] <= 0.5 * content["input"]["macs"]
    assert content["output"]["bytes"] == out.stat().st_size < DIGITS.stat().st_size
    assert set(content["parity"]) >= {
        "relative_error",
        "max_abs_error",
        "top1_agreement",
        "samples",
        "source",
    }
    assert set(content["latency"]) >= {"before_ms", "after_ms", "ratio", "provider", "threads"}
    assert all({"name", "before", "after", "nodes"} <= set(group) for group in content["groups"])
    assert all({"reason", "count", "examples"} <= set(entry) for entry in content["frozen"])
    assert {"config", "warnings", "seconds"} <= set(content)
    printed = capsys.readouterr()
    assert "MACs" in printed.out and "before" in printed.out and str(out) in printed.out
    onnx.checker.check_model(onnx.load(out), full_check=True)
    assert leftovers(tmp_path) == ["out.onnx", "report.json"]


def test_is_also_a_module_and_quiet_prints_nothing(out):
    command = [
        sys.executable,
        "-m",
        "onnxmerge",
        str(DIGITS),
        str(out),
        "--ratio",
        "0.25",
        "-q",
        "--compensation=none",
        "--criterion=l1",
        "--calib",
        str(CALIB),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert out.exists()


def test_verbose_lists_groups_and_reasons(out, capsys):
    assert run(DIGITS, out, "--ratio", 0.5, "--calib", CALIB, "-v", *FAST) == 0
    printed = capsys.readouterr().out
    assert "/block1/conv1/Conv" in printed and "graph output" in printed


def test_the_same_input_gives_the_same_bytes(tmp_path):
    for name in ("a.onnx", "b.onnx"):
        assert run(DIGITS, tmp_path / name, "--macs", 0.6, "--calib", CALIB, "-q", "--seed", 3) == 0
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_without_removal_the_file_is_copied(out):
    assert run(DIGITS, out, "--ratio", 0, "--calib", CALIB, "-q", *FAST) == 0
    assert out.read_bytes() == DIGITS.read_bytes()


def test_searches_within_the_default_tolerance(out, tmp_path):
    report = tmp_path / "r.json"
    assert (
        run(
            DIGITS,
            out,
            "--calib",
            CALIB,
            "--compensation",
            "bias",
            "--criterion",
            "l1",
            "--align",
            "1",
            "--report",
            report,
            "-q",
        )
        == 0
    )
    content = json.loads(report.read_text())
    assert content["search"]["change"] <= 0.01
    assert content["search"]["change_upper_90"] > content["search"]["change"]
    assert content["search"]["samples"] == 115  # a quarter of what is not kept for the proof
    assert content["output"]["macs"] < content["input"]["macs"]


def test_impossible_tolerance_leaves_the_model_as_it_is(out, tmp_path, capsys):
    report = tmp_path / "r.json"
    arguments = (DIGITS, out, "--calib", CALIB, "--output-kind", "logits=values", "--tolerance", 1e-9, *FAST)
    assert run(*arguments, "--report", report) == 0
    assert out.read_bytes() == DIGITS.read_bytes()
    assert any("nothing was removed" in w for w in json.loads(report.read_text())["warnings"])
    assert "nothing was removed" in capsys.readouterr().err


def test_a_tolerance_beside_a_budget_is_a_gate(out, tmp_path, capsys):
    assert run(DIGITS, out, "--macs", 0.1, "--tolerance", 0.001, "--calib", CALIB, *FAST) == 6
    assert "nothing was written" in capsys.readouterr().err
    assert leftovers(tmp_path) == []


def test_parity_on_data_of_its_own(out, tmp_path):
    evaluation = tmp_path / "eval.npy"
    np.save(evaluation, np.load(MODELS / "digits_test.npz")["image"])
    report = tmp_path / "r.json"
    arguments = (DIGITS, out, "--ratio", 0.2, "--calib", CALIB, "--eval-calib", evaluation, "-q", *FAST)
    assert run(*arguments, "--report", report) == 0
    parity = json.loads(report.read_text())["parity"]
    assert parity["samples"] == 500 and "eval.npy" in parity["source"]


def test_made_up_inputs_come_with_a_warning(out, capsys):
    source = out.parent / "table.onnx"
    source.write_bytes(tabular().SerializeToString())
    assert run(source, out, "--ratio", 0.2, "--tolerance", 0.5) == 0
    printed = capsys.readouterr()
    assert "made-up inputs" in printed.err
    assert "How the answers to real inputs change could not be checked." in printed.out


def test_a_large_change_on_made_up_inputs_is_not_written_unasked(out, capsys):
    source = out.parent / "table.onnx"
    source.write_bytes(tabular().SerializeToString())
    assert run(source, out, "--macs", 0.4) == 6
    message = capsys.readouterr().err
    assert "made-up inputs" in message and "--calib" in message and "--tolerance" in message
    assert not out.exists()
    # Who names the method knows what to expect of it.
    assert run(source, out, "--macs", 0.4, "--compensation", "merge") == 0


def test_generic_images_come_with_a_warning(out, tmp_path, capsys):
    report = tmp_path / "r.json"
    assert run(DIGITS, out, "--ratio", 0.2, *FAST, "--scale", 0.0039, "--report", report) == 0
    assert "generic photographs" in capsys.readouterr().err
    assert json.loads(report.read_text())["calibration"]["kind"] == "generic"


def tabular() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights = {"w1": rng.standard_normal((7, 16)), "w2": rng.standard_normal((16, 3))}
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"], "first"),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w2"], ["y"], "second"),
    ]
    graph = helper.make_graph(
        nodes,
        "table",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 7])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("wrong", [np.nan, 3e38])
def test_numbers_that_are_not_finite_inside_are_said_and_where(out, tmp_path, capsys, wrong):
    proto = tabular()
    weights = numpy_helper.to_array(proto.graph.initializer[0]).copy()
    weights[2, 3] = wrong
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "w1"))
    onnx.save(proto, tmp_path / "in.onnx")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((64, 7)).astype(np.float32) * 9)
    data = ("--calib", tmp_path / "x.npy", "--threads", 1)
    assert run(tmp_path / "in.onnx", out, "--macs", 0.5, *data) == 3
    assert "NaN or infinite at the groups 'first'" in capsys.readouterr().err and not out.exists()


def test_what_came_through_a_pipe_is_written_unchanged(out):
    read, write = os.pipe()
    os.write(write, tabular().SerializeToString())
    os.close(write)
    assert run(f"/dev/fd/{read}", out, "--ratio", 0, "--compensation", "none", "--threads", 1) == 0
    os.close(read)
    assert onnx.load(out) == tabular()


def test_skip_and_only(out, tmp_path):
    report = tmp_path / "r.json"
    base = (DIGITS, out, "--ratio", 0.5, "--calib", CALIB, "-q", "--report", report, *FAST)
    assert run(*base, "--only", "fc1.weight", "/block2/conv1/*") == 0
    names = {g["name"] for g in json.loads(report.read_text())["groups"]}
    assert names == {"/fc1/Gemm", "/block2/conv1/Conv", "/down/Conv"}
    assert run(*base, "--skip", "/block*", "*fc1*") == 0
    names = {g["name"] for g in json.loads(report.read_text())["groups"]}
    assert names and not any("block" in n or "fc1" in n for n in names)


def wrong_kind(tmp_path: Path) -> Path:
    path = tmp_path / "text.onnx"
    path.write_text("this is no model")
    return path


def truncated(tmp_path: Path) -> Path:
    path = tmp_path / "truncated.onnx"
    path.write_bytes(DIGITS.read_bytes()[:100_000])
    return path


def invalid(tmp_path: Path) -> Path:
    proto = onnx.load(DIGITS)
    proto.graph.node[3].input[0] = "nowhere"
    path = tmp_path / "invalid.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def custom_operator(tmp_path: Path) -> Path:
    proto = onnx.load(DIGITS)
    proto.graph.node[1].op_type, proto.graph.node[1].domain = "Unheard", "com.example"
    proto.opset_import.append(helper.make_opsetid("com.example", 1))
    path = tmp_path / "custom.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def missing_external_data(tmp_path: Path) -> Path:
    path = tmp_path / "external.onnx"
    onnx.save(onnx.load(DIGITS), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "weights.bin").unlink()
    return path


def escaping_external_data(tmp_path: Path) -> Path:
    inside = tmp_path / "model"
    inside.mkdir()
    path = inside / "external.onnx"
    onnx.save(onnx.load(DIGITS), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (inside / "weights.bin").rename(tmp_path / "weights.bin")
    proto = onnx.load(path, load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../weights.bin"
    path.write_bytes(proto.SerializeToString())
    return path


@pytest.mark.parametrize(
    "make, words",
    [
        (wrong_kind, "not an ONNX file"),
        (truncated, "truncated"),
        (invalid, "nowhere"),
        (custom_operator, "Unheard"),
        (missing_external_data, "weights.bin"),
        (escaping_external_data, "outside of the model's folder"),
        (lambda tmp_path: tmp_path / "absent.onnx", "cannot read"),
    ],
)
def test_bad_models_end_with_one_sentence(make, words, tmp_path, capsys):
    source = make(tmp_path)
    before = leftovers(tmp_path)
    assert run(source, tmp_path / "out.onnx", "--ratio", 0.5) == 3
    message = capsys.readouterr().err.strip()
    assert words in message and message.count("onnxmerge: error:") == 1 and "Traceback" not in message
    assert leftovers(tmp_path) == before


@pytest.mark.parametrize(
    "arrays, words",
    [
        ({"picture": np.zeros((4, 1, 8, 8), np.float32), "other": np.zeros(3)}, "image"),
        ({"image": np.zeros((4, 1, 9, 8), np.float32)}, "9"),
        ({"image": np.full((4, 1, 8, 8), np.nan, np.float32)}, "NaN"),
        ({"image": np.zeros((4, 1, 8, 8), np.complex64)}, "complex"),
        ({"image": np.zeros((0, 1, 8, 8), np.float32)}, "no samples"),
        ({"image": np.zeros((1, 8, 8), np.float32)}, "image"),
    ],
)
def test_bad_calibration_ends_with_one_sentence(arrays, words, tmp_path, capsys):
    np.savez(tmp_path / "calib.npz", **arrays)
    assert run(DIGITS, tmp_path / "out.onnx", "--ratio", 0.5, "--calib", tmp_path / "calib.npz") == 4
    assert words.lower() in capsys.readouterr().err.lower()
    assert leftovers(tmp_path) == ["calib.npz"]


def test_pickles_are_not_opened(tmp_path, capsys):
    np.savez(tmp_path / "calib.npz", image=np.array([{"a": 1}], dtype=object))
    assert run(DIGITS, tmp_path / "out.onnx", "--ratio", 0.5, "--calib", tmp_path / "calib.npz") == 4
    assert "Traceback" not in capsys.readouterr().err


def test_an_impossible_budget_says_what_is_reachable(out, capsys):
    assert run(DIGITS, out, "--macs", 0.0001, "--calib", CALIB, *FAST) == 5
    assert "smallest width" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    "extra", [("--ratio", 1.0), ("--macs", 0), ("--ratio", 0.5, "--macs", 0.5), ("--criterion", "best"),
              ("--only", "no-such-*", "--ratio", 0.5), ("--shape", "image=1,1,9,9", "--ratio", 0.5),
              ("--output-kind", "nothing=classes", "--ratio", 0.5)],
)  # fmt: skip
def test_bad_options_end_with_exit_code_2(extra, out, capsys):
    assert run(DIGITS, out, *extra) == 2
    assert "onnxmerge: error:" in capsys.readouterr().err
    assert not out.exists()


def test_the_input_is_never_the_output(tmp_path, capsys):
    source = tmp_path / "in.onnx"
    source.write_bytes(DIGITS.read_bytes())
    (tmp_path / "soft.onnx").symlink_to(source)
    os.link(source, tmp_path / "hard.onnx")
    for target in ("in.onnx", "soft.onnx", "hard.onnx"):
        assert run(source, tmp_path / target, "--ratio", 0.5) == 2
    assert run(source, tmp_path / "o.onnx", "--ratio", 0.5, "--report", tmp_path / "soft.onnx") == 2
    assert source.read_bytes() == DIGITS.read_bytes()
    assert "is an input file" in capsys.readouterr().err


def test_no_output_falls_on_data_or_code(tmp_path, capsys):
    data, code = tmp_path / "x.npz", tmp_path / "score.py"
    data.write_bytes(CALIB.read_bytes())
    code.write_text("def score(session): return 1.0")
    for name, flags in ((data, ("--calib", data)), (data, ("--eval-calib", data)),
                        (code, ("--eval", f"{code}:score"))):  # fmt: skip
        before = name.read_bytes()
        assert run(DIGITS, name, "--ratio", 0.5, *flags) == 2
        assert run("sweep", DIGITS, "--report", name, *flags) == 2
        assert "is an input file" in capsys.readouterr().err and name.read_bytes() == before


def test_what_is_no_file_is_not_replaced_by_one(tmp_path, capsys):
    """As /dev/null was, for those who may write into /dev."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for arguments in ((pipe,), (tmp_path / "out.onnx", "--report", pipe)):
        assert run(DIGITS, *arguments, "--ratio", 0.5) == 7
        assert "it is a device or a pipe" in capsys.readouterr().err
    assert pipe.is_fifo() and leftovers(tmp_path) == ["pipe"]


def test_paths_that_the_system_refuses_are_one_sentence(out, tmp_path, capsys):
    """As it refuses those in a folder that may not be looked into, and these for everybody."""
    refused = tmp_path / ("x" * 300) / "x"
    for code, arguments in (
        (7, (DIGITS, refused)),
        (7, (DIGITS, out, "--report", refused)),
        (3, (refused, out)),
        (4, (DIGITS, out, "--calib", refused)),
        (4, ("compare", DIGITS, DIGITS, "--calib", refused)),
        (2, (DIGITS, out, "--eval", f"{refused}.py:score")),
        (2, (DIGITS, out, "--config", refused)),
        (2, ("apply", DIGITS, refused, out)),
    ):
        assert run(*arguments) == code, arguments
        assert capsys.readouterr().err.count("\n") == 1
    assert leftovers(tmp_path) == []


def test_no_clobber_and_replacement(out):
    out.write_text("old")
    assert run(DIGITS, out, "--ratio", 0.5, "--calib", CALIB, "--no-clobber", "-q", *FAST) == 2
    assert out.read_text() == "old"
    assert run(DIGITS, out, "--ratio", 0.5, "--calib", CALIB, "-q", *FAST) == 0
    assert onnx.load(out).graph.name


@pytest.mark.parametrize("target", ["missing/out.onnx", ""])
def test_unwritable_output(target, tmp_path, capsys):
    assert run(DIGITS, tmp_path / target, "--ratio", 0.5) == 7
    assert "cannot write" in capsys.readouterr().err or target == ""


def test_full_disk(out, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("onnxmerge.graph.output.os.fsync", full)
    assert run(DIGITS, out, "--ratio", 0.5, "--calib", CALIB, "-q", *FAST) == 7
    assert "No space left" in capsys.readouterr().err
    assert leftovers(out.parent) == []


def test_cuda_that_does_not_work_is_an_error(out, capsys):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("CUDA may work here")
    assert run(DIGITS, out, "--ratio", 0.5, "--device", "cuda") == 8
    assert "onnxmerge[gpu]" in capsys.readouterr().err


@support.interruptible
def test_interruption_leaves_no_partial_file(tmp_path):
    command = [
        sys.executable,
        "-m",
        "onnxmerge",
        str(DIGITS),
        str(tmp_path / "out.onnx"),
        "--calib",
        str(CALIB),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode in (0, 130, -signal.SIGINT)
    if process.returncode == 130:
        assert b"interrupted" in errors
        assert leftovers(tmp_path) == []


def test_help_lists_the_exit_codes(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help-all"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert "exit codes" in printed and "9  a defect of onnxmerge" in printed


def test_external_data_is_read(tmp_path):
    source = tmp_path / "external.onnx"
    onnx.save(onnx.load(DIGITS), source, save_as_external_data=True, location="weights.bin", size_threshold=0)
    inside, outside = tmp_path / "a.onnx", tmp_path / "b.onnx"
    assert run(source, outside, "--ratio", 0.5, "--calib", CALIB, "-q", *FAST) == 0
    assert run(DIGITS, inside, "--ratio", 0.5, "--calib", CALIB, "-q", *FAST) == 0
    values = [
        {t.name: numpy_helper.to_array(t) for t in onnx.load(p).graph.initializer} for p in (inside, outside)
    ]
    assert all(np.array_equal(values[0][name], values[1][name]) for name in values[0])


def test_inspect_shows_groups_and_reasons(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)  # who runs tests side by side has it set for their children
    report = tmp_path / "r.json"
    assert run("inspect", DIGITS, "--report", report) == 0
    content = json.loads(report.read_text())
    may_go = {g["name"]: g["may_go"] for g in content["groups"]}
    assert not may_go["/fc1/Gemm"] and may_go["/block2/conv1/Conv"], "the branch of a block, but no trunk"
    assert not may_go["/stem/Conv"]
    assert content["reach"] > 0.99
    assert any("graph output" in entry["reason"] for entry in content["frozen"])
    printed = capsys.readouterr().out
    assert "/stem/Conv, /Relu, /block1/conv1/Conv and 8 more" in printed, "in a pipe nothing is cut off"
    assert "reach" in printed and "may go" in printed


def test_names_with_brackets_and_colons_are_names(out, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)  # who runs tests side by side has it set for their children
    proto = tabular()
    for node, name in zip(proto.graph.node, ("fc[bold]", "a[/b]:smile:", "[x]"), strict=True):
        node.name = name
    proto.graph.output[0].name = proto.graph.node[-1].output[0] = "y[/z]"
    source = tmp_path / "in.onnx"
    onnx.save(proto, source)
    assert run("inspect", source) == 0
    printed = capsys.readouterr().out
    assert "fc[bold], a[/b]:smile:, [x]" in printed and "graph output 'y[/z]'" in printed
    options = ("--ratio", 0.5, "--compensation", "none", "--tolerance", 9, "-v", "--threads", 1)
    assert run(source, out, *options, "--only", "fc[bold]") == 0
    assert "fc[bold]" in capsys.readouterr().out
    assert run(source, out, *options, "--only", "fc[bald]") == 2
    assert "did you mean 'fc[bold]'?" in capsys.readouterr().err


def test_sweep_measures_a_curve(tmp_path, capsys):
    report, plot = tmp_path / "r.json", tmp_path / "curve.png"
    arguments = ("--calib", CALIB, "--compensation", "bias", "--criterion", "l1", "--steps", "0.9,0.5,0.0001")
    assert run("sweep", DIGITS, *arguments, "--report", report, "--plot", plot) == 0
    printed = capsys.readouterr()
    assert "left out, for it cannot be reached: 0.0001 (" in printed.err and "MACs kept" in printed.out
    points = json.loads(report.read_text())["points"]
    assert [round(p["macs"], 1) for p in points] == [0.9, 0.5], "what cannot be reached is left out"
    assert points[0]["change"] < points[1]["change"]
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert leftovers(tmp_path) == ["curve.png", "r.json"]
    assert run("sweep", tmp_path / "nothing.onnx", "--plot", tmp_path / "curve.docx") == 2, "before any work"
    assert "a picture is .png" in capsys.readouterr().err
    for percent in ("50,70", "0.5,0", "nan"):
        assert run("sweep", DIGITS, *arguments[:-1], percent) == 2
        assert "shares of MACs kept, above 0 and at most 1" in capsys.readouterr().err


@pytest.mark.parametrize("verb", [[], *([name] for name in VERBS)], ids=lambda v: "".join(v) or "optimize")
def test_every_verb_shows_both_of_its_helps(capsys, verb):
    for flag in ("--help", "--help-all"):
        with pytest.raises(SystemExit) as stop:
            main([*verb, flag])
        assert stop.value.code == 0
        assert "--report FILE" in capsys.readouterr().out


def test_a_file_named_like_a_verb_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "inspect").write_bytes(DIGITS.read_bytes())
    assert run("./inspect", "out.onnx", "--ratio", 0.5, "--calib", CALIB, "-q", *FAST) == 0
    assert leftovers(tmp_path) == ["inspect", "out.onnx"]


def test_help_names_the_defaults_of_the_configuration():
    """They stand in Config alone; the help repeats them, so that it needs no heavy imports."""
    text = " ".join(optimize_parser().format_help().split())
    usual = Config()
    stated = {
        "trade_off": r"BatchNorm shift \(default ([^);]+)",
        "shift_weight": r"BatchNorm's shifts \(default ([^);]+)",
        "spread_weight": r"activations add \(default ([^);]+)",
        "align": r"without waste \(default ([^);]+)",
        "target": r"cuda or tensorrt \(default ([^);]+)",
        "seed": r"random choice \(default ([^);]+)",
        "samples": r"at most N samples \(default ([^);]+)",
        "patches": r"for least squares \(default ([^);]+)",
        "device": r"--device auto\|cpu\|cuda \(default ([^);]+)",
    }
    for name, pattern in stated.items():
        found = re.search(pattern, text)
        assert found is not None and found[1] == str(getattr(usual, name)), name
    options = optimize_parser().parse_args(["in.onnx", "out.onnx"])
    assert config_of(options) == usual

"""plan, apply and compare, and the files and streams that connect runs with one another."""

from __future__ import annotations

import io
import json
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import support
from onnx import TensorProto, numpy_helper

import onnxmerge
from onnxmerge import comparison
from onnxmerge.cli import main
from onnxmerge.errors import LatencyExceeded, ModelError, ToleranceExceeded, UsageError
from onnxmerge.plan import Plan

MODELS = Path(__file__).parents[1] / "models"
DIGITS, CALIB = MODELS / "digits.onnx", MODELS / "digits_calib.npz"
IMAGES = np.load(CALIB)["image"]
FAST = ("--compensation", "merge", "--criterion", "l1", "--samples", 64, "--threads", 1)
NET = """g (float[N,6] x) => (float[N,3] y) <float[6,8] v, float[8,3] w> {
    h = MatMul(x, v)
    r = Relu(h)
    y = MatMul(r, w)
}"""


def run(*arguments) -> int:
    return main([str(a) for a in arguments])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a model, its report, and the plan of the same options."""
    folder = tmp_path_factory.mktemp("made")
    options = ("--ratio", 0.5, "--calib", CALIB, "-q", *FAST)
    assert run(DIGITS, folder / "out.onnx", *options, "--report", folder / "report.json") == 0
    assert run("plan", DIGITS, "--save", folder / "plan.toml", *options) == 0
    return folder


def net(seed: int = 0, text: str = NET) -> onnx.ModelProto:
    return support.model(text, seed=seed)


def plan_of_net() -> Plan:
    proto = net()
    loaded = onnxmerge.optimize(proto, ratio=0.5, criterion="l1", compensation="none", threads=1)
    return loaded.plan


# --- plan and apply -----------------------------------------------------------------------------------


def test_applying_a_plan_gives_the_bytes_of_the_run(made, tmp_path):
    out, again = tmp_path / "out.onnx", tmp_path / "again.onnx"
    assert run("apply", DIGITS, made / "plan.toml", out, "--calib", CALIB, "--threads", 1, "-q") == 0
    assert out.read_bytes() == (made / "out.onnx").read_bytes()
    # The report of a run is a configuration: it names the data, too.
    assert run(DIGITS, again, "--config", made / "report.json", "-q") == 0
    assert again.read_bytes() == out.read_bytes()


def test_a_plan_lists_every_group_best_first(made):
    content = tomllib.loads((made / "plan.toml").read_text())
    report = json.loads((made / "report.json").read_text())
    assert content["fingerprint"] == report["input"]["sha256"]
    assert content["method"]["compensation"] == "merge" and content["data"]["samples"] == 64
    widths = [(g["name"], g["before"], g["after"]) for g in content["groups"]]
    assert widths == [(g["name"], g["before"], g["after"]) for g in report["groups"]]
    for group in content["groups"]:
        assert sorted(group["channels"]) == list(range(group["before"]))
        assert group["name"] in group["nodes"]
    plan = Plan.load(made / "plan.toml")
    for name, keep in plan.keep.items():
        assert set(plan.order[name][: len(keep)]) == set(keep)


def test_an_edited_width_is_a_beginning_of_the_list(made, tmp_path):
    text = (made / "plan.toml").read_text()
    edited = re.sub(r'(name = "/fc1/Gemm"\n.*\nbefore = 64\n)after = 32', r"\1after = 40", text)
    assert edited != text
    (tmp_path / "plan.toml").write_text(edited)
    plan = Plan.load(tmp_path / "plan.toml")
    original = Plan.load(made / "plan.toml")
    assert set(plan.keep["/fc1/Gemm"]) == set(original.order["/fc1/Gemm"][:40])
    assert plan == original.with_widths({"/fc1/Gemm": 40})
    out, report = tmp_path / "out.onnx", tmp_path / "r.json"
    command = ("apply", DIGITS, tmp_path / "plan.toml", out, "--calib", CALIB, "--threads", 1, "-q")
    assert run(*command, "--report", report) == 0
    groups = {g["name"]: g["after"] for g in json.loads(report.read_text())["groups"]}
    assert groups["/fc1/Gemm"] == 40
    weight = next(t for t in onnx.load(out).graph.initializer if t.name == "fc1.weight")
    assert weight.dims[0] == 40


@pytest.mark.parametrize("suffix", [".toml", ".json"])
def test_plans_go_through_files(suffix, tmp_path):
    plan = plan_of_net()
    images = {"mean": [0.5, 0.25], "layout": None, "resize": [8, 9]}
    nodes = dict.fromkeys(plan.keep, ('a "quoted" \\ name', "größe\t\x7f"))
    rich = replace(
        plan, nodes=nodes, data={"samples": 7, "images": images, "shapes": {"x y": [2, 6]}, "source": "d"}
    )
    path = tmp_path / f"plan{suffix}"
    rich.save(path)
    again = Plan.load(path)
    assert (again.keep, again.order, again.nodes) == (rich.keep, rich.order, rich.nodes)
    stated = {"mean": [0.5, 0.25], "resize": [8, 9]}
    assert {k: v for k, v in again.data["images"].items() if v is not None} == stated
    assert again.data["shapes"] == {"x y": [2, 6]}


def test_data_are_read_as_the_plan_says_unless_the_run_does():
    plan = onnxmerge.optimize(
        net(), ratio=0.5, criterion="l1", compensation="none", threads=1, samples=48,
        calibration=np.random.default_rng(0).standard_normal((96, 6)).astype(np.float32),
    ).plan  # fmt: skip
    data = np.random.default_rng(1).standard_normal((96, 6)).astype(np.float32)

    def samples(**options) -> int:
        found = onnxmerge.optimize(net(), plan=plan, calibration=data, threads=1, **options)
        return found.report.calibration.samples

    assert samples() == 48
    assert samples(samples=80) == 80
    assert samples(config=onnxmerge.Config(samples=33)) == 33


def test_a_plan_for_another_model_is_refused_with_the_reason(made, tmp_path, capsys):
    plan = plan_of_net()
    checkpoint, other = tmp_path / "next.onnx", tmp_path / "other.onnx"
    onnx.save(net(seed=1), checkpoint)
    onnx.save(net(text=NET.replace("[6,8]", "[6,9]").replace("[8,3]", "[9,3]")), other)
    plan.save(tmp_path / "plan.toml")
    command = ("apply", checkpoint, tmp_path / "plan.toml", tmp_path / "out.onnx", "--tolerance", 9)
    assert run(*command) == 2
    message = capsys.readouterr().err
    assert "--force" in message and plan.fingerprint[:12] in message
    assert run(*command, "--force", "--threads", 1) == 0
    assert "decided by the weights of that one" in capsys.readouterr().err
    assert run("apply", other, *command[2:], "--force") == 2
    assert "8 channels in the plan, and 9 in this model" in capsys.readouterr().err
    assert run("apply", DIGITS, *command[2:], "--force") == 2
    (name,) = plan.keep
    assert f"'{name}', which this model does not have" in capsys.readouterr().err


def toml_of(**changes) -> str:
    """A plan of one group with some lines replaced; None leaves a line out."""
    lines = {"name": '"g"', "before": "4", "after": "2", "channels": "[3, 1, 0, 2]"} | changes
    group = "\n".join(f"{key} = {value}" for key, value in lines.items() if value is not None)
    return f'plan_version = 2\nfingerprint = "f"\n[[groups]]\n{group}\n'


@pytest.mark.parametrize(
    "text, words",
    [
        ("plan_version = ", "no TOML"),
        ("{", "no JSON"),
        ("macs = 0.5", "no plan_version"),
        ("plan_version = 3", "version 3, this program reads 1 and 2"),
        ("plan_version = 2", "needs a text fingerprint and a list of groups"),
        (toml_of().replace("fingerprint", "finger"), "did you mean 'fingerprint'?"),
        (toml_of(afters="1"), "did you mean 'after'?"),
        (toml_of(name=None), "group 1 of the plan has no name"),
        (toml_of(after=None), "needs after"),
        (toml_of(after="true"), "needs after"),
        (toml_of(after="5"), "after = 5 for the group 'g' of the plan: it lists 4 channels"),
        (toml_of(after="-1"), "after = -1"),
        (toml_of(channels=None), "needs channels"),
        (toml_of(channels="[0.5]"), "needs channels"),
        (toml_of(channels="[1, 1]"), "lists channel 1 twice"),
        (toml_of(before="3"), "lists 4 channels of 3"),
        (toml_of(nodes='"n"'), "are a list of names"),
        (toml_of() + "[[groups]]\nname = 'g'\nafter = 0\nchannels = []\n", "two groups 'g'"),
        ('method = 5\n' + toml_of(), "method is a table"),
        ('{"plan_version": 1, "keep": 5}', "not a plan"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_plan_says_what_is_wrong(text, words, tmp_path, capsys):
    path = tmp_path / "plan.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=re.escape(words)) as refused:
        Plan.load(path)
    assert str(path) in str(refused.value)
    assert run("apply", DIGITS, path, tmp_path / "out.onnx") == 2
    assert capsys.readouterr().err.count("onnxmerge: error:") == 1


def test_a_plan_that_is_not_there_or_not_text(tmp_path, capsys):
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    for name, words in (("absent.toml", "cannot read the plan"), ("binary.toml", "no text in UTF-8")):
        assert run("apply", DIGITS, tmp_path / name, tmp_path / "out.onnx") == 2
        assert words in capsys.readouterr().err
    assert run("plan", DIGITS) == 2
    assert "--save" in capsys.readouterr().err
    assert run("plan", DIGITS, "--save", DIGITS, "--ratio", 0.5) == 2
    assert "is an input file" in capsys.readouterr().err
    plan = plan_of_net()
    with pytest.raises(UsageError, match="no group 'x'"):
        plan.with_widths({"x": 1})


# --- compare ------------------------------------------------------------------------------------------


def test_compare_is_a_check_for_pipelines(made, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(comparison, "SESSIONS", 1)
    report = tmp_path / "r.json"
    command = ("compare", DIGITS, made / "out.onnx", "--calib", CALIB, "--threads", 1)
    assert run(*command, "--max-change", 1.0, "--report", report) == 0
    printed = capsys.readouterr()
    content = json.loads(report.read_text())
    assert content["parity"]["samples"] == len(IMAGES) and content["parity"]["basis"] == "compared"
    assert "whether a model was fitted to them is not known here" in content["headline"]["answers"]
    assert content["config"]["samples"] is None and content["config"]["calibration"] == str(CALIB)
    assert content["second"]["bytes"] == (made / "out.onnx").stat().st_size
    assert content["second"]["macs"] < content["first"]["macs"]
    assert f"{content['second']['macs']:,}" in printed.out and "of the first model's time" in printed.out
    assert run(*command, "--max-change", 2, "-q") == 2
    assert "nothing here can change by more than 1: 2% is 0.02" in capsys.readouterr().err
    assert run(*command, "--max-change", 0.0001, "--json", "-q") == 6
    printed = capsys.readouterr()
    content_printed = json.loads(printed.out)
    assert content_printed["parity"]["change"] == content["parity"]["change"] > 0.0001
    assert content_printed["command"].startswith("onnxmerge compare ")
    assert content["first"]["name"] == "digits.onnx" and content["second"]["name"] == "out.onnx"
    assert "above the 0.0001 allowed (measured on 512 samples" in printed.err
    assert run(*command, "--max-change", 1.0, "--max-latency", 1e-6, "-q", "--samples", 40) == 11
    assert "of the first model's time" in capsys.readouterr().err


def test_a_model_compared_with_itself_is_the_same(monkeypatch):
    monkeypatch.setattr(comparison, "SESSIONS", 1)
    result = onnxmerge.optimize(net(), ratio=0.5, criterion="l1", compensation="none", threads=1)
    data = np.random.default_rng(0).standard_normal((200, 6)).astype(np.float32)
    same = onnxmerge.compare(net(), net(), calibration=data, threads=1)
    assert same.parity.change == 0.0 and same.headline.size == "Both are the same model."
    found = result.compare(data)
    assert found.parity.samples == 200 and found.parity.change > 0
    assert found.latency.threads == 1, "read and run with the options of the run"
    assert (found.first.macs, found.second.macs) == (
        result.report.input.macs,
        result.report.output.macs,
    )
    assert result.compare(data, samples=50).parity.samples == 50
    made_up = onnxmerge.compare(net(), result.model, threads=1)
    assert made_up.parity.stand_in and "could not be checked" in made_up.headline.answers
    with pytest.raises(ToleranceExceeded, match="no data of the model's own kind"):
        made_up.require(max_change=0.0)
    with pytest.raises(LatencyExceeded):
        found.require(max_change=1e9, max_latency=1e-9)
    with pytest.raises(ToleranceExceeded, match="and one run takes"):
        found.require(max_change=0, max_latency=1e-9)
    for wrong in ({"max_change": -1}, {"max_latency": 0}, {"max_change": "much"}):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            found.require(**wrong)


def test_models_that_cannot_be_compared(tmp_path, capsys):
    def refused(text: str, words: str) -> None:
        with pytest.raises(ModelError, match=words):
            onnxmerge.compare(net(), net(text=text))

    refused(NET.replace(" x)", " image)").replace("(x,", "(image,"), "inputs of the first model are x, those")
    refused(NET.replace(" y)", " z)").replace("y =", "z ="), "the outputs of the first model are y")
    double = (
        NET.replace("float[N,6] x", "double[N,6] x")
        .replace("MatMul(x", "MatMul(c")
        .replace("{\n", "{\n c = Cast<to = 1>(x)\n", 1)
    )
    refused(double, r"the input 'x' is a tensor\(float\) in the first model, and a tensor\(double\)")
    (tmp_path / "text.onnx").write_text("no model")
    assert run("compare", DIGITS, tmp_path / "text.onnx") == 3
    assert "text.onnx is not an ONNX file" in capsys.readouterr().err
    assert run("compare", "-", "-") == 2
    assert "only one of them" in capsys.readouterr().err


def test_a_fixed_batch_of_the_second_model_is_met(monkeypatch):
    monkeypatch.setattr(comparison, "SESSIONS", 1)
    fixed = net(text=NET.replace("[N,", "[4,"))
    data = np.random.default_rng(0).standard_normal((10, 6)).astype(np.float32)
    found = onnxmerge.compare(net(), fixed, calibration=data, threads=1)
    assert found.parity.samples == 8 and found.parity.change < 1e-6
    with pytest.raises(ModelError, match="batches of 4 and of 2"):
        onnxmerge.compare(fixed, net(text=NET.replace("[N,", "[2,")), calibration=data, threads=1)


def test_another_outputs_and_types_are_compared_as_they_are(monkeypatch):
    """A second model may be of other numbers inside, and may give more."""
    monkeypatch.setattr(comparison, "SESSIONS", 1)
    half = net()
    for tensor in half.graph.initializer:
        values = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))
    # Converters to half precision leave nodes out of order, and onnxruntime does not mind.
    half.graph.node.append(half.graph.node[0])
    del half.graph.node[0]
    half.graph.output.append(onnx.helper.make_tensor_value_info("h", TensorProto.FLOAT, ["N", 8]))
    found = onnxmerge.compare(net(), half, threads=1)
    assert 0 < found.parity.change < 0.01
    assert any("not compared: h" in warning for warning in found.warnings)
    assert any("onnxruntime runs it all the same" in warning for warning in found.warnings)


# --- streams ------------------------------------------------------------------------------------------


class Stdin:
    def __init__(self, content: bytes) -> None:
        self.buffer = io.BytesIO(content)


def test_models_come_and_go_on_standard_streams(made, monkeypatch, capsysbinary):
    monkeypatch.setattr("sys.stdin", Stdin(DIGITS.read_bytes()))
    assert run("-", "-", "--config", made / "report.json") == 0
    printed = capsysbinary.readouterr()
    assert printed.out == (made / "out.onnx").read_bytes()
    assert b"wrote standard output" in printed.err and b"\x1b" not in printed.err


def test_json_is_all_there_is_on_standard_output(tmp_path, capsys):
    source, out = tmp_path / "net.onnx", tmp_path / "out.onnx"
    onnx.save(net(), source)
    options = (source, out, "--ratio", 0.25, "--criterion", "l1", "--compensation", "none", "--threads", 1)
    assert run(*options, "--json") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["output"]["bytes"] == out.stat().st_size
    assert "parameters" in printed.err and "\x1b" not in printed.err
    assert run(*options, "--json", "-q") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["unchanged"] is False and printed.err == ""
    assert run("inspect", source, "--json") == 0
    assert json.loads(capsys.readouterr().out)["reach"] > 0
    assert run(source, out, "--macs", 0.0001, "--json") == 5
    assert capsys.readouterr().out == ""


def test_a_plan_goes_through_a_pipe(tmp_path, capsys):
    source = tmp_path / "net.onnx"
    onnx.save(net(), source)
    options = ("--ratio", 0.25, "--criterion", "l1", "--compensation", "none", "--threads", 1)
    assert run("plan", source, "--save", "-", *options) == 0
    printed = capsys.readouterr()
    assert len(Plan.from_toml(printed.out).keep) == 1 and "and no model" in printed.err
    config = tmp_path / "ci.toml"
    config.write_text("macs = 0.5")
    assert run("inspect", source, "--config", config, "--report", config) == 2
    assert run(source, tmp_path / "out.onnx", "--config", config, "--report", config) == 2
    assert "is an input file" in capsys.readouterr().err and config.read_text() == "macs = 0.5"


def test_streams_that_cannot_be(tmp_path, monkeypatch, capsys):
    assert run(DIGITS, "-", "--ratio", 0.5, "--json") == 2
    assert "name a file" in capsys.readouterr().err
    with monkeypatch.context() as terminal:
        terminal.setattr("sys.stdout.isatty", lambda: True, raising=False)
        assert run(DIGITS, "-", "--ratio", 0.5) == 2
    assert "is a terminal" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", Stdin(b""))
    assert run("inspect", "-") == 3
    assert "standard input is empty" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", Stdin(b"nonsense"))
    assert run("inspect", "-") == 3
    assert "standard input is not an ONNX file" in capsys.readouterr().err
    onnx.save(net(), tmp_path / "o.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    monkeypatch.setattr("sys.stdin", Stdin((tmp_path / "o.onnx").read_bytes()))
    assert run("inspect", "-") == 3
    message = capsys.readouterr().err
    assert "standard input" in message and "w.bin" in message and "input.onnx" not in message

"""Options from a file: the same as on the command line, which counts more."""

from __future__ import annotations

import json
import re
from dataclasses import fields

import pytest

from onnxmerge.cli import main
from onnxmerge.cli.given import config_of, parsed
from onnxmerge.cli.options import (
    apply_parser,
    compare_parser,
    inspect_parser,
    optimize_parser,
    plan_parser,
    sweep_parser,
)
from onnxmerge.cli.values import shape
from onnxmerge.config import Config, Recovery
from onnxmerge.data import ImageOptions
from onnxmerge.errors import UsageError

IN_OUT = ("in.onnx", "out.onnx")
TOML = """\
macs = 0.5
criterion = "l1"
lambda = 0.7
skip = ["a*", "b"]
only = "c"
no-depth = true
samples = 100
mean = [0.485, 0.456, 0.406]
std = 0.25
scale = "0.5"
resize = [32, 48]
align = 4
recover = "2m"
calib = "data.npz"
eval-calib = "other.npz"
report = "r.json"
quiet = true
verbose = false

[shape]
image = [1, 3, 8, 8]

[output-kind]
logits = "values"
"""


def options_of(tmp_path, text: str, *arguments: str, parser=optimize_parser, name: str = "ci.toml"):
    path = tmp_path / name
    path.write_text(text)
    return parsed(parser(), [*IN_OUT, "--config", str(path), *arguments])


def test_a_file_says_what_the_command_line_would(tmp_path):
    found = options_of(tmp_path, TOML)
    spoken = (
        "--macs 0.5 --criterion l1 --lambda 0.7 --skip a* b --only c --no-depth --samples 100 --quiet "
        "--mean 0.485,0.456,0.406 --std 0.25 --scale 0.5 --resize 32,48 --align 4 --recover 2m "
        "--calib data.npz --eval-calib other.npz --report r.json --shape image=1,3,8,8 "
        "--output-kind logits=values"
    )
    said = parsed(optimize_parser(), [*IN_OUT, *spoken.split()])
    assert config_of(found) == config_of(said)
    for name in ("calib", "eval_calib", "report", "quiet", "verbose", "no_clobber"):
        assert getattr(found, name) == getattr(said, name), name
    assert config_of(found).recovery == Recovery(seconds=120.0)


def test_the_command_line_counts_more(tmp_path):
    arguments = ("--latency", "0.6", "--skip", "d", "--mean", "0.1", "--recover", "5", "--calib", "mine.npz")
    config = config_of(found := options_of(tmp_path, TOML, *arguments))
    assert config.budget == ("latency", 0.6), "the budget of the file is replaced"
    assert config.skip == ("d",) and config.only == ("c",)
    assert config.images == ImageOptions((0.1,), (0.25,), 0.5, resize=(32, 48))
    assert config.recovery == Recovery(steps=5) and found.calib == "mine.npz"


RICH = Config(
    params=0.4,
    tolerance=0.02,
    criterion="l2",
    threshold=0.3,
    trade_off=0.6,
    shift_weight=0.2,
    spread_weight=0.3,
    align=8,
    target="cuda",
    depth=False,
    scope="chain",
    skip=("x",),
    only=("y", "z"),
    samples=7,
    patches=9,
    seed=3,
    shapes={"a": (1, 2)},
    images=ImageOptions((0.1, 0.2, 0.3), (1.0,), 0.5, "nhwc", (8, 9), "bgr"),
    output_kinds={"o": "values"},
    examples=3,
    precision="fp16",
    recover=Recovery(steps=5, batch=4, rate=0.1, inner=2.0, augment=False),
    threads=2,
    device="cpu",
)


@pytest.mark.parametrize("config", [RICH, Config(), Config(latency=0.5, recover="30s")])
def test_the_configuration_of_a_report_is_read_back(config, tmp_path):
    record = config.as_dict() | {"calibration": "d.npz", "evaluation": None}
    # As they come out of a report.
    report = json.dumps({"schema_version": 1, "config": record})
    for text in (report, json.dumps(record)):
        found = options_of(tmp_path, text, name="report.json")
        assert config_of(found) == config and found.calib == "d.npz" and found.eval_calib is None


def test_a_report_serves_other_verbs_for_what_they_have(tmp_path):
    report = tmp_path / "r.json"
    report.write_text(json.dumps({"schema_version": 1, "config": RICH.as_dict()}))
    alone = tmp_path / "config.json"
    alone.write_text(json.dumps(RICH.as_dict()))
    for path in (report, alone):
        found = parsed(sweep_parser(), ["in.onnx", "--config", str(path)])
        assert config_of(found).budget is None and config_of(found).seed == 3
    found = parsed(compare_parser(), ["a.onnx", "b.onnx", "--config", str(report)])
    assert config_of(found).images == RICH.images and config_of(found).criterion == "auto"
    found = parsed(apply_parser(), ["a.onnx", "p.toml", "b.onnx", "--config", str(report)])
    assert config_of(found).tolerance == 0.02 and not found.force
    found = parsed(plan_parser(), ["a.onnx", "--save", "p.toml", "--config", str(report)])
    assert config_of(found) == RICH
    report.write_text(json.dumps({"schema_version": 1, "asked": {"kind": "plan"}, "config": {}}))
    with pytest.raises(UsageError, match="onnxmerge apply does it again"):
        parsed(optimize_parser(), [*IN_OUT, "--config", str(report)])
    assert parsed(sweep_parser(), ["a"]).steps == (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)


@pytest.mark.parametrize(
    "text, words",
    [
        ("mcas = 0.5", "sets 'mcas', which is no option here; did you mean 'macs'?"),
        ("steps = [0.5]", "sets 'steps', which is no option here"),
        ("config = 'x.toml'", "sets 'config'"),
        ("macs = 'half'", "'macs' cannot be 'half'"),
        ("macs = 2", "macs= is the share that is kept"),
        ("macs = 0.5\nratio = 0.5", "both budgets"),
        ("macs = [0.5]", "macs= is the share"),
        ("criterion = 5", "'criterion' is a text, not 5"),
        ("criterion = 'best'", "criterion= is one of"),
        ("calib = ['a.npz']", "'calib' is a text"),
        ("skip = [5]", "'skip' is a text, not 5"),
        ("no-depth = 'yes'", "'no-depth' is true or false"),
        ("depth = 0", "'depth' is true or false"),
        ("quiet = 1", "'quiet' is true or false"),
        ("shape = 'image'", "not of the form NAME="),
        ("shape = {image = 'x'}", "shapes= for 'image'"),
        ("mean = 'grey'", "no list of numbers"),
        ("resize = [5]", "resize= is a height and a width"),
        ("recover = {step = 5}", "'recover' has an option that there is not"),
        ("recover = 'soon'", "recover= is a time"),
        ("images = 5", "sets 'images'"),
        ("macs = ", "is no TOML"),
        ("{", "is no JSON"),
    ],
)  # fmt: skip
def test_mistakes_in_a_file_are_named_with_it(text, words, tmp_path, capsys):
    with pytest.raises(UsageError, match=re.escape(words)) as refused:
        options_of(tmp_path, text)
    assert str(tmp_path / "ci.toml") in str(refused.value)
    assert main([*IN_OUT, "--config", str(tmp_path / "ci.toml")]) == 2
    assert capsys.readouterr().err.count("onnxmerge: error:") == 1


def test_a_file_that_cannot_be_read(tmp_path, capsys):
    (tmp_path / "binary.toml").write_bytes(b"\xff\x00")
    (tmp_path / "list.json").write_text("[1]")
    for name, words in (("absent", "cannot read"), ("binary.toml", "UTF-8"), ("list.json", "no table")):
        assert main([*IN_OUT, "--config", str(tmp_path / name)]) == 2
        assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, recovery",
    [
        (("--recover", *IN_OUT), Recovery()),
        ((IN_OUT[0], "--recover", IN_OUT[1]), Recovery()),
        ((*IN_OUT, "--recover"), Recovery()),
        (("--recover", "--macs", "0.5", *IN_OUT), Recovery()),
        (("--recover", "2m", *IN_OUT), Recovery(seconds=120.0)),
        ((IN_OUT[0], "--recover=500", IN_OUT[1]), Recovery(steps=500)),
    ],
)
def test_recover_may_stand_anywhere(arguments, recovery):
    found = parsed(optimize_parser(), arguments)
    assert (found.model, found.output) == IN_OUT
    assert config_of(found).recovery == recovery


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((), "required: IN, OUT"),
        (("a.onnx",), "required: OUT"),
        (("--skip", "x", *IN_OUT), "stand behind them"),
        ((*IN_OUT, "--mcas", "1"), "there is no option --mcas; did you mean '--macs'?"),
        ((*IN_OUT, "--calibration", "x"), "no option --calibration; did you mean '--calib'?"),
        ((*IN_OUT, "more"), "'more' is one argument too many"),
        ((*IN_OUT, "--macs"), "--macs: expected one argument"),
        ((*IN_OUT, "--macs", "half"), "--macs: invalid float value: 'half'"),
        ((*IN_OUT, "--recover=soon"), "no time such as 2m"),
        ((*IN_OUT, "--mean", "a,b"), "no list of numbers"),
        ((*IN_OUT, "--resize", "a"), "no size such as"),
        ((*IN_OUT, "--shape", "image"), "not of the form NAME="),
        (("compaer", "a.onnx", "b.onnx"), "did you mean 'compare'?"),
        (("inspetc",), "did you mean 'inspect'?"),
    ],
)
def test_mistakes_on_the_command_line_are_one_sentence(arguments, words, capsys):
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert words in message and message.count("\n") == 1


def test_every_option_of_a_configuration_can_be_said():
    """Else the report of a run could not be read back."""
    said = {action.dest for action in optimize_parser().options().values()}
    names = {f.name for f in fields(Config)} - {"images"} | {f.name for f in fields(ImageOptions)}
    assert names <= said


@pytest.mark.parametrize(
    "parser", [optimize_parser, inspect_parser, sweep_parser, plan_parser, apply_parser, compare_parser]
)
def test_help_shows_what_matters_first(parser):
    screen, everything = parser().first_screen(), parser().format_help()
    assert "--config" in screen and "exit codes" in everything
    if parser is optimize_parser:
        assert len(screen.splitlines()) <= 36 and "--patches" not in screen and "--patches" in everything
        for verb in ("inspect", "sweep", "plan", "apply", "compare"):
            assert f"onnxmerge {verb} " in screen


def test_shapes_are_read_with_commas_or_crosses():
    assert shape("a=b=1x3x8x8") == shape("a=b=1,3,8,8") == ("a=b", (1, 3, 8, 8))

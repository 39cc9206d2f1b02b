"""What callers give: checked by name, with one sentence that says what an argument takes and what it got."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxmerge
from onnxmerge.cli import main
from onnxmerge.cli.given import in_flags
from onnxmerge.config import Config
from onnxmerge.data import ImageOptions
from onnxmerge.errors import UsageError
from onnxmerge.runtime import Runtime

DIGITS = Path(__file__).parents[1] / "models" / "digits.onnx"

NAN, INFINITY = float("nan"), float("inf")
WRONG = {
    "ratio": ("0.5", True, NAN, 1.0, -0.1, [0.5]),
    "macs": ("0.5", True, NAN, 0, 1.1, INFINITY, {}),
    "params": ("half", False, NAN, -0.5),
    "latency": ("0.6", NAN, 2, np.array([0.5, 0.6])),
    "tolerance": ("0.01", True, NAN, -0.01),
    "max_drop": ("0.5", True, NAN, -1),
    "lower_is_better": ("yes", None, 1),
    "precision": ("int4", 8, True),
    "criterion": ("best", None, 1, ["l1"]),
    "compensation": ("most", None, True),
    "threshold": ("0.45", True, NAN, INFINITY, 10**400),
    "trade_off": ("0.85", None, True, NAN, 1.5),
    "shift_weight": ("0.1", None, NAN, -0.1, INFINITY),
    "spread_weight": ("0.1", None, NAN, -0.1, INFINITY),
    "allocation": ("", 0, None),
    "align": ("1", "8", True, 0, -8, 1.0, 8.5, NAN, None),
    "target": ("gpu", None, 1),
    "depth": ("yes", None, 1),
    "scope": ("chains", None, 0),
    "skip": ("conv1", None, [1], ("a", None)),
    "only": ("conv1", 3, [b"a"]),
    "samples": ("64", True, 0, 64.0, NAN, None),
    "patches": ("many", False, -1, 1e4),
    "seed": ("0", True, -1, 0.5, None),
    "shapes": ([1, 3], "x=1,3", {"x": "1,3"}, {"x": 3}, {"x": [1, 0]}, {"x": [1.5]}, {1: [1]}, None),
    "images": ({"mean": 0.5}, "nchw", True),
    "output_kinds": ("classes", {"y": "class"}, {"y": 1}, {"y": ["classes"]}, {0: "values"}, None),
    "examples": ("8", True, -1, 1.5, None),
    "recover": ("soon", "2x", "-3", 0, 1.5, NAN, [60], {"steps": 3}),
    "threads": ("1", True, 0, 1.5, NAN),
    "device": ("gpu", None, 0),
}
WRONG_IMAGES = {
    "mean": ("0.5", True, (0.1, 0.2), (NAN,), ("a",), []),
    "std": ("1", 0, (1, 0, 1), (INFINITY,), [True]),
    "scale": ("1", True, 0, NAN, INFINITY),
    "layout": ("NCWH", 1, True),
    "order": ("RGB", 1, True),
    "resize": ("224", 224, (224,), (0, 10), (1.5, 2), [True, True]),
}


def test_every_option_is_checked():
    assert WRONG.keys() == {f.name for f in fields(Config)}
    assert WRONG_IMAGES.keys() == {f.name for f in fields(ImageOptions)}


def cases(table: Mapping[str, tuple]) -> list[tuple]:
    return [(name, value) for name, values in table.items() for value in values]


@pytest.mark.parametrize("name, value", cases(WRONG), ids=str)
def test_wrong_options_name_the_argument(name, value):
    with pytest.raises(UsageError) as error:
        Config(**{name: value})
    message = str(error.value)
    assert (
        message.startswith(f"{name}= ") and " is " in message and "--" not in message and "\n" not in message
    )
    if isinstance(value, str):
        assert message.endswith(f"not the text {value!r}")
    elif not isinstance(value, Mapping | np.ndarray) and value != 10**400:
        assert message.endswith(f"not {value!r}")


@pytest.mark.parametrize("name, value", cases(WRONG_IMAGES), ids=str)
def test_wrong_image_options_name_the_argument(name, value):
    with pytest.raises(UsageError, match=f"^{name}= is ") as error:
        ImageOptions(**{name: value})
    assert "--" not in str(error.value)


@pytest.mark.parametrize("model", [None, 5, b"bytes", onnx.GraphProto()], ids=lambda m: type(m).__name__)
def test_a_model_is_a_path_or_a_model(model):
    for call in (onnxmerge.optimize, onnxmerge.inspect, lambda m: onnxmerge.compare(DIGITS, m)):
        with pytest.raises(UsageError, match=f"or an onnx.ModelProto, not {type(model).__name__}"):
            call(model)


@pytest.mark.parametrize("plan", ["plan.toml", {"groups": []}])
def test_a_plan_is_no_path_and_no_table(plan):
    with pytest.raises(UsageError, match=r"plan= is a Plan, which Plan\.load reads"):
        onnxmerge.optimize(DIGITS, plan=plan)


def test_a_message_says_what_is_taken_and_what_was_given():
    with pytest.raises(UsageError) as error:
        Config(align="1")
    assert str(error.value) == "align= is 'auto' or a whole number of at least 1, not the text '1'"
    with pytest.raises(UsageError) as error:
        Config(shapes={"x": [1, 0]})
    assert str(error.value) == "shapes= for 'x' is a list of whole numbers of at least 1, not [1, 0]"
    with pytest.raises(UsageError, match=r"^macs= and params= are both budgets: give one$"):
        Config(macs=0.5, params=0.5)
    with pytest.raises(UsageError, match=r"^threads= is "):
        Runtime.create("cpu", "1")
    with pytest.raises(UsageError, match=r"^output_kinds= names 'nothing'"):
        onnxmerge.optimize(DIGITS, ratio=0.5, output_kinds={"nothing": "values"})


def test_what_numpy_and_lists_give_is_fine_and_becomes_plain():
    config = Config(
        macs=np.float32(0.5),
        align=np.int64(8),
        seed=np.uint8(3),
        threads=np.int32(1),
        skip=["a", "b"],
        only=np.array(["c"]),
        shapes={"x": np.array([1, 3])},
        trade_off=1,
        images=ImageOptions(
            mean=[0.5], std=np.array([1.0, 2.0, 3.0]), scale=np.float64(2), resize=[8, np.int64(9)]
        ),
    )
    assert (config.macs, config.align, config.skip, config.only) == (0.5, 8, ("a", "b"), ("c",))
    assert config.shapes == {"x": (1, 3)} and config.images.std == (1.0, 2.0, 3.0)
    assert ImageOptions(mean=0.5) == ImageOptions(mean=(0.5,))
    json.dumps(config.as_dict())


@pytest.mark.parametrize(
    "options, words",
    [
        (("--macs", "2"), "--macs is the share that is kept, above 0 and at most 1, not 2.0"),
        (("--macs", "0.5", "--params", "0.5"), "--macs and --params are both budgets"),
        (("--lambda", "2"), "--lambda is a number from 0 to 1, not 2.0"),
        (("--align", "0"), "--align is 'auto' or a whole number of at least 1, not 0"),
        (
            ("--shape", "image=0,1"),
            "--shape for 'image' is a list of whole numbers of at least 1, not (0, 1)",
        ),
        (("--shape", "picture=1,1"), "--shape names 'picture'"),
        (("--output-kind", "y=class"), "--output-kind for 'y' is one of"),
        (("--std", "0"), "--std is one number or one per colour channel, none of them 0"),
        (("--layout", "chw"), "--layout is one of nchw, nhwc"),
        (("--device", "gpu"), "--device is one of auto, cpu, cuda"),
    ],
)
def test_the_command_line_names_its_own_options(options, words, tmp_path, capsys):
    assert main([str(DIGITS), str(tmp_path / "out.onnx"), "-q", *options]) == 2
    assert f"onnxmerge: error: {words}" in capsys.readouterr().err


def test_only_arguments_become_options():
    said = "give trade_off=, mean= and eval_calib=; 'macs=0.5' and xmean= stay, calibration="
    assert in_flags(said) == "give --lambda, --mean and eval_calib=; 'macs=0.5' and xmean= stay, --calib"

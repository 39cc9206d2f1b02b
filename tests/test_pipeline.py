"""The Python API: what every run guarantees, on models of every kind of coupling."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxmerge
from onnxmerge import rewrite
from onnxmerge.channels.groups import find_channels
from onnxmerge.config import Config
from onnxmerge.decisions import made
from onnxmerge.errors import BudgetError, CalibrationError, UsageError
from onnxmerge.graph.view import GraphView
from onnxmerge.pipeline import analysed, chosen
from onnxmerge.plan import Plan
from onnxmerge.progress import Clock
from onnxmerge.runtime import Runtime

MODELS = Path(__file__).parents[1] / "models"
DIGITS = MODELS / "digits.onnx"
CALIB = MODELS / "digits_calib.npz"
SHARED_MODELS = Path(__file__).parents[2] / "shared" / "models"
RUNTIME = Runtime.create("cpu", 2)
NAMES = [
    "resnet56_bn", "resnet56_folded", "resnet20_bn", "resnet20_folded", "mobilenetv2", "resnet8",
    "mlperftiny_mobilenetv1_0.25_vww", "mlperftiny_dscnn_kws_dequant",
]  # fmt: skip


# Where the method is not the point: the fastest one.
FAST = {"compensation": "merge", "criterion": "l1"}


def digits() -> np.ndarray:
    return np.load(CALIB)["image"]


def outputs(model, feed) -> dict[str, np.ndarray]:
    return RUNTIME.session(model).run(feed)


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-9))


@pytest.mark.skipif(not SHARED_MODELS.is_dir(), reason="the shared models are not here")
@pytest.mark.parametrize(
    "name, compensation", [*((name, "merge") for name in NAMES), ("resnet20_bn", "none")]
)
def test_pruned_equals_masked_on_trained_models(name, compensation):
    config = Config(ratio=0.25, compensation=compensation, criterion="l1", samples=2, device="cpu")
    study = analysed(SHARED_MODELS / f"{name}.onnx", None, None, config, Clock())
    candidate = made(study, chosen(study)).candidate
    assert study.analysis.removed(candidate.selection).any()
    masked = rewrite.masked(study.analysis, candidate.selection, candidate.folds)
    feed = next(iter(study.samples.fit.feeds()))
    expected = outputs(masked, feed)
    for output, values in outputs(candidate.model, feed).items():
        assert relative(values, expected[output]) < 1e-4, output


@pytest.mark.skipif(not SHARED_MODELS.is_dir(), reason="the shared models are not here")
def test_residual_streams_shrink():
    result = onnxmerge.optimize(
        SHARED_MODELS / "resnet20_bn.onnx", ratio=0.25, compensation="none", samples=2
    )
    after = {group["name"]: group["after"] for group in result.report["groups"]}
    assert after["/conv1/Conv"] == 12, "the first stage of the stream, through Slice and Pad shortcuts"


def test_a_budget_of_nothing_changes_nothing():
    original = onnx.load(DIGITS)
    result = onnxmerge.optimize(original, ratio=0.0, calibration=digits(), **FAST)
    assert result.report["unchanged"]
    assert result.model.SerializeToString(deterministic=True) == original.SerializeToString(
        deterministic=True
    )
    for before, after in zip(
        outputs(original, {"image": digits()}).values(),
        outputs(result.model, {"image": digits()}).values(),
        strict=True,
    ):
        assert np.array_equal(before, after)


def test_what_survives_keeps_its_name_and_the_model_its_face():
    original = onnx.load(DIGITS)
    original.metadata_props.add(key="author", value="somebody")
    original.graph.node[2].doc_string = "the second convolution"
    original.model_version, original.domain = 7, "com.example"
    result = onnxmerge.optimize(original, ratio=0.5, calibration=digits(), **FAST)
    model = result.model
    assert [n.name for n in model.graph.node] == [n.name for n in original.graph.node]
    assert {t.name for t in model.graph.initializer} == {t.name for t in original.graph.initializer}
    assert [n.op_type for n in model.graph.node].count("BatchNormalization") == 4
    assert model.graph.input == original.graph.input and model.graph.output == original.graph.output
    assert model.opset_import == original.opset_import and model.ir_version == original.ir_version
    assert (model.model_version, model.domain, model.metadata_props) == (
        7,
        "com.example",
        original.metadata_props,
    )
    assert model.graph.node[2].doc_string == "the second convolution"
    assert outputs(model, {"image": digits()[:3]})["logits"].shape == (3, 10)


@pytest.mark.parametrize("kind", ["macs", "params"])
@pytest.mark.parametrize("allocation", ["uniform", "global"])
@pytest.mark.parametrize("share", [0.8, 0.35])
def test_budgets_are_met_on_the_written_file(kind, allocation, share):
    options = {kind: share, "allocation": allocation, "compensation": "none", "criterion": "l1", "align": 1}
    result = onnxmerge.optimize(DIGITS, calibration=digits()[:8], **options)
    before, after = measured(onnx.load(DIGITS)), measured(result.model)
    assert after[kind] <= share * before[kind]
    assert after[kind] == result.report["output"][kind] and before[kind] == result.report["input"][kind]
    cheapest = min(
        measured(onnxmerge.optimize(DIGITS, calibration=digits()[:8], plan=plan, compensation="none").model)[
            kind
        ]
        for plan in one_more_channel(result)
    )
    assert cheapest > share * before[kind], "another channel would have fitted into the budget"


def measured(model: onnx.ModelProto) -> dict[str, int]:
    """MACs and parameters counted from the file alone, for one image."""
    shapes = RUNTIME.trace(model, {"image": digits()[:1]})
    macs = 0
    for node in model.graph.node:
        if node.op_type == "Conv":
            macs += int(np.prod(shapes[node.output[0]]) * np.prod(shapes[node.input[1]][1:]))
        if node.op_type == "Gemm":
            macs += int(np.prod(shapes[node.input[1]]))
    return {"macs": macs, "params": sum(int(np.prod(t.dims)) for t in model.graph.initializer)}


def one_more_channel(result: onnxmerge.Result) -> list[Plan]:
    plans = []
    for group in result.report["groups"]:
        keep = result.plan.keep[group["name"]]
        missing = set(range(group["before"])) - set(keep)
        if missing:
            plans.append(
                replace(result.plan, keep={**result.plan.keep, group["name"]: (*keep, min(missing))})
            )
    return plans


def test_an_impossible_budget_says_what_is_reachable():
    with pytest.raises(BudgetError, match=r"smallest width 0\.\d+ remain"):
        onnxmerge.optimize(DIGITS, macs=1e-4, calibration=digits()[:8], **FAST)


def test_a_plan_can_be_saved_edited_and_applied(tmp_path):
    first = onnxmerge.optimize(DIGITS, ratio=0.5, calibration=digits()[:8], **FAST)
    (tmp_path / "plan.json").write_text(first.plan.to_json())
    plan = Plan.load(tmp_path / "plan.json")
    again = onnxmerge.optimize(DIGITS, plan=plan, calibration=digits()[:8])
    assert again.model.SerializeToString(deterministic=True) == first.model.SerializeToString(
        deterministic=True
    )
    with pytest.raises(UsageError, match="another model"):
        onnxmerge.optimize(DIGITS, plan=replace(plan, fingerprint="0" * 64), calibration=digits()[:8])
    with pytest.raises(UsageError, match="unknown channels"):
        edited = replace(plan, keep={**plan.keep, "/fc1/Gemm": (0, 64)})
        onnxmerge.optimize(DIGITS, plan=edited, calibration=digits()[:8])


def test_calibration_in_every_form():
    class Reader:
        def __init__(self):
            self.feeds = iter([{"image": digits()[i : i + 4]} for i in range(0, 16, 4)])

        def get_next(self):
            return next(self.feeds, None)

    forms = [
        digits()[:16],
        {"image": digits()[:16]},
        [{"image": digits()[i : i + 1]} for i in range(16)],
        Reader(),
    ]
    models = [
        onnxmerge.optimize(
            DIGITS, ratio=0.25, compensation="bias", criterion="l1", calibration=form
        ).model.graph.initializer
        for form in forms
    ]
    for other in models[1:]:
        for a, b in zip(models[0], other, strict=True):
            np.testing.assert_allclose(
                numpy_helper.to_array(a), numpy_helper.to_array(b), rtol=1e-5, atol=1e-6
            )
    with pytest.raises(CalibrationError):
        onnxmerge.optimize(DIGITS, ratio=0.25, calibration=3.5)


def test_the_mean_goes_into_batch_norm_or_bias():
    """A channel that is constant on the data can go without any loss under ``bias``."""
    original = onnx.load(DIGITS)
    values = {t.name: t for t in original.graph.initializer}
    for name in ("block1.norm1.weight", "fc1.weight"):
        array = numpy_helper.to_array(values[name]).copy()
        array[:4] = 0
        values[name].CopyFrom(numpy_helper.from_array(array, name))
    bias = numpy_helper.to_array(values["fc1.bias"]).copy()
    bias[:4] = 5
    values["fc1.bias"].CopyFrom(numpy_helper.from_array(bias, "fc1.bias"))
    constant = {"/block1/conv1/Conv": tuple(range(4, 32)), "/fc1/Gemm": tuple(range(4, 64))}
    reference = onnxmerge.optimize(original, ratio=0.0, calibration=digits(), **FAST)
    plan = replace(reference.plan, keep=constant, method={})
    for compensation, bound in (("bias", 1e-3), ("none", np.inf)):
        result = onnxmerge.optimize(
            original, plan=plan, compensation=compensation, criterion="l1", calibration=digits()
        )
        assert result.report["parity"]["relative_error"] < bound
        worst = result.report["parity"]["relative_error"]
    assert worst > 1e-2, "without the bias something is lost, so the test can fail"


def duplicated() -> onnx.ModelProto:
    """Gemm -> Relu -> Gemm with every hidden neuron twice, the second with half of the outgoing weight."""
    rng = np.random.default_rng(0)
    w1, b1 = rng.standard_normal((6, 5)).astype(np.float32), rng.standard_normal(6).astype(np.float32)
    w2 = rng.standard_normal((3, 6)).astype(np.float32)
    tensors = {
        "w1": np.concatenate([w1, 2 * w1]), "b1": np.concatenate([b1, 2 * b1]),
        "w2": np.concatenate([w2, 0.25 * w2], axis=1), "b2": np.zeros(3, np.float32),
    }  # fmt: skip
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], "first", transB=1),
        helper.make_node("Relu", ["h"], ["r"], "act"),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["y"], "second", transB=1),
    ]
    graph = helper.make_graph(
        nodes, "twins",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(v, k) for k, v in tensors.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("keep", [range(6), range(6, 12), [0, 7, 2, 9, 4, 11]])
def test_duplicated_neurons_merge_back(keep):
    model = duplicated()
    nothing = onnxmerge.optimize(model, ratio=0.0, **FAST)
    plan = replace(nothing.plan, keep={"first": tuple(sorted(keep))}, method={})
    result = onnxmerge.optimize(model, plan=plan, compensation="merge", threshold=0.99)
    assert result.report["output"]["params"] * 1.9 < result.report["input"]["params"]
    assert result.report["parity"]["max_abs_error"] < 1e-5


def test_unknown_options_are_named():
    with pytest.raises(UsageError, match="ration"):
        onnxmerge.optimize(DIGITS, ration=0.5)


@pytest.mark.skipif(not SHARED_MODELS.is_dir(), reason="the shared models are not here")
def test_analysis_finds_the_same_groups_again():
    """Analysing the pruned model gives the widths that were planned: nothing was cut halfway."""
    config = Config(ratio=0.5, samples=1, **FAST)
    study = analysed(SHARED_MODELS / "resnet20_bn.onnx", None, None, config, Clock())
    candidate = made(study, chosen(study)).candidate
    again = analysed(candidate.model, None, None, Config(samples=1), Clock()).analysis.channels
    planned = {name: len(keep) for name, keep in candidate.selection.keep.items()}
    assert {group.name: len(group) for group in again.groups} == planned
    assert isinstance(again.view, GraphView) and find_channels(again.view).count == again.count


def test_the_input_file_is_never_written(tmp_path):
    source = tmp_path / "in.onnx"
    source.write_bytes((MODELS / "digits.onnx").read_bytes())
    result = onnxmerge.optimize(source, ratio=0.5, samples=4, tolerance=9.0, **FAST)
    with pytest.raises(UsageError, match="is an input file"):
        result.save(source)
    assert source.read_bytes() == (MODELS / "digits.onnx").read_bytes()
    assert "headline" in result.report and "nothing" not in result.report
    assert list(result.report) == list(result.report.content)

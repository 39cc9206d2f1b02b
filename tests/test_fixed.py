"""Operators that cannot be pruned: they are counted and named, and no budget is met."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import support

import onnxmerge
from onnxmerge.channels.explain import explain
from onnxmerge.cli import main
from onnxmerge.errors import BudgetError

_QUANTISED, _PACKED = "prune before you quantise", "prune before onnxruntime packs the model for one machine"


@dataclass(frozen=True)
class Fixed:
    """One layer from [N, 32] or [N, 16, 6, 6], its multiplications, and what is said of it."""

    text: str
    macs: int
    reason: str
    domain: bool = False


_IMAGE = "g (float[N,16,6,6] x) => (float[N,16,P,Q] y)"
_ROWS = "g (float[N,32] x) => (float[N,16] y)"
_SCALES = "float a = {0.1}, float s = {0.2}, uint8 z = {128}"
LAYERS = {
    "ConvInteger": Fixed(
        f"""{_IMAGE} <uint8[16,16,3,3] w> {{
        q, s, z = DynamicQuantizeLinear(x)  i = ConvInteger(q, w, z)  h = Cast<to = 1>(i)
        y = Mul(h, s) }}""",
        16 * 16 * 16 * 9,
        f"1 of 1 Conv are ConvInteger: {_QUANTISED}",
    ),
    "QLinearConv": Fixed(
        f"""{_IMAGE} <uint8[16,16,3,3] w, {_SCALES}> {{
        q = QuantizeLinear(x, a, z)  h = QLinearConv(q, a, z, w, s, z, a, z)
        y = DequantizeLinear(h, a, z) }}""",
        16 * 16 * 16 * 9,
        f"1 of 1 Conv are QLinearConv: {_QUANTISED}",
    ),
    "MatMulInteger": Fixed(
        f"""{_ROWS} <uint8[32,16] w> {{
        q, s, z = DynamicQuantizeLinear(x)  i = MatMulInteger(q, w, z)  h = Cast<to = 1>(i)
        y = Mul(h, s) }}""",
        32 * 16,
        f"1 of 1 MatMul are MatMulInteger: {_QUANTISED}",
    ),
    "QLinearMatMul": Fixed(
        f"""{_ROWS} <uint8[32,16] w, {_SCALES}> {{
        q = QuantizeLinear(x, a, z)  h = QLinearMatMul(q, a, z, w, s, z, a, z)
        y = DequantizeLinear(h, a, z) }}""",
        32 * 16,
        f"1 of 1 MatMul are QLinearMatMul: {_QUANTISED}",
    ),
    "QGemm": Fixed(
        f"""{_ROWS} <uint8[32,16] w, {_SCALES}> {{
        q = QuantizeLinear(x, a, z)  h = com.microsoft.QGemm(q, a, z, w, s, z, , a, z)
        y = DequantizeLinear(h, a, z) }}""",
        32 * 16,
        f"1 of 1 MatMul are QGemm: {_QUANTISED}",
        domain=True,
    ),
    "MatMulNBits": Fixed(
        f"""{_ROWS} <uint8[16,1,16] w, float[16] scale, float[16,16] v> {{
        h = com.microsoft.MatMulNBits<K = 32, N = 16, bits = 4, block_size = 32>(x, w, scale)
        y = MatMul(h, v) }}""",
        32 * 16 + 16 * 16,
        f"1 of 2 MatMul are MatMulNBits: {_QUANTISED}",
        domain=True,
    ),
}


def model(layer: Fixed):
    return support.model(layer.text, contrib=layer.domain)


@pytest.mark.parametrize("name", LAYERS)
def test_multiplications_are_counted_and_the_operator_is_named(name: str):
    layer = LAYERS[name]
    analysed = support.analysed(model(layer), sizes=1)
    explanation = explain(analysed.channels, analysed.cost)
    assert explanation.macs == layer.macs
    assert explanation.groups == ()
    assert layer.reason in {entry.reason for entry in explanation.frozen}


@pytest.mark.parametrize("budget", ["macs", "params", "ratio", "latency"])
@pytest.mark.parametrize("name", LAYERS)
def test_no_budget_is_met(name: str, budget: str):
    layer = LAYERS[name]
    with pytest.raises(BudgetError, match=layer.reason):
        onnxmerge.optimize(model(layer), threads=1, **{budget: 0.5})


def test_convolutions_in_blocks_for_one_machine(tmp_path):
    digits = Path(__file__).parents[1] / "models" / "digits.onnx"
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "blocks.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(digits, options, providers=["CPUExecutionProvider"])
    proto = onnx.load(options.optimized_model_filepath)
    if not any(node.domain == "com.microsoft.nchwc" for node in proto.graph.node):
        pytest.skip("this processor has no such blocks")
    analysed, plain = support.analysed(proto, sizes=1), support.analysed(digits, sizes=1)
    assert analysed.cost.macs == plain.cost.macs
    reasons = [entry.reason for entry in explain(analysed.channels, analysed.cost).frozen]
    assert f"9 of 9 Conv are nchwc.Conv: {_PACKED}" in reasons


def test_a_budget_of_everything_is_met():
    for budget in ({"macs": 1.0}, {"ratio": 0.0}, {}):
        result = onnxmerge.optimize(model(LAYERS["ConvInteger"]), threads=1, **budget)
        assert result.report["output"]["macs"] == result.report["input"]["macs"] > 0


def test_where_something_else_can_go_it_is_said_what_cannot():
    text = f"""{_ROWS} <uint8[32,64] w, float[64,8] u, float[8,16] v> {{
        q, s, z = DynamicQuantizeLinear(x)  i = MatMulInteger(q, w, z)  c = Cast<to = 1>(i)  h = Mul(c, s)
        k = MatMul(h, u)  r = Relu(k)  y = MatMul(r, v) }}"""
    with pytest.raises(BudgetError, match=f"remain; .*1 of 3 MatMul are MatMulInteger: {_QUANTISED}"):
        onnxmerge.optimize(support.model(text), threads=1, macs=0.5)


def test_a_model_without_multiplications_meets_no_budget_of_them():
    text = "g (float[N,8] x) => (float[N,8] y) { y = Relu(x) }"
    with pytest.raises(BudgetError, match="macs= cannot be met: the model has no multiplications"):
        onnxmerge.optimize(support.model(text), threads=1, macs=0.5)


def test_layers_inside_of_branches_are_named():
    text = """g (float[N,8] x, bool c) => (float[N,8] y) <float[8,8] v> {
        y = If(c)<
            then_branch = t () => (float[N,8] a) { a = MatMul(x, v) },
            else_branch = e () => (float[N,8] b) { b = Relu(x) }
        > }"""
    with pytest.raises(BudgetError, match="what is inside of If is not analysed"):
        onnxmerge.optimize(support.model(text), threads=1, macs=0.5)
    assert "what is inside of If is not analysed" in onnxmerge.inspect(support.model(text)).warnings[-1]
    plain = onnxmerge.inspect(support.model(text.replace("MatMul(x, v)", "Tanh(x)")))
    assert not any("If" in said for said in plain.warnings)


def test_groups_that_somebody_spared_are_the_reason():
    text = f"{_ROWS} <float[32,8] u, float[8,16] v> {{ h = MatMul(x, u)  y = MatMul(h, v) }}"
    with pytest.raises(BudgetError, match="its groups are left whole, as asked"):
        onnxmerge.optimize(support.model(text), threads=1, macs=0.5, skip=["h"])


def test_the_command_line_ends_with_exit_5_and_names_the_option(tmp_path, capsys):
    path, out = tmp_path / "in.onnx", tmp_path / "out.onnx"
    path.write_bytes(model(LAYERS["QLinearConv"]).SerializeToString())
    assert main([str(path), str(out), "--macs", "0.5"]) == 5
    assert "--macs cannot be met" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_multiplications_of_recurrent_layers(op: str, gates: int):
    text = f"""g (float[7,N,5] x) => (float[7,1,N,3] y)
        <float[1,{gates * 8},5] w, float[1,{gates * 8},8] r, float[8,3] v> {{
        h = {op}<hidden_size = 8>(x, w, r)  y = MatMul(h, v) }}"""
    analysed = support.analysed(support.model(text), sizes=1)
    assert analysed.cost.macs == 7 * (gates * 8 * (5 + 8) + 8 * 3)
    (group,) = analysed.channels.groups
    half = support.removed_channels(analysed.channels, {group.name: np.arange(4)})
    assert analysed.cost.macs_kept(half) == 7 * (gates * 4 * (5 + 4) + 4 * 3)


_JOINT = "g (float[N,5,8] x) => (float[N,5,3] y) <float[8,24] w, float[24] b, float[8,3] v>"
_APART = "g (float[N,5,8] x) => (float[N,5,3] y) <float[8,8] q, float[8,8] k, float[8,8] u, float[8,3] v>"


@pytest.mark.parametrize(
    "text",
    [
        f"{_JOINT} {{ t = com.microsoft.Attention<num_heads = 4>(x, w, b)  y = MatMul(t, v) }}",
        f"""{_APART} {{ a = MatMul(x, q)  c = MatMul(x, k)  d = MatMul(x, u)
            t = com.microsoft.MultiHeadAttention<num_heads = 4>(a, c, d)  y = MatMul(t, v) }}""",
        f"""{_APART} {{ a = MatMul(x, q)  c = MatMul(x, k)  d = MatMul(x, u)
            s = Einsum<equation = "nth,nsh->nts">(a, c)  p = Softmax(s)
            t = Einsum<equation = "nts,nsh->nth">(p, d)  y = MatMul(t, v) }}""",
    ],
    ids=["packed", "fused", "spelled out"],
)
def test_attention_costs_the_same_however_it_is_written(text):
    analysed = support.analysed(support.model(text, contrib=True), sizes=1)
    assert analysed.cost.macs == 5 * 8 * 24 + 2 * 5 * 5 * 8 + 5 * 8 * 3
    least = {group.name: np.array([0]) for group in analysed.channels.groups}
    removed = support.removed_channels(analysed.channels, least)
    assert analysed.cost.macs_kept(removed) < analysed.cost.macs / 3

"""How outputs are judged: by what comes of them, and what a person is told of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from support import model

import onnxmerge
from onnxmerge.errors import UsageError
from onnxmerge.runtime import Runtime
from onnxmerge.validation import compare, output_kinds

SHARED = Path(__file__).parents[2] / "shared" / "models"


def judged(text: str, overrides=None, opset: int = 17) -> dict[str, tuple]:
    """By output the kind, with what it needs to read the output."""
    found = output_kinds(model(text, opset=opset), overrides)
    details = {"classes": ["axis"], "probabilities": ["logits"], "masks": ["axis", "threshold"]}
    return {n: (j.kind, *(getattr(j.how, d) for d in details.get(j.kind, ()))) for n, j in found.items()}


def head(nodes: str, outputs: str, classes: int = 5, stored: str = "") -> str:
    """A last layer with these classes, and what follows it."""
    return f"""g (float[N,4] x) => ({outputs}) <float[4,{classes}] w, float[{classes}] b {stored}> {{
        m = MatMul(x, w)  z = Add(b, m)  {nodes} }}"""


@pytest.mark.parametrize("columns, kind", [(10, ("classes", -1)), (9, ("values",))])
def test_a_wide_last_layer_alone_is_classes(columns, kind):
    assert judged(head("y = Identity(z)", "float[N,C] y", columns)) == {"y": kind}
    gemm = f"g (float[N,4] x) => (float[N,C] y) <float[{columns},4] w> {{ y = Gemm<transB = 1>(x, w) }}"
    assert judged(gemm) == {"y": kind}
    two = head("y = Identity(z) v = Relu(z)", "float[N,C] y, float[N,C] v", columns)
    assert judged(two) == {"y": ("values",), "v": ("values",)}


ONE = ("classes", 1)


@pytest.mark.parametrize(
    "nodes",
    [
        "p = Softmax(z)",
        "p = LogSoftmax<axis = 1>(z)",
        "t = Div(z, temperature)  p = Softmax(t)",
        "t = Mul(half, z)  u = Add(t, half)  p = Softmax(u)",
        "t = Unsqueeze(z, two)  u = Squeeze(t, two)  p = Softmax(u)",
        "t = Reshape(z, shape)  u = Softmax<axis = 1>(t)  p = Flatten(u)",
        "t = Cast<to = 11>(z)  u = Softmax(t)  p = Cast<to = 1>(u)",
        "t = Transpose<perm = [1, 0]>(z)  u = Softmax<axis = 0>(t)  p = Transpose<perm = [1, 0]>(u)",
        "t = Identity(z)  u = Dropout(t)  p = Softmax(u)",
    ],
)
def test_logits_are_judged_as_their_softmax(nodes):
    constants = ", float temperature = {2}, float[1] half = {0.5}, int64[1] two = {2}"
    constants += ", int64[4] shape = {0, 5, 1, 1}"
    text = head(nodes, "float[N,5] z, float[N,5] p", stored=constants)
    assert judged(text) == {"z": ONE, "p": ONE}


def test_an_output_beside_the_path_counts_as_well():
    """The output is a copy of what the Softmax is made of."""
    text = head("y = Mul(z, two)  t = Identity(z)  p = Softmax(t)", "float[N,5] y, float[N,5] p",
                stored=", float two = {2}")  # fmt: skip
    assert judged(text) == {"y": ONE, "p": ONE}


@pytest.mark.parametrize(
    "nodes, other, kind",
    [
        ("t = Mul(z, minus)  p = Softmax(t)", "float[N,5] p", ("values",)),  # the lowest becomes the highest
        ("t = Mul(z, b)  p = Softmax(t)", "float[N,5] p", ("values",)),  # scaled one by one
        ("t = Relu(z)  p = Softmax(t)", "float[N,5] p", ("values",)),
        ("i = ArgMax<axis = 1>(z)", "int64[N,1] i", ONE),
        ("t = Softmax(z)  i = ArgMax<axis = -1, keepdims = 0>(t)", "int64[N] i", ONE),
        ("v, i = TopK(z, one)", "int64[N,1] i", ONE),
        ("p = Sigmoid(z)", "float[N,5] p", ("probabilities", True)),
        ("t = Sigmoid(z)  c = Greater(t, half)", "bool[N,5] c", ("probabilities", True)),
        ("t = Softmax(z)  p = Gather<axis = 1>(t, one)", "float[N,1] p", ONE),
    ],
)
def test_scores_are_judged_by_what_comes_of_them(nodes, other, kind):
    constants = ", float minus = {-1}, int64[1] one = {1}, float half = {0.5}"
    found = judged(head(nodes, f"float[N,5] z, {other}", stored=constants))
    assert found["z"] == kind
    assert found[other.split()[-1]][0] in ("integers", "classes", "probabilities", "values")


def test_what_is_only_computed_with_is_no_answer():
    """An activation beside its Sigmoid (SiLU), and attention whose Softmax weighs values."""
    silu = head("s = Sigmoid(z)  p = Mul(z, s)", "float[N,5] z, float[N,5] p")
    assert judged(silu) == {"z": ("values",), "p": ("values",)}
    attention = """g (float[N,T,8] q, float[N,8,T] k, float[N,T,8] v) => (float[N,T,T] s, float[N,T,8] y) {
        s = MatMul(q, k)  a = Softmax(s)  y = MatMul(a, v) }"""
    assert judged(attention)["s"] == ("values",)


MASKS = ("masks", 1, None)


@pytest.mark.parametrize(
    "nodes, outputs, expected",
    [
        ("y = Softmax<axis = 1>(x)", "float[N,20,8,8] y", {"y": MASKS}),
        ("i = ArgMax<axis = 1>(x)  y = Identity(x)", "float[N,20,8,8] y, int64[N,1,8,8] i",
         {"y": MASKS, "i": ("integers",)}),
        ("t = Transpose<perm = [0, 2, 3, 1]>(x)  y = Softmax(t)", "float[N,8,8,20] y",
         {"y": ("masks", 3, None)}),
        ("t = Transpose<perm = [0, 2, 3, 1]>(x)  u = Softmax(t)  y = Transpose<perm = [0, 3, 1, 2]>(u)",
         "float[N,20,8,8] y", {"y": MASKS}),
        ("y = Identity(x)  t = Reshape(x, flat)  p = Softmax<axis = 1>(t)",
         "float[N,20,8,8] y, float[N,20,64] p", {"y": MASKS, "p": ("classes", 1)}),
        ("y = Sigmoid(x)", "float[N,20,8,8] y", {"y": ("probabilities", False)}),
        ("y = Relu(x)", "float[N,20,8,8] y", {"y": ("values",)}),
    ],
)  # fmt: skip
def test_every_position_has_its_answer(nodes, outputs, expected):
    text = f"g (float[N,20,8,8] x) => ({outputs}) <int64[3] flat = {{0, 20, -1}}> {{ {nodes} }}"
    assert judged(text) == expected


def test_sequences_and_lone_classes():
    sequence = "g (float[N,T,20] x) => (float[N,T,20] y) { y = LogSoftmax(x) }"
    assert judged(sequence) == {"y": ("sequences",)}
    lone = "g (float[N,1] x) => (float[N,1] y) { y = Softmax(x) }"
    assert judged(lone) == {"y": ("values",)}, "a softmax over one class is 1 whatever happens"


def test_old_softmax_flattens_what_follows_its_axis():
    old = "g (float[N,20,S,S] x) => (float[N,20,S,S] y) {{ y = Softmax<axis = {}>(x) }}"
    assert judged(old.format(3), opset=11) == {"y": ("masks", 3, None)}
    assert judged(old.format(1), opset=11) == {"y": ("values",)}
    assert judged(old.replace("S,S", "1,1").format(1), opset=11) == {"y": ("classes", 1)}
    assert judged("g (float[N,20] x) => (float[N,20] y) { y = Softmax(x) }", opset=11) == {"y": ONE}


def test_scores_of_boxes():
    text = """g (float[1,9,4] boxes, float[1,3,9] x) => (float[1,3,9] scores, int64[M,3] kept)
        <int64[1] most = {5}> { scores = Identity(x)  kept = NonMaxSuppression(boxes, x, most) }"""
    assert judged(text) == {"scores": ("probabilities", False), "kept": ("integers",)}


def test_quantised_scores():
    text = """g (float[N,4] x) => (float[N,12] y) <int8[4,12] w, float scale = {0.1}, int8 zero = {0}> {
        v = DequantizeLinear(w, scale, zero)  m = MatMul(x, v)
        q = QuantizeLinear(m, scale, zero)  y = DequantizeLinear(q, scale, zero) }"""
    assert judged(text) == {"y": ("classes", -1)}


def test_what_is_asked_for_decides():
    text = head("p = Softmax(z)", "float[N,5] z, float[N,5] p")
    assert judged(text, {"z": "values"}) == {"z": ("values",), "p": ONE}
    assert judged(text, {"z": "probabilities"})["z"] == ("probabilities", False)
    segments = "g (float[N,20,8,8] x) => (float[N,20,8,8] y) { y = Relu(x) }"
    assert judged(segments, {"y": "classes"}) == {"y": ("classes", 1)}
    with pytest.raises(UsageError, match="outputs are z, p"):
        judged(text, {"y": "classes"})
    with pytest.raises(UsageError, match="masks, embeddings, not the text 'class'"):
        judged(text, {"z": "class"})


def test_the_words_say_how_and_why_and_what_to_pass():
    text = head("p = Softmax(z)  r = Relu(m)", "float[N,5] z, float[N,5] p, float[N,5] r")
    words = {name: j.words for name, j in output_kinds(model(text), {"p": "values"}).items()}
    assert words["z"] == (
        "judged by the class with the highest score (it leads to the Softmax 'p'); "
        "output_kinds={'z': 'values'} (--output-kind z=values) compares the numbers instead"
    )
    assert words["p"] == "judged by |y' - y| / |y|, the relative change of its numbers (as asked)"
    assert "output_kinds={'r': 'classes'} (--output-kind r=classes)" in words["r"]
    segments = "g (float[N,20,8,8] x) => (float[N,20,8,8] y) { y = Softmax<axis = 1>(x) }"
    assert "the class of every pixel, and by the IoU" in output_kinds(model(segments))["y"].words


def test_a_pair_of_logits_and_their_softmax_changes_as_often():
    text = head("p = Softmax(z)", "float[N,5] z, float[N,5] p")
    proto = model(text)
    session = Runtime.create("cpu", 1).session(proto)
    x = np.random.default_rng(0).standard_normal((64, 4)).astype(np.float32)
    noise = np.random.default_rng(1).standard_normal((64, 4)).astype(np.float32)
    parity = compare([session.run({"x": x})], [session.run({"x": x + 0.3 * noise})], output_kinds(proto))
    logits, probabilities = parity.outputs
    assert 0 < logits.change == probabilities.change == parity.change
    assert parity.top1_agreement == 1 - parity.change
    assert logits.relative_error > 2 * parity.change


def test_the_report_says_how_outputs_were_judged():
    text = """g (float[N,8] x) => (float[N,5] z, float[N,5] p) <float[8,32] v, float[32,5] w> {
        h = MatMul(x, v)  r = Relu(h)  z = MatMul(r, w)  p = Softmax(z) }"""
    x = np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32)
    report = onnxmerge.optimize(model(text), calibration=x, params=0.5).report
    entries = {entry["name"]: entry for entry in report["parity"]["outputs"]}
    assert "leads to the Softmax 'p'" in entries["z"]["judged"]
    assert "it is a Softmax" in entries["p"]["judged"]
    assert entries["z"]["change"] == report["parity"]["change"] == 1 - report["parity"]["top1_agreement"]


@pytest.mark.skipif(not SHARED.exists(), reason="the shared models are not here")
def test_a_trained_model_with_logits_beside_their_softmax():
    kinds = output_kinds(onnx.load(SHARED / "mobilenetv2.onnx"))
    assert {name: (j.kind, j.how.axis) for name, j in kinds.items()} == {"logits": ONE, "prob": ONE}

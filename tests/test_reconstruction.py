"""The walk: exact where channels are copies, faithful to the smaller model, and good on a trained one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx
import pytest
import support
from onnx import numpy_helper

from onnxmerge import rewrite
from onnxmerge.allocation import CostCurves
from onnxmerge.allocation.budget import Budget
from onnxmerge.channels.analysis import Analysis
from onnxmerge.channels.cost import CostModel
from onnxmerge.channels.sites import fold_sites
from onnxmerge.compensation import LeastSquares
from onnxmerge.criteria import Reconstruction
from onnxmerge.data import Dataset
from onnxmerge.graph import load
from onnxmerge.plan import Selection
from onnxmerge.statistics.dense import collect
from onnxmerge.statistics.regression import linear_form

RUNTIME = support.RUNTIME


def subject_of(proto: onnx.ModelProto, feed: dict[str, np.ndarray]) -> Analysis:
    return Analysis.of(load(proto), partial(RUNTIME.trace, feed={name: x[:1] for name, x in feed.items()}))


def run(proto: onnx.ModelProto, feed: dict[str, np.ndarray]) -> np.ndarray:
    return next(iter(RUNTIME.session(proto).run(feed).values()))


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


# --- nets with copied channels ------------------------------------------------------------------------


@dataclass(frozen=True)
class Net:
    """A net whose text has widths in braces, and which axes of its weights those widths are.

    ``made`` axes carry the outputs of a producer: a copied channel gets the same values.
    ``read`` axes are summed over: a copied channel's values are shared out.
    """

    text: str
    shape: tuple[int, ...]
    made: dict[str, tuple[int, str]]
    read: dict[str, tuple[int, str]]


NETS = {
    "plain": Net(
        """net (float[N,3,8,8] x) => (float[N,5,6,6] y)
        <float[{a},3,3,3] w1, float[{a}] b1, float[{b},{a},3,3] w2, float[{b}] b2, float[5,{b},3,3] w3> {{
          h1 = Conv<pads=[1,1,1,1]>(x, w1, b1)
          a1 = Relu(h1)
          h2 = Conv<pads=[1,1,1,1]>(a1, w2, b2)
          a2 = Relu(h2)
          y = Conv(a2, w3)
        }}""",
        (3, 8, 8),
        {"w1": (0, "a"), "b1": (0, "a"), "w2": (0, "b"), "b2": (0, "b")},
        {"w2": (1, "a"), "w3": (1, "b")},
    ),
    "residual": Net(
        """net (float[N,3,8,8] x) => (float[N,5] y)
        <float[{s},3,3,3] w0, float[{a},{s},3,3] w1, float[{a}] b1, float[{s},{a},3,3] w2, float[{a}] scale,
         float[{a}] shift, float[{a}] mean, float[{a}] var, float[5,{s}] w3> {{
          s0 = Conv<pads=[1,1,1,1]>(x, w0)
          r0 = Relu(s0)
          h1 = Conv<pads=[1,1,1,1]>(r0, w1, b1)
          n1 = BatchNormalization(h1, scale, shift, mean, var)
          a1 = Relu(n1)
          h2 = Conv<pads=[1,1,1,1]>(a1, w2)
          s1 = Add(h2, r0)
          r1 = Relu(s1)
          p = GlobalAveragePool(r1)
          f = Flatten(p)
          y = Gemm<transB=1>(f, w3)
        }}""",
        (3, 8, 8),
        {
            "w0": (0, "s"),
            "w1": (0, "a"),
            "b1": (0, "a"),
            "w2": (0, "s"),
            **dict.fromkeys(("scale", "shift", "mean", "var"), (0, "a")),
        },
        {"w1": (1, "s"), "w2": (1, "a"), "w3": (1, "s")},
    ),
    "depthwise": Net(
        """net (float[N,3,8,8] x) => (float[N,5,8,8] y)
        <float[{a},3,1,1] w1, float[{a}] b1, float[{a},1,3,3] d, float[5,{a},1,1] w2> {{
          h1 = Conv(x, w1, b1)
          a1 = Clip(h1)
          h2 = Conv<pads=[1,1,1,1], group={a}>(a1, d)
          a2 = Relu(h2)
          y = Conv(a2, w2)
        }}""",
        (3, 8, 8),
        {"w1": (0, "a"), "b1": (0, "a"), "d": (0, "a")},
        {"w2": (1, "a")},
    ),
    "concat": Net(
        """net (float[N,3,8,8] x) => (float[N,5,8,8] y)
        <float[{a},3,3,3] w1, float[{b},3,1,1] w2, float[5,{ab},3,3] w3> {{
          h1 = Conv<pads=[1,1,1,1]>(x, w1)
          h2 = Conv(x, w2)
          a1 = Relu(h1)
          a2 = Sigmoid(h2)
          c = Concat<axis=1>(a1, a2)
          y = Conv<pads=[1,1,1,1]>(c, w3)
        }}""",
        (3, 8, 8),
        {"w1": (0, "a"), "w2": (0, "b")},
        {"w3": (1, "ab")},
    ),
    "transposed": Net(
        """net (float[N,3,5,5] x) => (float[N,5,10,10] y)
        <float[{a},3,3,3] w1, float[{a},{b},4,4] w2, float[{b}] b2, float[5,{b},1,1] w3> {{
          h1 = Conv<pads=[1,1,1,1]>(x, w1)
          a1 = Relu(h1)
          h2 = ConvTranspose<pads=[1,1,1,1], strides=[2,2]>(a1, w2, b2)
          a2 = Relu(h2)
          y = Conv(a2, w3)
        }}""",
        (3, 5, 5),
        {"w1": (0, "a"), "w2": (1, "b"), "b2": (0, "b")},
        {"w2": (0, "a"), "w3": (1, "b")},
    ),
    "tokens": Net(
        """net (float[N,7,6] x) => (float[N,7,5] y)
        <float[6,{a}] w1, float[{a}] b1, float[{a},5] w2> {{
          h1 = MatMul(x, w1)
          h2 = Add(h1, b1)
          a1 = Relu(h2)
          y = MatMul(a1, w2)
        }}""",
        (7, 6),
        {"w1": (1, "a"), "b1": (0, "a")},
        {"w2": (0, "a")},
    ),
    "shared": Net(
        """net (float[N,7,6] x, float[N,7,6] z) => (float[N,7,5] y)
        <float[6,{a}] w1, float[{a}] b1, float[{a},5] w2> {{
          h1 = MatMul(x, w1)
          k1 = MatMul(z, w1)
          h2 = Add(h1, b1)
          k2 = Add(k1, b1)
          a1 = Relu(h2)
          c1 = Relu(k2)
          d = MatMul(a1, w2)
          e = MatMul(c1, w2)
          y = Sub(d, e)
        }}""",
        (7, 6),
        {"w1": (1, "a"), "b1": (0, "a")},
        {"w2": (0, "a")},
    ),
}
WIDTHS = {"a": 6, "b": 5, "s": 8}


def narrow_and_wide(net: Net, seed: int) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """A random net, and the same function with some of its channels copied once or twice."""
    rng = np.random.default_rng(seed)
    copies = {k: np.sort(np.r_[np.arange(n), rng.integers(0, n, n)]) for k, n in WIDTHS.items()}
    copies["ab"] = np.concatenate([copies["a"], copies["b"] + WIDTHS["a"]])
    small = {k: max(v) + 1 for k, v in copies.items()}
    wide = {k: len(v) for k, v in copies.items()}
    narrow = support.model(net.text.format(**small), seed=seed)
    widened = support.model(net.text.format(**wide), seed=seed)
    values = {t.name: numpy_helper.to_array(t) for t in narrow.graph.initializer}
    for tensor in widened.graph.initializer:
        value = values[tensor.name]
        if tensor.name in net.made:
            axis, group = net.made[tensor.name]
            value = np.take(value, copies[group], axis=axis)
        if tensor.name in net.read:
            axis, group = net.read[tensor.name]
            share = rng.uniform(0.2, 0.8, len(copies[group]))
            share /= np.bincount(copies[group], share)[copies[group]]
            shape = [1] * value.ndim
            shape[axis] = -1
            value = np.take(value, copies[group], axis=axis) * share.reshape(shape)
        tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float32), tensor.name))
    return narrow, widened


@pytest.mark.parametrize("name", NETS)
def test_copied_channels_are_removed_exactly(name):
    net = NETS[name]
    narrow, wide = narrow_and_wide(net, seed=3)
    rng = np.random.default_rng(0)
    feed = {i.name: rng.standard_normal((96, *net.shape)).astype(np.float32) for i in wide.graph.input}
    before, after = subject_of(narrow, feed), subject_of(wide, feed)
    data = Dataset("random", arrays=feed)
    statistics = collect(after.channels, after.sites, after.sensitivity, after.proto, data, RUNTIME)
    budget = Budget("macs", before.cost.macs / after.cost.macs + 1e-9, partial(after.cost.share, "macs"))
    selection = CostCurves()(after.channels, Reconstruction()(after.channels, statistics), budget)
    kept, folds = support.reconstructed(after, selection, data)
    fresh = {k: rng.standard_normal((16, *net.shape)).astype(np.float32) for k in feed}
    pruned = rewrite.pruned(after, kept, folds)
    assert after.removed(kept).any()
    assert CostModel(subject_of(pruned, feed).channels).macs == before.cost.macs
    assert relative(run(pruned, fresh), run(wide, fresh)) < 1e-4


@pytest.mark.parametrize(
    ("norm", "opset"),
    [
        ("{y} = LayerNormalization<epsilon = 0.01>({x}, {y}_scale)", 17),
        ("{y} = RMSNormalization<epsilon = 0.01>({x}, {y}_scale)", 23),
        (
            """{y}s = Mul({x}, {x})  {y}m = ReduceMean<axes = [-1]>({y}s)  {y}r = Sqrt({y}m)
            {y}d = Div({x}, {y}r)  {y} = Mul({y}d, {y}_scale)""",
            17,
        ),
        ("{y}m = ReduceMean<axes = [-1]>({x})  {y}d = Sub({x}, {y}m)  {y} = Mul({y}d, {y}_scale)", 17),
    ],
    ids=["LayerNorm", "RMSNorm", "written-out RMSNorm", "centring"],
)
def test_a_normalised_stream_of_pairs_loses_one_of_each(norm, opset):
    """Statistics over one of each pair are those over both: the answers stay, if the walk takes them so."""
    proto = support.model(
        f"""net (float[N,7,6] x) => (float[N,7,5] y)
        <float[6,16] w1, float[16,16] w2, float[16,5] w3, float[16] n_scale, float[16] o_scale> {{
          h = MatMul(x, w1)
          {norm.format(x="h", y="n")}
          k = MatMul(n, w2)
          s = Add(h, k)
          {norm.format(x="s", y="o")}
          y = MatMul(o, w3)
        }}""",
        opset=opset,
    )
    for tensor in proto.graph.initializer:
        if tensor.name in ("w1", "w2"):
            value = numpy_helper.to_array(tensor)[:, :8]
            tensor.CopyFrom(numpy_helper.from_array(np.tile(value, (1, 2)), tensor.name))
    rng = np.random.default_rng(0)
    feed = {"x": rng.standard_normal((64, 7, 6)).astype(np.float32)}
    subject = subject_of(proto, feed)
    (stream,) = subject.channels.groups
    one_of_each = Selection({stream.name: np.r_[np.arange(4), np.arange(12, 16)]})
    kept, folds = support.reconstructed(subject, one_of_each, Dataset("random", arrays=feed))
    pruned = rewrite.pruned(subject, kept, folds)
    fresh = {"x": rng.standard_normal((16, 7, 6)).astype(np.float32)}
    assert relative(run(pruned, fresh), run(rewrite.masked(subject, kept, folds), fresh)) < 1e-5
    assert relative(run(pruned, fresh), run(proto, fresh)) < 5e-3


@pytest.mark.parametrize("name", NETS)
def test_the_smaller_model_is_the_one_that_was_walked(name):
    net = NETS[name]
    proto = support.model(net.text.format(a=6, b=5, s=8, ab=11), seed=1)
    rng = np.random.default_rng(0)
    feed = {i.name: rng.standard_normal((64, *net.shape)).astype(np.float32) for i in proto.graph.input}
    subject = subject_of(proto, feed)
    half = {g.name: np.arange(len(g) // 2) for g in subject.channels.groups}
    data = Dataset("random", arrays=feed)
    kept, folds = support.reconstructed(subject, Selection(half), data)
    assert {k: len(v) for k, v in kept.keep.items()} == {k: len(v) for k, v in half.items()}
    pruned = run(rewrite.pruned(subject, kept, folds), feed)
    assert relative(pruned, run(rewrite.masked(subject, kept, folds), feed)) < 1e-5
    expected = run(proto, feed)
    plain = run(rewrite.pruned(subject, Selection(half), []), feed)
    assert relative(pruned, expected) < 0.9 * relative(plain, expected)


# --- the regression behind every operator -------------------------------------------------------------

FORMS = {
    "pointwise": ("float[N,4,9,8] x", "float[6,4,1,1] w, float[6] b", "Conv(x, w, b)"),
    "conv": (
        "float[N,4,9,8] x",
        "float[6,4,3,2] w, float[6] b",
        "Conv<strides=[2,1], dilations=[1,2]>(x, w, b)",
    ),
    "same_upper": (
        "float[N,4,9,8] x",
        "float[6,4,3,2] w",
        'Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w)',
    ),
    "same_lower": (
        "float[N,4,9,8] x",
        "float[6,4,4,4] w",
        'Conv<auto_pad="SAME_LOWER", strides=[2,3]>(x, w)',
    ),
    "pads": ("float[N,4,9,8] x", "float[6,4,3,3] w", "Conv<pads=[0,2,1,0]>(x, w)"),
    "conv_1d": ("float[N,4,9] x", "float[6,4,3] w", "Conv<pads=[2,0], strides=[2]>(x, w)"),
    "conv_3d": ("float[N,2,4,5,6] x", "float[3,2,2,2,3] w", "Conv<strides=[1,2,1]>(x, w)"),
    "transpose": (
        "float[N,4,5,4] x",
        "float[4,6,3,2] w, float[6] b",
        "ConvTranspose<strides=[2,3], pads=[1,0,0,1], output_padding=[1,2]>(x, w, b)",
    ),
    "transpose_dilated": (
        "float[N,4,5] x",
        "float[4,6,3] w",
        "ConvTranspose<dilations=[2], strides=[2]>(x, w)",
    ),
    "transpose_same": (
        "float[N,4,5] x",
        "float[4,6,3] w",
        'ConvTranspose<auto_pad="SAME_UPPER", strides=[2]>(x, w)',
    ),
    "gemm": ("float[N,4] x", "float[6,4] w, float[6] b", "Gemm<transB=1, alpha=0.5, beta=2.0>(x, w, b)"),
    "matmul": ("float[N,3,4] x", "float[4,6] w", "MatMul(x, w)"),
    "matmul_left": ("float[N,4,3] x", "float[6,4] w", "MatMul(w, x)"),
}


@pytest.mark.parametrize("name", FORMS)
def test_regression_of_every_operator(name):
    head, weights, call = FORMS[name]
    proto = support.model(f"net ({head}) => (float[N,*] y) <{weights}> {{ y = {call} }}".replace("[N,*]", ""))
    shape = [int(n) if n != "N" else 5 for n in head[head.index("[") + 1 : head.index("]")].split(",")]
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    subject = subject_of(proto, {"x": x})
    (site,) = fold_sites(subject.channels)
    form = linear_form(site)
    y = run(proto, {"x": x})
    chosen = np.arange(form.count(y))
    targets = form.targets(y, chosen)
    found = form.rows(x, y.shape, chosen) @ form.matrix().transpose(0, 2, 1)
    bias = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}.get("b", np.zeros(1))
    beta = 2.0 if name == "gemm" else 1.0
    np.testing.assert_allclose(found + beta * bias, targets, atol=1e-4)
    np.testing.assert_allclose(form.weight(form.matrix()), site.weight.constant, atol=1e-6)
    taken = np.tile([True, False], -(-site.data.size // 2))[: site.data.size]
    if form.blocks == 1:
        features = np.tile(taken[site.columns], form.taps)
        for few in (chosen[:1], chosen[1::3]):
            part, whole = form.rows(x, y.shape, few, taken), form.rows(x, y.shape, chosen)[:, few]
            np.testing.assert_array_equal(part, whole[..., features])


def test_grouped_convolution_is_one_regression_per_group():
    text = """net (float[N,3,6,6] x) => (float[N,4,6,6] y)
      <float[8,3,1,1] w1, float[8,4,3,3] w2, float[4,8,1,1] w3> {
      h = Conv(x, w1)
      a = Relu(h)
      g = Conv<group=2, pads=[1,1,1,1]>(a, w2)
      b = Relu(g)
      y = Conv(b, w3)
    }"""
    proto = support.model(text)
    feed = {"x": np.random.default_rng(0).standard_normal((64, 3, 6, 6)).astype(np.float32)}
    subject = subject_of(proto, feed)
    form = next(f for s in subject.sites if (f := linear_form(s)) is not None and f.blocks == 2)
    values = RUNTIME.values(proto, feed, ["a", "g"])
    chosen = np.arange(form.count(values["g"]))
    found = form.rows(values["a"], values["g"].shape, chosen) @ form.matrix().transpose(0, 2, 1)
    np.testing.assert_allclose(found, form.targets(values["g"], chosen), atol=1e-4)
    half = Selection({g.name: np.arange(len(g) // 2) for g in subject.channels.groups})
    data = Dataset("random", arrays=feed)
    kept, folds = support.reconstructed(subject, half, data)
    pruned, masked = (
        run(make(kept, folds), feed)
        for make in (partial(rewrite.pruned, subject), partial(rewrite.masked, subject))
    )
    assert relative(pruned, masked) < 1e-5
    plain = relative(run(rewrite.pruned(subject, half, []), feed), run(proto, feed))
    assert relative(pruned, run(proto, feed)) < 0.9 * plain


def test_a_fixed_batch_of_one_gives_the_same_answer():
    text = NETS["residual"].text.format(a=6, s=8)
    feed = {"x": np.random.default_rng(0).standard_normal((48, 3, 8, 8)).astype(np.float32)}
    results = []
    for batch in (None, 1):
        proto = support.model(text if batch is None else text.replace("N,", "1,"))
        subject = subject_of(proto, feed)
        half = Selection({g.name: np.arange(len(g) // 2) for g in subject.channels.groups})
        data = Dataset("random", arrays=feed, batch=batch)
        kept, folds = support.reconstructed(subject, half, data, compensation=LeastSquares(10**6))
        results.append(run(rewrite.pruned(subject, kept, folds), {"x": feed["x"][:1]}))
    assert relative(results[1], results[0]) < 1e-3

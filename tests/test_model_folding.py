"""Model folding: against the published formulas in numpy, and what cannot be folded is merged one to one."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import onnx
import pytest
import support
from onnx import numpy_helper

import onnxmerge
from onnxmerge.channels.cost import removed_channels
from onnxmerge.channels.sites import fold_sites
from onnxmerge.compensation import ModelFolding
from onnxmerge.compensation.model_folding import representatives
from onnxmerge.plan import Plan, Selection
from onnxmerge.rewrite import Fold

CONVOLUTIONS = """net (float[N,3,2,2] x) => (float[N,5,2,2] y)
<float[8,3,1,1] w, float[8] b, float[8] scale, float[8] shift, float[8] mean, float[8] var,
 float[5,8,1,1] v> {
  h = Conv(x, w, b)
  n = BatchNormalization<epsilon = 0.01>(h, scale, shift, mean, var)
  a = Relu(n)
  y = Conv(a, v)
}"""
PERCEPTRON = """net (float[N,3] x) => (float[N,5] y) <float[8,3] w, float[8] b, float[8,5] v> {
  h = Gemm<transB = 1>(x, w, b)  a = Relu(h)  y = MatMul(a, v) }"""
RESIDUAL = """net (float[N,3,6,6] x) => (float[N,2] y)
<float[6,3,3,3] w, float[6] scale, float[6] shift, float[6] mean, float[6] var, float[8,6,1,1] expand,
 float[8] b, float[8,1,3,3] depthwise, float[6,8,1,1] project, float[6] slope_scale, float[2,96] last> {
  h = Conv(x, w)  n = BatchNormalization(h, scale, shift, mean, var)  r = Relu(n)
  e = Conv(r, expand, b)  c = Relu(e)  d = Conv<group = 8, pads = [1, 1, 1, 1]>(c, depthwise)
  p = Conv(d, project)  s = Add(r, p)  f = Flatten(s)  y = Gemm<transB = 1>(f, last) }"""


def weights(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t).astype(np.float64) for t in proto.graph.initializer}


def put(proto: onnx.ModelProto, arrays: dict[str, np.ndarray]) -> onnx.ModelProto:
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name].astype(np.float32), tensor.name))
    return proto


def folded(proto: onnx.ModelProto, width: int | float):
    """(analysed, what stays, changes) with every group folded to a width, or to a share of its own."""
    model, method = support.analysed(proto), ModelFolding()
    widths = {g.name: width if width >= 1 else int(width * len(g)) for g in model.channels.groups}
    selection = method.choose(model.channels, Selection({n: np.arange(w) for n, w in widths.items()}))
    assert {name: len(index) for name, index in selection.keep.items()} == widths
    return model, selection, changes(model, selection, method)


def changes(model, selection: Selection, method: ModelFolding) -> list:
    kept = ~removed_channels(model.channels, selection.keep)
    folds = [Fold.of(site, *method(site, kept), None) for site in fold_sites(model.channels)]
    return [*folds, *method.blends(model.channels, kept)]


def answers(proto: onnx.ModelProto, feed) -> np.ndarray:
    return support.RUNTIME.session(proto).run(feed)["y"]


def clusters_of(model, selection: Selection) -> list[np.ndarray]:
    """The members of every cluster, in the order of the channels that stay."""
    (group,) = model.channels.groups
    features = ModelFolding()._features_of(model.channels, group)
    found = representatives(features, len(selection.keep[group.name]))
    return [np.flatnonzero(found == one) for one in selection.keep[group.name]]


def mean_cosine(rows: np.ndarray) -> float:
    pairs = list(permutations(range(len(rows)), 2))
    size = np.linalg.norm(rows, axis=1)
    return float(np.mean([rows[i] @ rows[j] / (size[i] * size[j]) for i, j in pairs])) if pairs else 0.0


def test_convolutions_with_batch_norm_are_folded_as_published():
    proto = support.model(CONVOLUTIONS, seed=3)
    model, selection, made = folded(proto, 4)
    a, clusters = weights(proto), clusters_of(model, selection)
    assert sorted(map(len, clusters)) != [2, 2, 2, 2] and max(map(len, clusters)) > 2
    deviation = np.sqrt(a["var"] + 0.01)
    rows = a["w"].reshape(8, 3) / deviation[:, None]
    bias = (a["b"] - a["mean"]) / deviation
    x = model.feed["x"].transpose(0, 2, 3, 1)
    y = 0.0
    for members in clusters:
        n = len(members)
        growth = np.sqrt(n / (1 + (n - 1) * mean_cosine(rows[members])))
        unit = x @ rows[members].mean(axis=0) + bias[members].mean()
        n_out = growth * a["scale"][members].mean() * unit + a["shift"][members].mean()
        y = y + np.maximum(n_out, 0)[..., None] * a["v"].reshape(5, 8)[:, members].sum(axis=1)
    result = model.prune(selection, made)
    onnx.checker.check_model(result, full_check=True)
    np.testing.assert_allclose(answers(result, model.feed).transpose(0, 2, 3, 1), y, rtol=1e-4, atol=1e-5)


def test_perceptrons_are_folded_as_published():
    proto = support.model(PERCEPTRON, seed=1)
    model, selection, made = folded(proto, 5)
    a = weights(proto)
    y = sum(
        np.maximum(model.feed["x"] @ a["w"][m].mean(axis=0) + a["b"][m].mean(), 0)[:, None]
        * a["v"][m].sum(axis=0)
        for m in clusters_of(model, selection)
    )
    result = answers(model.prune(selection, made), model.feed)
    np.testing.assert_allclose(result, y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("text", [CONVOLUTIONS, PERCEPTRON], ids=["BatchNorm", "perceptron"])
def test_duplicated_channels_fold_exactly_whoever_reads_them(text):
    proto = support.model(text)
    arrays = weights(proto)
    for name, array in arrays.items():
        if name != "v":
            array[4:] = array[:4]
    if "var" in arrays:  # the same function in another unit
        for name in ("w", "b", "mean"):
            arrays[name][5] *= 3
        arrays["var"][5] = 9 * (arrays["var"][5] + 0.01) - 0.01
    feed = {"x": support.random_values(np.random.default_rng(0), [6, 3, *[2, 2] * ("var" in arrays)], "f")}
    result = onnxmerge.optimize(
        put(proto, arrays), ratio=0.5, compensation="folding", calibration=feed, threads=1
    )
    assert [group["after"] for group in result.report["groups"]] == [4]
    np.testing.assert_allclose(answers(result.model, feed), answers(proto, feed), rtol=1e-4, atol=1e-5)


def test_residual_and_depthwise_channels_fold_and_equal_their_mask():
    model, selection, made = folded(support.model(RESIDUAL), 0.5)
    result = model.prune(selection, made)
    onnx.checker.check_model(result, full_check=True)
    reference = answers(model.mask(selection, made), model.feed)
    np.testing.assert_allclose(answers(result, model.feed), reference, rtol=1e-4, atol=1e-4)
    assert not np.allclose(answers(model.prune(selection), model.feed), reference, rtol=1e-2)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("""g (float[N,4] x) => (float[N,4] y) <float[6,4] w, float[6] b> {
         h = Gemm<transB = 1>(x, w, b)  r = Relu(h)  y = MatMul(r, w) }""",
         "'w' is read in more than one place"),
        ("""g (float[N,5,4] x) => (float[N,5,5] y) <float[4,6] q, float[4,6] k> {
         a = MatMul(x, q)  b = MatMul(x, k)  t = Transpose<perm = [0, 2, 1]>(b)  y = MatMul(a, t) }""",
         "sums over its channels without a stored weight"),
    ],
    ids=["tied", "attention"],
)  # fmt: skip
def test_what_cannot_be_folded_is_merged_with_a_note(text, reason):
    feed = {"x": np.ones((3, 5, 4) if "N,5,4" in text else (3, 4), dtype=np.float32)}
    options = {"ratio": 0.5, "criterion": "l1", "calibration": feed, "threads": 1}
    result = onnxmerge.optimize(support.model(text), compensation="folding", **options)
    notes = [w for w in result.report["warnings"] if "merged one to one, not folded" in w]
    assert len(notes) == 1 and reason in notes[0]
    merged = onnxmerge.optimize(support.model(text), compensation="merge", **options)
    np.testing.assert_array_equal(answers(result.model, feed), answers(merged.model, feed))


@pytest.mark.parametrize("name", ["w", "b", "v"])
def test_weights_that_are_no_numbers_are_not_compared(name):
    proto = support.model(PERCEPTRON)
    arrays = weights(proto)
    arrays[name].reshape(-1)[1] = np.inf
    model, method = support.analysed(put(proto, arrays)), ModelFolding()
    (group,) = model.channels.groups
    selection = method.choose(model.channels, Selection({group.name: np.arange(4)}))
    (note,) = method.notes(model.channels, ~removed_channels(model.channels, selection.keep))
    assert note.endswith("not folded: some of their weights are not finite")


def test_clusters_are_found_once_and_only_of_what_gets_narrower(monkeypatch):
    asked = []

    def counted(features, count):
        asked.append((len(features), count))
        return representatives(features, count)

    monkeypatch.setattr("onnxmerge.compensation.model_folding.representatives", counted)
    model, method = support.analysed(support.model(RESIDUAL)), ModelFolding()
    widths = {
        group.name: len(group) // 2 if len(group) == 8 else len(group) for group in model.channels.groups
    }
    selection = method.choose(model.channels, Selection({n: np.arange(w) for n, w in widths.items()}))
    changes(model, selection, method)
    assert asked == [(8, 4)]


def test_plans_are_replayed_and_edited(tmp_path):
    options = {
        "compensation": "folding",
        "calibration": {"x": np.ones((3, 3, 2, 2), np.float32)},
        "threads": 1,
    }
    proto = support.model(CONVOLUTIONS, seed=2)
    first = onnxmerge.optimize(proto, ratio=0.5, **options)
    first.plan.save(tmp_path / "plan.toml")
    plan = Plan.load(tmp_path / "plan.toml")
    again = onnxmerge.optimize(proto, plan=plan, calibration=options["calibration"], threads=1)
    assert again.model.SerializeToString() == first.model.SerializeToString()
    (name,) = plan.keep
    others = sorted(set(range(8)) - set(plan.keep[name]))
    model, method = support.analysed(proto), ModelFolding()
    edited = Selection({name: np.array(others)})
    made = changes(model, edited, method)
    np.testing.assert_allclose(
        answers(model.prune(edited, made), model.feed),
        answers(model.mask(edited, made), model.feed),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize(
    "options, expected",
    [
        ({}, "folding"),
        ({"criterion": "l1"}, "merge"),
        ({"threshold": 0.3}, "merge"),
        ({"trade_off": 0.5}, "merge"),
    ],
    ids=str,
)
def test_it_is_the_default_without_data_and_batch_norm(options, expected):
    model = support.model("""g (float[N,8] x) => (float[N,4] y) <float[8,12] w, float[12,4] v> {
        h = MatMul(x, w)  r = Relu(h)  y = MatMul(r, v) }""")
    result = onnxmerge.optimize(model, ratio=0.5, samples=8, tolerance=10.0, device="cpu", **options)
    assert result.report.method.compensation == expected

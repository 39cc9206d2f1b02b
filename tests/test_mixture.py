"""Data under several conventions: parts, feeds, and statistics in which every convention counts alike."""

import numpy as np
import pytest
import support

import onnxmerge
from onnxmerge.channels.sensitivity import output_sensitivity
from onnxmerge.channels.sites import fold_sites
from onnxmerge.data import Dataset
from onnxmerge.data.dataset import mixture
from onnxmerge.statistics import dense as statistics
from onnxmerge.statistics.moments import Accumulator, equalising_weight, merged, products

RNG = np.random.default_rng(0)


def part(name: str, values: np.ndarray) -> Dataset:
    return Dataset("numbers", arrays={"x": values}, conventions=(name,))


def test_feeds_are_of_one_convention_each_and_by_turns():
    data = mixture([part("a", np.zeros(70)), part("b", np.ones(40))])
    assert data.mixed and len(data) == 110
    feeds = [feed["x"] for feed in data.feeds()]
    assert all(len(np.unique(feed)) == 1 for feed in feeds)
    assert [feed[0] for feed in feeds[:4]] == [0, 1, 0, 1]
    assert sum(map(len, feeds)) == 110
    assert [p.conventions for p in data.parts()] == [("a",), ("b",)]
    assert [len(p) for p in data.parts()] == [70, 40]


def test_a_mixture_of_one_is_none():
    single = part("a", np.arange(5))
    assert mixture([single]) is single and not single.mixed and single.parts() == [single]


def test_every_convention_is_split_alike():
    data = mixture([part("a", np.arange(80)), part("b", 1000 + np.arange(40))])
    fit, held_out = data.split(0.25, least=4)
    assert [len(p) for p in held_out.parts()] == [20, 10] and [len(p) for p in fit.parts()] == [60, 30]
    seen = np.concatenate([p.arrays["x"] for d in (fit, held_out) for p in d.parts()])
    assert sorted(seen) == [*range(80), *range(1000, 1040)]


def test_ready_feeds_mix_too():
    one, other = (
        Dataset("d", ready=tuple({"x": np.full(2, v)} for v in values), conventions=(name,))
        for name, values in (("a", (1, 2)), ("b", (3, 4, 5)))
    )
    data = mixture([one, other])
    assert [feed["x"][0] for feed in data.feeds()] == [1, 3, 2, 4, 5]
    assert [len(p) for p in data.parts()] == [2, 3]


def test_weighted_moments_are_those_of_weighted_rows():
    total = Accumulator()
    rows, weights = [], []
    shift = (np.ones(3, np.float32), np.zeros(2, np.float32))
    for size in (1.0, 100.0, 0.01):
        x = (size * RNG.standard_normal((50, 3)) + 2).astype(np.float32)
        t = (x @ np.ones((3, 2)) + size * RNG.standard_normal((50, 2))).astype(np.float32)
        weight = equalising_weight(t)
        total.add(products(x.copy(), t.copy(), shift, weight))
        rows.append(np.hstack([x, t]).astype(np.float64))
        weights += [weight] * 50
    found, stacked = total.moments(), np.concatenate(rows)
    expected = np.cov(stacked.T, bias=True, aweights=weights)
    np.testing.assert_allclose(found.gram, expected[:3, :3], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(found.cross, expected[3:, :3], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(found.target_variance, np.diag(expected)[3:], rtol=2e-2)
    np.testing.assert_allclose(
        found.feature_mean, np.average(stacked[:, :3], axis=0, weights=weights), rtol=1e-3
    )
    assert found.rows == 150 and found.mass == pytest.approx(sum(weights))


def test_rows_without_variance_weigh_nothing():
    total = Accumulator()
    shift = (np.zeros(2, np.float32), np.zeros(1, np.float32))
    flat = np.ones((10, 1), np.float32)
    assert equalising_weight(flat) == 0
    total.add(products(np.ones((10, 2), np.float32), flat, shift, equalising_weight(flat)))
    nothing = total.moments()
    assert np.isfinite(nothing.gram).all() and nothing.rows == 10
    assert np.isfinite(merged([nothing, nothing]).gram).all()


NET = """g (float[N,6] x) => (float[N,4] y) <float[6,16] w, float[16] b, float[16,4] v> {
  h = MatMul(x, w)  a = Add(h, b)  r = Relu(a)  y = MatMul(r, v) }"""


def test_no_convention_drowns_another_in_the_statistics():
    small = RNG.standard_normal((64, 6)).astype(np.float32)
    other = RNG.standard_normal((64, 6)).astype(np.float32)
    # Without an activation means stay near zero, and covariances are all that differs.
    linear = """g (float[N,6] x) => (float[N,4] y) <float[6,16] w, float[16,4] v> {
      h = MatMul(x, w)  y = MatMul(h, v) }"""
    analysed = support.analysed(support.model(linear), {"x": small[:1]})
    sites = fold_sites(analysed.channels)
    sensitivity = output_sensitivity(analysed.channels, sites)

    def gram(data: Dataset) -> np.ndarray:
        found = statistics.collect(
            analysed.channels, sites, sensitivity, analysed.proto, data, support.RUNTIME
        )
        (features,) = found.features.values()
        return features.grams[0].square / np.trace(features.grams[0].square)

    def distances(found: np.ndarray) -> tuple[float, float]:
        return tuple(float(np.linalg.norm(found - one)) for one in alone)

    alone = [gram(part("a", small)), gram(part("b", 200 * other))]
    apart = np.linalg.norm(alone[0] - alone[1])
    drowned = distances(gram(Dataset("both", arrays={"x": np.concatenate([small, 200 * other])})))
    together = distances(gram(mixture([part("a", small), part("b", 200 * other)])))
    assert drowned[1] < 0.15 * apart < drowned[0], "only the larger one counts"
    assert max(together) < 0.8 * apart and min(together) > 0.4 * apart, "both count"


def test_a_mixture_is_fitted_for_both_and_judged_by_the_worse():
    """Two conventions of very different size; a fit to the larger one alone would ruin the other."""
    model = support.model(NET)
    bias = next(t for t in model.graph.initializer if t.name == "b")
    bias.CopyFrom(support.numpy_helper.from_array(2 * RNG.standard_normal(16).astype(np.float32), "b"))
    small = RNG.standard_normal((256, 6)).astype(np.float32)
    session = support.RUNTIME.session(model)

    def error(result, values: np.ndarray) -> float:
        before = session.run({"x": values})["y"]
        after = support.RUNTIME.session(result.model).run({"x": values})["y"]
        return float(np.linalg.norm(after - before) / np.linalg.norm(before - before.mean(0)))

    def fitted(data) -> onnxmerge.Result:
        from dataclasses import replace

        from onnxmerge.config import Config
        from onnxmerge.data.holdout import Samples
        from onnxmerge.decisions import made
        from onnxmerge.pipeline import analysed, chosen
        from onnxmerge.progress import Clock

        study = analysed(model, small, None, Config(macs=0.6, align=1, threads=1), Clock())
        study = replace(study, samples=Samples(data, "given", data, True))
        return made(study, chosen(study)).candidate

    mixed = fitted(mixture([part("small", small), part("large", 300 * small)]))
    pooled = fitted(Dataset("both", arrays={"x": np.concatenate([small, 300 * small])}))
    assert error(mixed, small) < 0.7 * error(pooled, small)

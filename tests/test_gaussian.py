"""Data-free least squares: the covariance behind an activation, and what it is good for."""

from __future__ import annotations

import numpy as np
import pytest
import support
from onnx import numpy_helper

from onnxmerge.channels.sites import fold_sites
from onnxmerge.compensation import Gaussian, Nothing
from onnxmerge.compensation.gaussian import moments
from onnxmerge.plan import Selection
from onnxmerge.rewrite import Fold

TEXT = """net (float[N,3,6,6] x) => (float[N,4,6,6] y)
<float[8,3,1,1] w1, float[8] scale, float[8] shift, float[8] mean, float[8] var, float[4,8,3,3] w2> {
  h = Conv(x, w1)
  n = BatchNormalization(h, scale, shift, mean, var)
  a = ACTIVATION(n)
  y = Conv<pads=[1,1,1,1]>(a, w2)
}"""


def net(activation: str):
    """A net whose BatchNorm normalises exactly for standard normal inputs."""
    proto = support.model(TEXT.replace("ACTIVATION", activation))
    values = {t.name: t for t in proto.graph.initializer}
    w = numpy_helper.to_array(values["w1"]).copy()
    w[3] = 1.2 * w[2] + 0.05 * w[3]
    w[7] = -0.9 * w[6] + 0.05 * w[7]
    values["w1"].CopyFrom(numpy_helper.from_array(w, "w1"))
    variance = (w.reshape(8, -1) ** 2).sum(axis=1)
    values["mean"].CopyFrom(numpy_helper.from_array(np.zeros(8, np.float32), "mean"))
    values["var"].CopyFrom(numpy_helper.from_array(variance.astype(np.float32), "var"))
    gamma = np.array([1, -1, 0.7, 0.7, 1.3, 0.2, 1, -1], np.float32)
    values["scale"].CopyFrom(numpy_helper.from_array(gamma, "scale"))
    return proto


@pytest.mark.parametrize("activation", ["Relu", "Sigmoid", "LeakyRelu<alpha=0.2>", "HardSwish", "Tanh"])
def test_moments_are_those_of_gaussian_inputs(activation):
    proto = net(activation)
    feed = {"x": np.random.default_rng(0).standard_normal((4000, 3, 6, 6)).astype(np.float32)}
    analysed = support.analysed(proto, {"x": feed["x"][:1]})
    site = fold_sites(analysed.channels)[-1]
    mean, covariance = moments(site)
    real = support.RUNTIME.values(proto, feed, ["a"])["a"].transpose(0, 2, 3, 1).reshape(-1, 8)
    np.testing.assert_allclose(mean, real.mean(axis=0), atol=0.02)
    np.testing.assert_allclose(covariance, np.cov(real.T), atol=0.03)


@pytest.mark.parametrize("activation", ["Relu", "Sigmoid"])
def test_removed_channels_are_predicted_from_kept_ones(activation):
    proto = net(activation)
    feed = {"x": np.random.default_rng(1).standard_normal((50, 3, 6, 6)).astype(np.float32)}
    analysed = support.analysed(proto, {"x": feed["x"][:1]})
    kept = np.ones(analysed.channels.count, dtype=bool)
    (group,) = analysed.channels.groups
    kept[group.channels[[3, 7]]] = False
    selection = Selection({group.name: np.flatnonzero(kept[group.channels])})
    expected = next(iter(support.RUNTIME.session(proto).run(feed).values()))
    errors = {}
    for method in (Nothing(), Gaussian()):
        folds = [Fold(s, *method(s, kept, None)) for s in fold_sites(analysed.channels)]
        pruned = analysed.prune(selection, folds)
        found = next(iter(support.RUNTIME.session(pruned).run(feed).values()))
        errors[type(method).__name__] = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert errors["Gaussian"] < 0.25 * errors["Nothing"]


def test_without_batch_norm_nothing_is_changed():
    proto = support.model("""net (float[N,3] x) => (float[N,4] y) <float[3,8] w1, float[8,4] w2> {
      h = MatMul(x, w1)
      a = Relu(h)
      y = MatMul(a, w2)
    }""")
    analysed = support.analysed(proto, {"x": np.zeros((1, 3), np.float32)})
    kept = np.ones(analysed.channels.count, dtype=bool)
    kept[analysed.channels.groups[0].channels[0]] = False
    assert all(Gaussian()(s, kept, None) == (None, None) for s in fold_sites(analysed.channels))

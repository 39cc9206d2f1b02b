"""Backward elimination and the least squares behind it, against plain computations."""

from __future__ import annotations

import numpy as np
import pytest
import support
from onnx import numpy_helper

from onnxmerge.channels.sensitivity import output_sensitivity, row_weights
from onnxmerge.channels.sites import fold_sites
from onnxmerge.compensation.solvers import minimum_norm, ridge, ridge_rows
from onnxmerge.criteria.elimination import TINY, Consumer, Regression, eliminate


def explained(gram: np.ndarray, coefficients: np.ndarray, left: np.ndarray) -> float:
    """The variance of B P that the features ``left`` explain."""
    cross = coefficients @ gram[:, left]
    return float(np.sum(np.linalg.solve(gram[np.ix_(left, left)], cross.T).T * cross))


@pytest.mark.parametrize("owner", [np.arange(6), np.repeat(np.arange(3), 2), np.array([0, 0, 1, 2, 2, -1])])
def test_costs_are_those_of_refitting(owner, monkeypatch):
    monkeypatch.setattr("onnxmerge.criteria.elimination.SHRINKAGE", TINY)
    rng = np.random.default_rng(0)
    root = rng.standard_normal((6, 6))
    gram, coefficients = root @ root.T, rng.standard_normal((4, 6))
    count = owner.max() + 1
    order, costs = eliminate([Regression(Consumer(gram, coefficients, 10**9), owner)], count)
    assert len(order) == count - 1
    everything = explained(gram, coefficients, np.arange(6))
    for number in range(len(order)):
        gone = order[: number + 1]
        left = np.flatnonzero(~np.isin(owner, gone))
        assert costs[number] == pytest.approx(everything - explained(gram, coefficients, left), rel=1e-3)
        others = [c for c in range(count) if c not in gone]
        for other in others:
            swapped = np.flatnonzero(~np.isin(owner, [*order[:number], other]))
            loss = everything - explained(gram, coefficients, swapped)
            assert costs[number] <= loss * (1 + 1e-3)


def plain_elimination(gram: np.ndarray, coefficients: np.ndarray, owner: np.ndarray, ridge: float):
    """The order and costs of removals with everything updated after each."""
    h, b = np.linalg.inv(gram + ridge * np.trace(gram) / len(gram) * np.eye(len(gram))), coefficients
    order, costs = [], []
    count = owner.max() + 1
    while len(order) < count - 1:
        price = {}
        for channel in sorted(set(range(count)) - set(order)):
            j = np.flatnonzero(owner == channel)
            price[channel] = np.trace(np.linalg.solve(h[np.ix_(j, j)], b[:, j].T @ b[:, j]))
        order.append(min(price, key=price.__getitem__))
        costs.append(price[order[-1]])
        j = np.flatnonzero(owner == order[-1])
        gain = np.linalg.solve(h[np.ix_(j, j)], h[j])
        b, h = b - b[:, j] @ gain, h - h[:, j] @ gain
        left = np.flatnonzero(owner != order[-1])
        h, b, owner = h[np.ix_(left, left)], b[:, left], owner[left]
    return order, np.cumsum(costs)


@pytest.mark.parametrize("each", [1, 3])
@pytest.mark.parametrize("outputs", [20, 400])
def test_many_removals_are_those_of_plain_updates(each, outputs):
    """So many that what is postponed is done several times; some channels have fewer features, some none."""
    rng = np.random.default_rng(4)
    owner = rng.permutation(np.concatenate([np.repeat(np.arange(100), each), [0, 5, 7], np.full(9, -1)]))
    gram = np.cov(rng.standard_normal((2 * len(owner), len(owner))).T)
    coefficients = rng.standard_normal((outputs, len(owner))) * rng.gamma(1.0, size=len(owner))
    regression = Regression(Consumer(gram, coefficients, 2 * len(owner)), owner)
    order, costs = eliminate([regression], 100)
    expected, expected_costs = plain_elimination(gram, coefficients, owner, regression.consumer.ridge)
    np.testing.assert_array_equal(order, expected)
    np.testing.assert_allclose(costs, expected_costs, rtol=1e-9)


def test_copies_go_first_and_cost_nothing():
    rng = np.random.default_rng(1)
    features = rng.standard_normal((500, 10))
    features[:, 7] = 0.5 * features[:, 2]
    features[:, 4] = features[:, 0] - 2 * features[:, 9]
    regression = Regression(Consumer(np.cov(features.T), rng.standard_normal((3, 10)), 500), np.arange(10))
    order, costs = eliminate([regression], 10)
    assert set(order[:2].tolist()) & {2, 7}
    assert set(order[:2].tolist()) & {0, 4, 9}
    assert costs[1] < 1e-4 * costs[2]


def test_several_consumers_share_the_choice():
    gram, owner = np.eye(4), np.arange(4)
    one = Regression(Consumer(gram, np.diag([1.0, 5.0, 5.0, 5.0]), 1000), owner)
    two = Regression(Consumer(gram, np.diag([9.0, 1.0, 5.0, 5.0]), 1000), owner)
    assert eliminate([one], 4)[0][0] == 0
    assert eliminate([one, two], 4)[0][0] == 1


def test_ridge_pulls_towards_the_start():
    rng = np.random.default_rng(2)
    features, start = rng.standard_normal((300, 8)), rng.standard_normal((3, 8))
    targets = features @ rng.standard_normal((8, 3)) + 0.1 * rng.standard_normal((300, 3))
    features, targets = features - features.mean(axis=0), targets - targets.mean(axis=0)
    gram, cross = features.T @ features / 300, targets.T @ features / 300
    np.testing.assert_allclose(ridge(gram, cross, start, 1e9), start, atol=1e-6)
    np.testing.assert_allclose(
        ridge(gram, cross, start, 1e-12), np.linalg.lstsq(features, targets, rcond=None)[0].T, atol=1e-6
    )
    np.testing.assert_allclose(
        ridge_rows(features, targets, start, [0.1]), ridge(gram, cross, start, 0.1), atol=1e-5
    )


def test_dependent_channels_are_predicted_exactly():
    rng = np.random.default_rng(3)
    kept = rng.standard_normal((200, 5))
    kept[:, 4] = 0.0
    factors = np.array([[1.0, -2.0, 0.0, 0.5, 0.0], [0.0, 0.0, 3.0, 0.0, 0.0]])
    covariance = np.cov(np.concatenate([kept, kept @ factors.T], axis=1).T)
    found = minimum_norm(covariance[:5, :5], covariance[5:, :5])
    np.testing.assert_allclose(found, factors, atol=1e-6)


def test_few_rows_are_fitted_only_as_far_as_it_helps_on_others():
    """A signal in the first features is learned; targets that are noise leave the weights as they were."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((64, 200)).astype(np.float32) * np.r_[np.full(5, 10.0), np.full(195, 0.1)]
    features = features.astype(np.float32)
    truth = rng.standard_normal((3, 200))
    strengths = (1e-4, 1e-2, 1.0)
    start = np.zeros((3, 200))
    fitted = ridge_rows(features, (features @ truth.T).astype(np.float32), start, strengths)
    np.testing.assert_allclose(fitted[:, :5], truth[:, :5], atol=0.05)
    noise = rng.standard_normal((64, 3)).astype(np.float32)
    fresh = rng.standard_normal((500, 200)) * np.r_[np.full(5, 10.0), np.full(195, 0.1)]
    chosen, fixed = (ridge_rows(features, noise, start, s) for s in (strengths, strengths[:1]))
    assert np.linalg.norm(fresh @ chosen.T) < 0.6 * np.linalg.norm(fresh @ fixed.T)


def test_output_sensitivity():
    text = """net (float[N,3,8,8] x) => (float[N,5,8,8] y)
        <float[4,3,1,1] w, float[4,1,3,3] d, float[5,4,1,1] v> {
        h = Conv(x, w)  a = Relu(h)  k = Conv<group = 4, pads = [1,1,1,1]>(a, d)
        b = Relu(k)  y = Conv(b, v) }"""
    proto = support.model(text)
    values = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in proto.graph.initializer}
    analysed = support.analysed(proto, {"x": np.zeros((1, 3, 8, 8), np.float32)})
    sites = fold_sites(analysed.channels)
    sensitivity = output_sensitivity(analysed.channels, sites)
    expected = (values["v"] ** 2).sum(axis=(0, 2, 3)) * (values["d"] ** 2).sum(axis=(1, 2, 3))
    first, last = sites[0], sites[-1]
    np.testing.assert_allclose(sensitivity[last.channel], expected, rtol=1e-5)
    np.testing.assert_allclose(
        row_weights(first, sensitivity), np.sqrt(expected / expected.mean()), rtol=1e-5
    )
    # The outputs of the model are read by nobody here: all count alike.
    np.testing.assert_array_equal(row_weights(last, sensitivity), np.ones(5))


def test_a_consumer_of_several_groups_is_the_same_for_each_of_them():
    rng = np.random.default_rng(4)
    features = rng.standard_normal((200, 12)) @ rng.standard_normal((12, 12))
    gram, coefficients = np.cov(features.T), rng.standard_normal((3, 12))
    group = np.array([2, 0, 0, -1, 2, 2, 0, 1, 1, 2, 0, 1])
    shared = Consumer(gram, coefficients, 200, group)
    for number in range(3):
        owner = np.full(12, -1)
        owner[group == number] = np.arange(np.count_nonzero(group == number))
        alone = Regression(Consumer(gram, coefficients, 200), owner)
        count = int(owner.max()) + 1
        expected, costs = eliminate([alone], count, 0)
        order, shared_costs = eliminate([Regression(shared, owner)], count, 0)
        assert np.array_equal(order, expected) and np.array_equal(shared_costs, costs)

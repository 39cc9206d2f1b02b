"""Neuron merging as published: kept channels, folded weights and accuracies of the original code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxmerge
from onnxmerge.runtime import Runtime

SHARED = Path(__file__).parents[2] / "shared"
ORACLE = SHARED / "oracle"
needs_shared = pytest.mark.skipif(not ORACLE.is_dir(), reason="the published reference results are not here")


def optimized(model: str, **options) -> tuple[dict[str, np.ndarray], onnxmerge.Result]:
    options = {"criterion": "l1", "compensation": "merge", "samples": 1, "device": "cpu"} | options
    result = onnxmerge.optimize(SHARED / "models" / f"{model}.onnx", **options)
    return {t.name: numpy_helper.to_array(t) for t in result.model.graph.initializer}, result


def in_order_of(reference: np.ndarray, kept: np.ndarray, axis: int) -> np.ndarray:
    """The reference's slices in ascending order of the channels that they belong to."""
    return np.take(reference, np.argsort(kept), axis=axis)


@needs_shared
@pytest.mark.parametrize("criterion, percent", [("l1", 50), ("l1", 70), ("l2", 50), ("gm", 50)])
def test_lenet_equals_the_published_weights(criterion, percent):
    weights, result = optimized("lenet_300_100", ratio=percent / 100, criterion=criterion, threshold=0.45)
    reference = np.load(ORACLE / f"lenet_300_100_{criterion}_{percent}_merge.npz")
    first, second = reference["kept/ip1.weight"], reference["kept/ip2.weight"]
    assert sorted(first) == list(result.plan.keep["/ip1/Gemm"])
    assert sorted(second) == list(result.plan.keep["/ip2/Gemm"])
    expected = {
        "ip1.weight": in_order_of(reference["weight/ip1.weight"], first, 0),
        "ip1.bias": in_order_of(reference["weight/ip1.bias"], first, 0),
        "ip2.weight": in_order_of(in_order_of(reference["weight/ip2.weight"], second, 0), first, 1),
        "ip2.bias": in_order_of(reference["weight/ip2.bias"], second, 0),
        "ip3.weight": in_order_of(reference["weight/ip3.weight"], second, 1),
        "ip3.bias": reference["weight/ip3.bias"],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(weights[name], values, atol=1e-5, err_msg=name)


@needs_shared
@pytest.mark.parametrize("criterion, percent", [("l1", 50), ("l2", 50), ("gm", 50)])
def test_resnet56_equals_the_published_weights(criterion, percent):
    weights, result = optimized(
        "resnet56_bn", ratio=percent / 100, criterion=criterion, scope="chain", threshold=0.1, trade_off=0.85
    )
    reference = np.load(ORACLE / f"resnet56_{criterion}_{percent}_merge.npz")
    compared = 0
    for key in (k for k in reference.files if k.startswith("kept/")):
        block = key.removeprefix("kept/").removesuffix(".conv1.weight")
        layer = block.split(".")[0]
        kept = reference[key]
        assert sorted(kept) == list(result.plan.keep[f"/{layer}/{block}/conv1/Conv"]), block
        consumer = f"{block}.conv2.weight"
        expected = in_order_of(reference[f"weight/{consumer}"], kept, 1)
        np.testing.assert_allclose(weights[consumer], expected, atol=1e-5, err_msg=consumer)
        compared += 1
    assert compared == 27


def accuracy(model: onnx.ModelProto, images: np.ndarray, labels: np.ndarray) -> float:
    session = Runtime.create("cpu", 2).session(model)
    name = session.inputs[0].name
    answers = [
        next(iter(session.run({name: images[start : start + 500]}).values())).argmax(1)
        for start in range(0, len(images), 500)
    ]
    return float((np.concatenate(answers) == labels).mean() * 100)


@needs_shared
@pytest.mark.parametrize(
    "percent, merged, pruned",
    [(50, 88.69, 88.40), (60, 86.92, 85.17), (70, 82.75, 71.26), (80, 80.02, 66.76)],
)
def test_lenet_reaches_the_published_accuracies(percent, merged, pruned):
    with np.load(SHARED / "data" / "fashion_mnist.npz") as data:
        images = ((data["x_test"][:, None] / 255 - 0.5) / 0.5).astype(np.float32)
        labels = data["y_test"]
    _, result = optimized("lenet_300_100", ratio=percent / 100, threshold=0.45)
    assert accuracy(result.model, images, labels) == pytest.approx(merged, abs=0.05)
    _, plain = optimized("lenet_300_100", ratio=percent / 100, compensation="none")
    assert accuracy(plain.model, images, labels) == pytest.approx(pruned, abs=0.05)

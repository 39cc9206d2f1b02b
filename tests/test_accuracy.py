"""What the methods keep of a real model's accuracy, on labelled images that nothing was fitted to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import onnxmerge
from onnxmerge.runtime import Runtime

MODELS = Path(__file__).parents[1] / "models"
DIGITS, CALIB = MODELS / "digits.onnx", MODELS / "digits_calib.npz"
TEST = np.load(MODELS / "digits_test.npz")
RUNTIME = Runtime.create("cpu", 1)


def accuracy(model) -> float:
    """The share of held-out digits that are read right."""
    session = RUNTIME.session(model)
    images = TEST["image"]
    answers = next(iter(session.run({session.inputs[0].name: images}).values()))
    return float((answers.argmax(1) == TEST["label"]).mean())


def kept(share: float, **options) -> float:
    """The accuracy with a share of the multiplications."""
    return accuracy(onnxmerge.optimize(DIGITS, macs=share, threads=1, **options).model)


@pytest.mark.parametrize(("share", "bar"), [(0.7, 0.985), (0.5, 0.98), (0.3, 0.95)])
def test_the_default_keeps_the_accuracy(share, bar):
    assert accuracy(DIGITS) > 0.99
    assert kept(share, calibration=CALIB) >= bar


def test_without_data_it_keeps_most_of_it():
    assert kept(0.5, images=onnxmerge.ImageOptions(scale=1 / 255)) >= 0.95


def test_published_merging_is_better_than_plain_pruning_and_worse_than_the_default():
    recipe = {"calibration": CALIB, "criterion": "l1", "ratio": 0.25, "threads": 1}
    plain, merged = (
        accuracy(onnxmerge.optimize(DIGITS, compensation=c, **recipe).model) for c in ("none", "merge")
    )
    ours = accuracy(onnxmerge.optimize(DIGITS, calibration=CALIB, ratio=0.25, threads=1).model)
    assert plain < ours and merged < ours and ours >= 0.98


def test_a_time_that_is_asked_for_may_take_whole_layers():
    """Widths of zero are chosen where they cost least; the table decides, no clock does."""
    shallow = kept(0.3, calibration=CALIB)
    assert shallow >= kept(0.3, calibration=CALIB, depth=False) - 0.02

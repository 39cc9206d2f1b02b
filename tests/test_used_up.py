"""Budgets are used up: what is kept comes near what was asked for, or the report says why not."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import support

import onnxmerge
from onnxmerge.allocation import SLACK, Alignment, top_up
from onnxmerge.allocation.alignment import Extent, extents
from onnxmerge.allocation.budget import Budget
from onnxmerge.allocation.met import share
from onnxmerge.plan import Selection

MODELS = Path(__file__).parents[1] / "models"
CORPUS = Path(__file__).parents[2] / "shared" / "corpus"
NORMALISED = """
  r{i} = Reshape(h{i}, split)
  n{i} = InstanceNormalization(r{i}, one{i}, zero{i})
  s{i} = Shape(h{i})
  f{i} = Reshape(n{i}, s{i})
  g{i} = Mul(f{i}, w{i}s)
  b{i} = Add(g{i}, w{i}b)
  a{i} = Relu(b{i})"""
# A normalisation over groups as torch exports it, in a net that makes images small and large again.
AUTOENCODER = f"""net (float[N,3,16,16] x) => (float[N,3,16,16] y)
<float[32,3,3,3] w1, float[64,32,3,3] w2, float[64,64,3,3] w3, float[64,32,4,4] w4, float[3,32,3,3] w5,
 float[32,1,1] w1s, float[32,1,1] w1b, float[64,1,1] w2s, float[64,1,1] w2b, float[64,1,1] w3s,
 float[64,1,1] w3b, float[32,1,1] w4s, float[32,1,1] w4b,
 float[8] one1, float[8] zero1, float[8] one2, float[8] zero2, float[8] one3, float[8] zero3,
 float[8] one4, float[8] zero4, int64[3] split = {{0, 8, -1}}> {{
  h1 = Conv<pads=[1,1,1,1]>(x, w1) {NORMALISED.format(i=1)}
  h2 = Conv<pads=[1,1,1,1], strides=[2,2]>(a1, w2) {NORMALISED.format(i=2)}
  h3 = Conv<pads=[1,1,1,1]>(a2, w3) {NORMALISED.format(i=3)}
  h4 = ConvTranspose<pads=[1,1,1,1], strides=[2,2]>(a3, w4) {NORMALISED.format(i=4)}
  y = Conv<pads=[1,1,1,1]>(a4, w5)
}}"""
FAST = {"criterion": "l1", "compensation": "none", "samples": 8}


@pytest.fixture(scope="module")
def autoencoder():
    return support.model(AUTOENCODER)


def kept(report, kind="macs") -> float:
    return report["output"][kind] / report["input"][kind]


def below(report) -> list[str]:
    return [text for text in report["warnings"] if "were asked for" in text]


def test_groups_of_a_normalisation_are_as_wide_as_their_channels(autoencoder):
    channels = support.analysed(autoencoder).channels
    assert [len(group) for group in channels.groups] == [8, 8, 8, 8]
    assert list(extents(channels).values()) == [
        Extent(4, False),
        Extent(8, False),
        Extent(8, False),
        Extent(4, False),
    ]


@pytest.mark.parametrize("kind", ["macs", "params"])
@pytest.mark.parametrize("allocation", ["curves", "uniform", "global"])
@pytest.mark.parametrize("asked", [0.9, 0.75, 0.6, 0.45, 0.3])
def test_the_budget_is_used_up(autoencoder, kind, allocation, asked):
    report = onnxmerge.optimize(autoencoder, **{kind: asked}, allocation=allocation, **FAST).report
    assert asked - SLACK <= kept(report, kind) <= asked and not below(report)


FEW = """net (float[N,6] x) => (float[N,2] y) <float[6,4] w, float[4,2] v> {
  h = MatMul(x, w)
  r = Relu(h)
  y = MatMul(r, v)
}"""


def test_where_single_channels_are_too_much_the_report_says_what_the_next_one_would_keep():
    report = onnxmerge.optimize(support.model(FEW), macs=0.6, **FAST).report
    assert kept(report) == 0.5
    words = r"(\S+) of the multiplications are kept where (\S+) were asked for: .* would keep (\S+)"
    (warning,) = below(report)
    assert [float(number) for number in re.match(words, warning).groups()] == [0.5, 0.6, 0.75]


@pytest.mark.skipif(not CORPUS.is_dir(), reason="the shared models are not here")
def test_narrow_nets_take_the_widths_between_two_coarse_ones():
    model = CORPUS / "DefTruth+lite.ai.toolkit__ssrnet.onnx"
    report = onnxmerge.optimize(model, macs=0.6, **FAST).report
    assert 0.58 <= kept(report) <= 0.6 and not below(report)


def test_coarse_widths_stay_where_they_do_no_harm():
    report = onnxmerge.optimize(MODELS / "digits.onnx", macs=0.6, **FAST).report
    assert 0.58 <= kept(report) <= 0.6 and not below(report)
    assert all(group["after"] % 4 == 0 or group["after"] == group["before"] for group in report["groups"])


def test_as_few_groups_as_possible_take_finer_steps(autoencoder):
    analysed = support.analysed(support.model(PLAIN))
    channels = analysed.channels
    order = {group.name: np.arange(len(group)) for group in channels.groups}
    budget = Budget("macs", 0.6, lambda lengths: analysed.cost.share("macs", lengths))
    coarse = Selection({name: index[:16] for name, index in order.items()})
    assert share(channels, coarse, budget) < 0.6 - SLACK
    finer = top_up(channels, coarse, order, Alignment(16), budget)
    assert 0.6 - SLACK <= share(channels, finer, budget) <= 0.6
    assert sum(len(keep) % 16 > 0 for keep in finer.keep.values()) == 1
    assert all(set(coarse.keep[name]) <= set(keep) for name, keep in finer.keep.items())


PLAIN = """net (float[N,3,8,8] x) => (float[N,5,8,8] y)
<float[32,3,3,3] w1, float[32,32,3,3] w2, float[32,32,3,3] w3, float[5,32,3,3] w4> {
  h1 = Conv<pads=[1,1,1,1]>(x, w1)
  a1 = Relu(h1)
  h2 = Conv<pads=[1,1,1,1]>(a1, w2)
  a2 = Relu(h2)
  h3 = Conv<pads=[1,1,1,1]>(a2, w3)
  a3 = Relu(h3)
  y = Conv<pads=[1,1,1,1]>(a3, w4)
}"""


def test_an_alignment_that_was_asked_for_stays_and_is_named():
    report = onnxmerge.optimize(MODELS / "digits.onnx", macs=0.7, align=32, **FAST).report
    assert all(group["after"] % 32 == 0 or group["after"] == group["before"] for group in report["groups"])
    assert kept(report) < 0.7 - SLACK
    (warning,) = below(report)
    assert "multiples of 32" in warning and "would keep" in warning


def test_what_layers_that_left_leave_over_is_said_too():
    options = {"calibration": MODELS / "digits_calib.npz", "samples": 32, "patches": 500, "threads": 1}
    report = onnxmerge.optimize(MODELS / "digits.onnx", macs=0.4, align=64, **options).report
    assert report.emptied is not None and all(g.after in (0, g.before) for g in report.groups)
    [said] = [w for w in report.warnings if "were asked for" in w]
    assert said.startswith(f"{report.reached.macs:.4g} of the multiplications are kept where 0.4 were")
    assert "some layers left altogether, and all others are as wide as they were" in said


def test_a_ratio_is_what_it_is():
    report = onnxmerge.optimize(MODELS / "digits.onnx", ratio=0.3, **FAST).report
    assert not below(report)

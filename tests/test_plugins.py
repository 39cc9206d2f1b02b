"""Methods from outside: a class and an entry in a table are all that a new one takes."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pytest
import support

import onnxmerge
from onnxmerge.arguments import made
from onnxmerge.channels import Channels
from onnxmerge.channels.sites import FoldSite
from onnxmerge.compensation import COMPENSATIONS, LeastSquares, Merge
from onnxmerge.config import Config
from onnxmerge.criteria import CRITERIA, OpenGroup
from onnxmerge.criteria.random import Random
from onnxmerge.errors import UsageError
from onnxmerge.plan import Scores
from onnxmerge.statistics import Needs
from onnxmerge.statistics.dense import Statistics
from onnxmerge.statistics.paired import Paired

MODELS = Path(__file__).parents[1] / "models"
DIGITS = {"model": MODELS / "digits.onnx", "calibration": MODELS / "digits_calib.npz", "threads": 1}
CALLS: list[str] = []


@dataclass(frozen=True)
class LastFirst:
    """Keeps the last channels; chosen again, the first."""

    seed: int = 0
    needs: ClassVar[Literal[Needs.NOTHING]] = Needs.NOTHING

    def __call__(self, channels: Channels, statistics: Statistics | None) -> Scores:
        assert statistics is None
        CALLS.append(f"scored with seed {self.seed}")
        return Scores({group.name: np.arange(len(group), dtype=float) for group in channels.groups})

    def choose_again(self, sensitivity: np.ndarray, paired: Paired, group: OpenGroup) -> np.ndarray:
        return np.arange(group.width)


@dataclass(frozen=True)
class FromVariance:
    """Needs dense statistics, and looks at them."""

    needs: ClassVar[Literal[Needs.DENSE]] = Needs.DENSE

    def __call__(
        self, site: FoldSite, kept: np.ndarray, statistics: Statistics | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        assert statistics is not None and statistics.features
        varies = statistics.variance(site.data.tensor, site.data.axis).any()
        return site.values if varies else np.zeros(site.values.shape), None


@dataclass(frozen=True)
class ZeroWeights:
    """Needs paired statistics; consumers say the mean of what they said."""

    patches: int = 10
    seed: int = 0
    needs: ClassVar[Literal[Needs.PAIRED]] = Needs.PAIRED

    def __call__(
        self, site: FoldSite, kept: np.ndarray, statistics: Paired
    ) -> tuple[np.ndarray, np.ndarray | None]:
        CALLS.append(f"{self.patches} patches")
        weight = np.zeros(site.values.shape)
        return weight, self.bias_of(statistics, weight)

    def bias_of(self, statistics: Paired, weight: np.ndarray) -> np.ndarray | None:
        return LeastSquares().bias_of(statistics, weight)


@pytest.fixture(autouse=True)
def entered(monkeypatch):
    CALLS.clear()
    monkeypatch.setitem(CRITERIA, "mine", LastFirst)
    monkeypatch.setitem(COMPENSATIONS, "mine", ZeroWeights)
    monkeypatch.setitem(COMPENSATIONS, "dense", FromVariance)


def kept(result: onnxmerge.Result) -> list[tuple[int, ...]]:
    return list(result.plan.keep.values())


def test_a_criterion_and_a_compensation_from_outside():
    result = onnxmerge.optimize(
        **DIGITS, ratio=0.5, criterion="mine", compensation="mine", seed=7, patches=999
    )
    assert CALLS[0] == "scored with seed 7" and set(CALLS[1:]) == {"999 patches"}
    assert result.report["method"]["criterion"] == result.report["method"]["compensation"] == "mine"
    assert any(index == tuple(range(len(index))) for index in kept(result)), "some were chosen again"
    # Of zero weights nothing but the bias is left: all images have the same answer.
    images = np.random.default_rng(0).random((2, 1, 8, 8), dtype=np.float32)
    (answers,) = support.RUNTIME.session(result.model).run({"image": images}).values()
    np.testing.assert_array_equal(answers[0], answers[1])


def test_a_compensation_that_looks_at_dense_statistics():
    plain = onnxmerge.optimize(**DIGITS, ratio=0.5, criterion="mine", compensation="none")
    result = onnxmerge.optimize(**DIGITS, ratio=0.5, criterion="mine", compensation="dense")
    assert kept(result) == kept(plain)
    assert all(index[-1] - index[0] == len(index) - 1 for index in kept(result)), "the last ones"
    assert result.model.SerializeToString() == plain.model.SerializeToString()


def test_words_are_those_of_the_tables():
    assert Config(criterion="mine", compensation="dense").criterion == "mine"
    with pytest.raises(UsageError, match="lstsq, none, bias, merge, gaussian, lbyl, folding, mine, dense"):
        Config(compensation="yours")


def test_options_reach_the_methods_that_have_them():
    options = vars(Config(seed=3, patches=77, threshold=0.2, trade_off=0.5))
    assert made(Random, options) == Random(3)
    assert made(Merge, options) == Merge(0.2, 0.5)
    assert made(LeastSquares, options) == LeastSquares(77, 3)
    assert {cls.needs for cls in (*CRITERIA.values(), *COMPENSATIONS.values())} == set(Needs)


def test_another_package_offers_a_method(monkeypatch):
    monkeypatch.delitem(COMPENSATIONS, "mine")
    monkeypatch.delitem(CRITERIA, "mine")

    def found(*, group: str, name: str) -> list[EntryPoint]:
        places = {"mine": "test_plugins:ZeroWeights", "broken": "no_such_package:Method"}
        offered = group == "onnxmerge.compensation" and name in places
        return [EntryPoint(name, places[name], group)] if offered else []

    monkeypatch.setattr("onnxmerge.plugins.entry_points", found)
    assert Config(compensation="mine").compensation == "mine"
    assert COMPENSATIONS["mine"].__name__ == "ZeroWeights"
    with pytest.raises(UsageError, match="offered by no_such_package:Method, which cannot be imported"):
        Config(compensation="broken")
    with pytest.raises(UsageError, match="not the text 'mine'"):
        Config(criterion="mine")

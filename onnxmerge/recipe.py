"""How candidates are made: score once, then select, compensate and rewrite at any budget."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx

from onnxmerge.allocation import ALLOCATIONS
from onnxmerge.calibration import Dataset
from onnxmerge.calibration.statistics import Statistics, collect
from onnxmerge.channels.cost import share_of
from onnxmerge.clock import Clock
from onnxmerge.compensation import COMPENSATIONS, Compensator, MeanBias, Merge
from onnxmerge.config import Config
from onnxmerge.criteria import CRITERIA, Criterion, Random
from onnxmerge.plan import Budget, Scores, Selection
from onnxmerge.rewrite import Fold
from onnxmerge.runtime import Runtime
from onnxmerge.subject import Subject


@dataclass(frozen=True, eq=False)
class Candidate:
    """A smaller model and the decisions that made it."""

    selection: Selection
    folds: tuple[Fold, ...]
    model: onnx.ModelProto


@dataclass(frozen=True, eq=False)
class Recipe:
    """Criterion, allocation and compensation of a configuration, on one subject and one data set."""

    subject: Subject
    config: Config
    data: Dataset
    runtime: Runtime
    clock: Clock

    def at(self, kind: str, value: float) -> Candidate:
        """The candidate for a budget.

        Raises:
            BudgetError: the budget cannot be met.
        """
        with self.clock("select"):
            share = None if kind == "ratio" else share_of(self.subject.cost, kind)
            allocator = ALLOCATIONS[self.config.allocation]()
            selection = allocator(self.subject.channels, self._scores, Budget(kind, value, share))
        return self.of(selection)

    def of(self, selection: Selection) -> Candidate:
        """The candidate for a selection."""
        with self.clock("compensate"):
            kept = ~self.subject.removed(selection)
            folds = tuple(
                Fold(site, *self._compensator(site, kept, self._mean(site))) for site in self.subject.sites
            )
        with self.clock("rewrite"):
            model = self.subject.pruned(selection, folds)
        return Candidate(selection, folds, model)

    def cut(self, selection: Selection) -> Candidate:
        """The candidate for a selection without any compensation."""
        return Candidate(selection, (), self.subject.pruned(selection, ()))

    def smallest(self, kind: str) -> float:
        """The share of ``kind`` that remains with every group at its smallest width."""
        tiny = Selection({group.name: np.zeros(1, dtype=np.int64) for group in self.subject.channels.groups})
        return share_of(self.subject.cost, kind)(tiny)

    @cached_property
    def _criterion(self) -> Criterion:
        chosen = CRITERIA[self.config.criterion]
        return chosen(self.config.seed) if chosen is Random else chosen()

    @cached_property
    def _compensator(self) -> Compensator:
        chosen = COMPENSATIONS[self.config.compensation]
        return chosen(self.config.threshold, self.config.trade_off) if chosen is Merge else chosen()

    @cached_property
    def _scores(self) -> Scores:
        with self.clock("score"):
            return self._criterion(self.subject.channels, None)

    @cached_property
    def _statistics(self) -> Statistics | None:
        if not isinstance(self._compensator, MeanBias):
            return None
        with self.clock("calibrate"):
            return collect(
                self.subject.channels, self.subject.sites, self.subject.proto, self.data, self.runtime
            )

    def _mean(self, site):
        return None if self._statistics is None else self._statistics.mean(site)

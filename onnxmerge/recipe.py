"""How candidates are made: score once, then select, compensate and rewrite at any budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import onnx

from onnxmerge.allocation import ALLOCATIONS, SLACK, Alignment, next_wider, top_up
from onnxmerge.allocation.latency_table import LatencyTable, latency_table
from onnxmerge.allocation.targets import NARROWEST, step_of
from onnxmerge.channels.cost import kept_lengths
from onnxmerge.channels.depth import Depth
from onnxmerge.compensation import COMPENSATIONS, Compensator, MeanBias, Merge
from onnxmerge.config import Config
from onnxmerge.criteria import CRITERIA, Criterion, Random
from onnxmerge.data import Dataset
from onnxmerge.errors import BudgetError
from onnxmerge.graph import external_weights
from onnxmerge.graph.external_weights import Scratch
from onnxmerge.method import Method
from onnxmerge.plan import Budget, Scores, Selection
from onnxmerge.progress import Clock
from onnxmerge.reconstruction import Options, reconstruct
from onnxmerge.rewrite import Fold
from onnxmerge.runtime import Runtime
from onnxmerge.statistics.dense import Statistics, collect
from onnxmerge.subject import Subject


@dataclass(frozen=True, eq=False)
class Candidate:
    """A smaller model and the decisions that made it; ``scratch`` holds the weights of a large one."""

    selection: Selection
    folds: tuple[Fold, ...]
    model: onnx.ModelProto
    scratch: Scratch | None = None


@dataclass(frozen=True)
class Shortfall:
    """Widths that keep less than was asked for.

    Attributes:
        kind: ``macs`` or ``params``.
        asked, kept: shares of the model.
        group: the one whose next wider step costs the least.
        wider: the share that is kept with it.
    """

    kind: str
    asked: float
    kept: float
    group: str
    wider: float


@dataclass(frozen=True, eq=False)
class Recipe:
    """Criterion, allocation and compensation on one subject and one data set.

    Attributes:
        scored_by: the recipe whose scores are used; None: its own.
    """

    subject: Subject
    config: Config
    method: Method
    data: Dataset
    runtime: Runtime
    clock: Clock
    scored_by: Recipe | None = None

    @property
    def fits(self) -> bool:
        """Whether every candidate is fitted to the data, so that more of them take longer."""
        return self.method.compensation == "lstsq"

    def with_samples(self, samples: int) -> Recipe:
        """One that chooses the same widths, and fits them to fewer samples and rows."""
        data = self.data.take(samples, self.config.seed)
        patches = max(self.config.patches * len(data) // len(self.data), 1)
        return replace(self, data=data, config=replace(self.config, patches=patches), scored_by=self)

    def at(self, kind: str, value: float) -> Candidate:
        """The candidate for a budget.

        Raises:
            BudgetError: the budget cannot be met.
        """
        return self.of_widths(self.widths(kind, value))

    def widths(self, kind: str, value: float) -> Selection:
        """The channels that stay within a budget, and as many more as it leaves room for.

        Raises:
            BudgetError: the budget cannot be met.
        """
        selection = self.select(kind, value)
        if kind in ("macs", "params") and self.config.align == "auto":
            with self.clock("select"):
                order = {name: np.argsort(v, kind="stable")[::-1] for name, v in self._scores.values.items()}
                budget = self._budget(kind, value)
                selection = top_up(self.subject.channels, selection, order, self._alignment, budget)
        return selection

    def shortfall(self, kind: str, value: float, selection: Selection) -> Shortfall | None:
        """How far a selection stays below a budget, and why; None where that is not worth a word."""
        if kind not in ("macs", "params") or (kept := self.share(kind, selection)) >= value - SLACK:
            return None
        ladders = replace(self._any_alignment, step=1) if self.config.align == "auto" else self._alignment
        budget = self._budget(kind, value)
        channels = self.subject.channels
        wider = next_wider(channels, selection, ladders.ladders(channels), budget)
        return None if wider is None else Shortfall(kind, value, kept, *wider)

    def select(self, kind: str, value: float) -> Selection:
        """The channels that stay within a budget, at widths that the target computes without waste.

        Where such widths cannot reach the budget, narrow groups may have any.

        Raises:
            BudgetError: the budget cannot be met.
        """
        scores = self._scores
        with self.clock("select"):
            budget = self._budget(kind, value)
            allocate = ALLOCATIONS[self.method.allocation]
            try:
                return allocate(self._alignment)(self.subject.channels, scores, budget)
            except BudgetError:
                if self.config.align != "auto":
                    raise
                return allocate(self._any_alignment)(self.subject.channels, scores, budget)

    def of_widths(self, selection: Selection) -> Candidate:
        """The candidate for the widths of a selection; which channels stay may be chosen again."""
        return self._of(selection, replay=False)

    def of(self, selection: Selection) -> Candidate:
        """The candidate for a selection, to the last bit that of the run in which it was chosen."""
        return self._of(selection, replay=True)

    def _of(self, selection: Selection, *, replay: bool) -> Candidate:
        folds: tuple[Fold, ...]
        scratch = self.subject.scratch()
        if not self.subject.removed(selection).any():
            folds = ()
        elif self.fits:
            with self.clock("reconstruct"):
                selection, folds = self._reconstructed(selection, replay, scratch)
        else:
            mean = self._means.mean if self._needs_means else lambda site: None
            with self.clock("compensate"):
                kept = ~self.subject.removed(selection)
                folds = tuple(
                    Fold.of(site, *self._compensator(site, kept, mean(site)), scratch)
                    for site in self.subject.sites
                )
        with self.clock("rewrite"):
            model = self.subject.pruned(selection, folds, scratch)
        return Candidate(selection, folds, model, scratch)

    def cut(self, selection: Selection) -> Candidate:
        """The candidate for a selection without any compensation."""
        scratch = self.subject.scratch()
        return Candidate(selection, (), self.subject.pruned(selection, (), scratch), scratch)

    def smallest(self, kind: str) -> float:
        """The share of ``kind`` that remains with every group at the smallest width it may have."""
        ladders = self._any_alignment.ladders(self.subject.channels)
        gone = self._depth.most(self._depth.names) if self._depth is not None else ()
        least = {name: 0 if name in gone else ladder[0] for name, ladder in ladders.items()}
        return self.share(kind, Selection({name: np.arange(count) for name, count in least.items()}))

    def share(self, kind: str, selection: Selection) -> float:
        """The share of ``kind`` that a selection keeps; of ``latency`` as the table predicts it."""
        return float(self._share(kind)(kept_lengths(self.subject.channels, self.subject.removed(selection))))

    def _budget(self, kind: str, value: float) -> Budget:
        if kind == "ratio":
            return Budget(kind, value)
        return Budget(kind, value, self._share(kind), self._depth)

    @property
    def _depth(self) -> Depth | None:
        """What may be left out altogether; None where every group keeps a channel."""
        may_go = self.config.depth and ALLOCATIONS[self.method.allocation].empties
        return self.subject.depth if may_go else None

    def _share(self, kind: str) -> Callable[[np.ndarray], np.ndarray]:
        return self._latency_table.share if kind == "latency" else partial(self.subject.cost.share, kind)

    def _reconstructed(
        self, selection: Selection, replay: bool, scratch: Scratch | None
    ) -> tuple[Selection, tuple[Fold, ...]]:
        options = Options(
            patches=self.config.patches,
            reselect=self.method.criterion == "reconstruction",
            replay=replay,
            seed=self.config.seed,
        )
        chosen, folds = reconstruct(
            self.subject.channels,
            self.subject.proto,
            selection,
            self.data,
            self.runtime,
            options,
            self.clock.step,
            scratch,
        )
        external_weights.trim()
        return chosen, tuple(folds)

    @cached_property
    def _criterion(self) -> Criterion:
        chosen = CRITERIA[self.method.criterion]
        return chosen(self.config.seed) if chosen is Random else chosen()

    @cached_property
    def _alignment(self) -> Alignment:
        if self.config.align == "auto":
            return Alignment(self._step, NARROWEST)
        return Alignment(int(self.config.align))

    @cached_property
    def _any_alignment(self) -> Alignment:
        """The alignment that reaches farthest."""
        return replace(self._alignment, least=1) if self.config.align == "auto" else self._alignment

    @cached_property
    def _step(self) -> int:
        target = self.config.target
        if target == "auto":
            target = "cuda" if self.runtime.device == "cuda" else "cpu"
        return step_of(target)

    @cached_property
    def _latency_table(self) -> LatencyTable:
        feed = next(iter(self.data.feeds(batch=1)))
        with self.clock("latency table"):
            return latency_table(self.subject, self.runtime, feed, self._step, self.clock.step)

    @cached_property
    def _compensator(self) -> Compensator:
        chosen = COMPENSATIONS[self.method.compensation]
        return chosen(self.config.threshold, self.config.trade_off) if chosen is Merge else chosen()

    @property
    def _scores(self) -> Scores:
        return self._scored[0]

    @cached_property
    def _scored(self) -> tuple[Scores, Statistics | None]:
        """The scores; and the statistics behind them, without the covariances that only scores need."""
        if self.scored_by is not None:
            return self.scored_by._scored
        statistics = self._collected() if self.method.criterion == "reconstruction" else None
        with self.clock("score"):
            scores = self._criterion(self.subject.channels, statistics)
        return scores, None if statistics is None else replace(statistics, features={})

    @property
    def _needs_means(self) -> bool:
        return isinstance(self._compensator, MeanBias)

    @cached_property
    def _means(self) -> Statistics:
        return self._scored[1] or self._collected()

    def _collected(self) -> Statistics:
        with self.clock("statistics"):
            return collect(
                self.subject.channels,
                self.subject.sites,
                self.subject.proto,
                self.data,
                self.runtime,
                self.clock.step,
                seed=self.config.seed,
            )

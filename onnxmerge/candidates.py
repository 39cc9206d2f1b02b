"""From a study to candidates: collect, score and allocate once; reconstruct and rewrite at any widths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from onnxmerge.allocation import ALLOCATIONS, BY_LAYER, SLACK, Alignment, Allocator, next_wider, top_up
from onnxmerge.allocation import share as kept_share
from onnxmerge.allocation.budget import Budget
from onnxmerge.allocation.latency_table import LatencyTable, latency_table
from onnxmerge.allocation.targets import NARROWEST, step_of
from onnxmerge.arguments import made
from onnxmerge.compensation import COMPENSATIONS, BlendingCompensation, Compensation, PairedCompensation
from onnxmerge.criteria import CRITERIA, Criterion, choosing_again
from onnxmerge.data.dataset import Dataset
from onnxmerge.errors import BudgetError, ModelError
from onnxmerge.graph import external_weights
from onnxmerge.graph.external_weights import Scratch
from onnxmerge.outcomes import Candidate, Shortfall
from onnxmerge.plan import Scores, Selection
from onnxmerge.probes import weighed, worth_probing
from onnxmerge.reconstruction import reconstruct
from onnxmerge.rewrite import Change, Fold, pruned
from onnxmerge.runtime.session import Feed
from onnxmerge.statistics import Needs
from onnxmerge.statistics.dense import Statistics, collect
from onnxmerge.statistics.emphasis import CountPlaces
from onnxmerge.study import Study
from onnxmerge.validation.places import Places

# New sessions of the input and of itself with all channels: one may be slow as long as it lives.
_SESSIONS = 3


def score(study: Study, data: Dataset) -> Scores:
    """What every channel is worth, by the criterion; it collects the statistics that it needs.

    Raises:
        ModelError: the model makes numbers that are not finite, of which no channel can be told from another.
    """
    criterion = _criterion(study)
    # What is not finite is said below, with the groups that it is at.
    with np.errstate(over="ignore", invalid="ignore"):
        statistics = collected(study, data) if criterion.needs is Needs.DENSE else None
        with study.clock("score"):
            found = criterion(study.analysis.channels, statistics)
    _refuse_not_finite(found)
    if statistics is not None and found.curves and worth_probing(study):
        with study.clock("probe"):
            found = weighed(study, found, statistics, data)
    del statistics
    external_weights.trim()
    return found


def _refuse_not_finite(scores: Scores) -> None:
    # A channel of infinite worth stays; a cost that is infinite cannot be spent.
    groups = [name for name, values in scores.values.items() if np.isnan(values).any()]
    groups += [name for name, costs in scores.curves.items() if not np.isfinite(costs).all()]
    groups = list(dict.fromkeys(groups))
    if groups:
        named = ", ".join(map(repr, groups[:3])) + (f" and {len(groups) - 3} more" if groups[3:] else "")
        raise ModelError(
            f"numbers inside of the model are NaN or infinite at the groups {named}, so that their channels "
            "cannot be compared: look at the range of the inputs, the weights, and float16, which overflows; "
            "skip= leaves groups whole"
        )


def _criterion(study: Study) -> Criterion:
    return made(CRITERIA[study.method.criterion], vars(study.config))


def collected(study: Study, data: Dataset) -> Statistics:
    """Dense statistics: one pass of the data through the untouched model."""
    analysis = study.analysis
    with study.clock("statistics"):
        found = collect(
            analysis.channels,
            analysis.sites,
            analysis.sensitivity,
            analysis.proto,
            data,
            study.runtime,
            study.clock.step,
            seed=study.config.seed,
        )
        external_weights.trim()
        return found


def budget_of(
    study: Study, kind: str, value: float, table: LatencyTable | None = None, shape: str | None = None
) -> Budget:
    """A budget with what widths cost of it, and with the groups that may go altogether.

    Args:
        table: prices a budget in ``latency``.
        shape: one of ``shapes``; None: the usual one.
    """
    empties = study.config.depth and _allocator(study, kind, shape, _alignment(study)).empties
    depth = study.analysis.depth if empties else None
    match kind:
        case "ratio":
            return Budget(kind, value)
        case "latency":
            assert table is not None, "a latency budget is priced by a table"
            return Budget(kind, value, table.share, depth)
        case _:
            analysis = study.analysis

            def share(lengths: np.ndarray) -> np.ndarray:
                if lengths.ndim > 1 or depth is None:
                    # Many widths at once only guide a search: layers that nobody reads any more count there.
                    return analysis.cost.share(kind, lengths)
                return np.asarray(analysis.share(kind, lengths))

            return Budget(kind, value, share, depth)


def shapes(study: Study, kind: str) -> tuple[str, ...]:
    """The names of the shapes that a kind of budget may be met in, the usual one first."""
    names = tuple(_allocators(study, kind, _alignment(study)))
    return names if worth_probing(study) else tuple(name for name in names if name != BY_LAYER)


def allocate(study: Study, scores: Scores, budget: Budget, shape: str | None = None) -> Selection:
    """The channels that stay within a budget, at widths that the target computes without waste.

    Where such widths cannot reach the budget, narrow groups may have any.

    Args:
        shape: one of ``shapes``; None: the usual one.

    Raises:
        BudgetError: the budget cannot be met.
    """
    channels = study.analysis.channels
    with study.clock("select"):
        try:
            return _allocator(study, budget.kind, shape, _alignment(study))(channels, scores, budget)
        except BudgetError:
            if study.config.align != "auto":
                raise
            return _allocator(study, budget.kind, shape, _any_alignment(study))(channels, scores, budget)


def _allocators(study: Study, kind: str, alignment: Alignment) -> Mapping[str, Allocator]:
    return ALLOCATIONS[study.method.allocation](alignment).shapes(kind)


def _allocator(study: Study, kind: str, shape: str | None, alignment: Alignment) -> Allocator:
    found = _allocators(study, kind, alignment)
    return found[shape] if shape is not None else next(iter(found.values()))


def use_up(study: Study, scores: Scores, budget: Budget, selection: Selection) -> Selection:
    """A selection with as many channels more as a budget in MACs or parameters leaves room for."""
    if budget.kind not in ("macs", "params") or study.config.align != "auto":
        return selection
    with study.clock("select"):
        return top_up(study.analysis.channels, selection, scores.best_first(), _alignment(study), budget)


def shortfall(study: Study, budget: Budget, selection: Selection) -> Shortfall | None:
    """How far a selection stays below a budget, and why; None where that is not worth a word."""
    channels = study.analysis.channels
    if budget.kind not in ("macs", "params"):
        return None
    kept = kept_share(channels, selection, budget)
    if kept >= budget.value - SLACK:
        return None
    alignment = _any_alignment(study)
    ladders = replace(alignment, step=1) if study.config.align == "auto" else alignment
    wider = next_wider(channels, selection, ladders.ladders(channels), budget)
    return Shortfall(budget.kind, budget.value, kept, *(wider or (None, 1.0)))


@dataclass(frozen=True, eq=False)
class Widths:
    """Selections by the share that they keep of one thing: MACs, parameters or time.

    Attributes:
        kind: ``macs``, ``params`` or ``latency``.
        table: what widths cost in time, for ``latency``.
        shape: one of ``shapes``; None: the usual one.
    """

    study: Study
    scores: Scores
    kind: str
    table: LatencyTable | None = None
    shape: str | None = None

    def select(self, share: float) -> Selection:
        """The selection that keeps at most a share. Raises BudgetError where none does."""
        return allocate(self.study, self.scores, self._budget(share), self.shape)

    def share(self, selection: Selection) -> float:
        """The share that a selection keeps; of time as the table predicts it."""
        return kept_share(self.study.analysis.channels, selection, self._budget(1.0))

    @cached_property
    def smallest(self) -> float:
        """The share that remains with every group at the smallest width it may have."""
        ladders = _any_alignment(self.study).ladders(self.study.analysis.channels)
        depth = self._budget(1.0).depth
        gone = depth.most(depth.names) if depth is not None else ()
        least = {name: 0 if name in gone else ladder[0] for name, ladder in ladders.items()}
        return self.share(Selection({name: np.arange(count) for name, count in least.items()}))

    def _budget(self, share: float) -> Budget:
        return budget_of(self.study, self.kind, share, self.table, self.shape)


def priced_by_time(study: Study, scores: Scores, whole: float = 1.0) -> Widths:
    """Selections by the share of the input model's time that they are predicted to take on this machine.

    Args:
        whole: what all channels take, see ``time_of_all``.
    """
    step = _alignment(study).step
    with study.clock("latency table"):
        table = latency_table(study.analysis, study.runtime, study.feed, step, study.clock.step)
    return Widths(study, scores, "latency", replace(table, whole=whole))


def time_of_all(study: Study) -> float:
    """The time with all channels, as a share of the input's; below 1 where that stores parameters slowly."""
    if not study.analysis.lighter:
        return 1.0
    everything = Builder.of(study, study.samples.fit).cut(Selection({}))
    with study.clock("latency"):
        ratios = [study.latency_in_new_sessions(everything).ratio for _ in range(_SESSIONS)]
        return min(float(np.median(ratios)), 1.0)


def _alignment(study: Study) -> Alignment:
    if study.config.align != "auto":
        return Alignment(int(study.config.align))
    target = study.config.target
    if target == "auto":
        target = "cuda" if study.runtime.device == "cuda" else "cpu"
    return Alignment(step_of(target), NARROWEST)


def _any_alignment(study: Study) -> Alignment:
    """The alignment that reaches farthest."""
    alignment = _alignment(study)
    return replace(alignment, least=1) if study.config.align == "auto" else alignment


@dataclass(frozen=True, eq=False)
class Builder:
    """Makes candidates of any widths: reconstruct, or compensate, and rewrite.

    Attributes:
        data: what is fitted to.
        patches: rows per layer for least squares.
    """

    study: Study
    data: Dataset
    patches: int

    @staticmethod
    def of(study: Study, data: Dataset) -> Builder:
        return Builder(study, data, study.config.patches)

    @property
    def fits(self) -> bool:
        """Whether every candidate is fitted to the data, so that more of them take longer."""
        return self._compensation.needs is Needs.PAIRED

    def with_samples(self, samples: int) -> Builder:
        """One that fits to fewer samples and rows."""
        data = self.data.take(samples, self.study.config.seed)
        return replace(self, data=data, patches=max(self.patches * len(data) // len(self.data), 1))

    def of_widths(self, selection: Selection) -> Candidate:
        """The candidate for the widths of a selection; which channels stay may be chosen again."""
        return self._built(selection, replay=False)

    def of_selection(self, selection: Selection) -> Candidate:
        """The candidate for a selection, to the last bit that of the run in which it was chosen."""
        return self._built(selection, replay=True)

    def cut(self, selection: Selection) -> Candidate:
        """The candidate for a selection without any compensation."""
        scratch = self.study.source.loaded.new_scratch()
        return Candidate(selection, (), pruned(self.study.analysis, selection, (), scratch), scratch)

    def _built(self, selection: Selection, *, replay: bool) -> Candidate:
        study = self.study
        scratch = study.source.loaded.new_scratch()
        folds: tuple[Change, ...] = ()
        notes: tuple[str, ...] = ()
        if study.analysis.removed(selection).any():
            compensation = self._compensation
            if compensation.needs is Needs.PAIRED:
                with study.clock("reconstruct"):
                    selection, folds = self._reconstructed(compensation, selection, replay, scratch)
            else:
                if isinstance(compensation, BlendingCompensation) and not replay:
                    selection = compensation.choose(study.analysis.channels, selection)
                folds, notes = self._compensated(compensation, selection, scratch)
        with study.clock("rewrite"):
            model = pruned(study.analysis, selection, folds, scratch)
        return Candidate(selection, folds, model, scratch, notes)

    def _reconstructed(
        self, compensation: PairedCompensation, selection: Selection, replay: bool, scratch: Scratch | None
    ) -> tuple[Selection, tuple[Fold, ...]]:
        study, analysis = self.study, self.study.analysis
        chosen, folds = reconstruct(
            analysis.channels,
            analysis.sites,
            analysis.proto,
            selection,
            self.data,
            study.runtime,
            compensation,
            choosing_again(_criterion(study), analysis.sensitivity),
            study.clock.step,
            scratch,
            self._places,
            replay=replay,
        )
        external_weights.trim()
        return chosen, tuple(folds)

    def _compensated(
        self, compensation: Compensation, selection: Selection, scratch: Scratch | None
    ) -> tuple[tuple[Change, ...], tuple[str, ...]]:
        analysis = self.study.analysis
        statistics = self._statistics if compensation.needs is Needs.DENSE else None
        with self.study.clock("compensate"):
            kept = ~analysis.removed(selection)
            folds: list[Change] = [
                Fold.of(site, *compensation(site, kept, statistics), scratch) for site in analysis.sites
            ]
            if not isinstance(compensation, BlendingCompensation):
                return tuple(folds), ()
            folds += compensation.blends(analysis.channels, kept)
            return tuple(folds), tuple(compensation.notes(analysis.channels, kept))

    @cached_property
    def _places(self) -> CountPlaces:
        """What places count, worked out for the first candidate: all are fitted to the same batches."""
        places = Places(self.study.source.kinds, self.study.source.session)
        found: list[np.ndarray | None] = []

        def counted(feeds: Iterable[Feed], batch: int | None) -> Sequence[np.ndarray | None]:
            if not found:
                found.extend(places(feeds, batch))
            return found

        return counted

    @cached_property
    def _statistics(self) -> Statistics:
        return collected(self.study, self.data)

    @cached_property
    def _compensation(self) -> Compensation | PairedCompensation:
        options = vars(self.study.config) | {"patches": self.patches}
        return made(COMPENSATIONS[self.study.method.compensation], options)

"""From a model to a smaller one that answers almost as before: the stages in order.

``analysed``: load, gather data, find the channels. ``chosen``: collect, score, allocate. ``made``:
reconstruct, rewrite, and teach where that is asked for. ``without_misjudged`` and ``proven``: verify.
``describe``: report.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx

from onnxmerge import budgets
from onnxmerge.budgets.latency import SESSIONS
from onnxmerge.candidates import Builder, score
from onnxmerge.channels.analysis import Analysis
from onnxmerge.channels.explain import explain
from onnxmerge.channels.scope import in_scope
from onnxmerge.config import Config
from onnxmerge.data.gather import Reading, gather
from onnxmerge.decisions import decision_of, made
from onnxmerge.errors import BudgetError, InternalError, ModelError, ToleranceExceeded, UsageError
from onnxmerge.graph.external_weights import Scratch
from onnxmerge.graph.files import load
from onnxmerge.graph.output import copy_file, save
from onnxmerge.method import choose_method
from onnxmerge.plan import Plan, Selection
from onnxmerge.progress import Clock, Progress
from onnxmerge.recovery import taught, trainer
from onnxmerge.report import Inspection, Report, Sweep, describe, describe_inspection, describe_sweep
from onnxmerge.rewrite import masked
from onnxmerge.runtime import Runtime
from onnxmerge.study import Candidate, Choice, Decision, Proof, Source, Study
from onnxmerge.validation import (
    Parity,
    check_model,
    compare_latency,
    equals_mask,
    median_of_sessions,
    misjudged,
    output_kinds,
)

# The largest change on made-up inputs that is written without being asked for.
MOST_BLIND_CHANGE = 0.2


@dataclass(frozen=True, eq=False)
class Result:
    """What ``optimize`` gives back.

    Attributes:
        model: the smaller model, or the input model where nothing was removed. The weights of a large one
            are references to files that are there as long as this object is; ``save`` writes all.
        report: before and after, parity, latency, groups, what was frozen and why.
        plan: the decisions; ``optimize(model, plan=...)`` applies them again.
        unchanged_file: the input file, where it is the result as it stands.
        external: whether the weights are written beside the model, as the input had them.
        scratch: holds the weights of a large model.
    """

    model: onnx.ModelProto
    report: Report
    plan: Plan
    unchanged_file: Path | None = None
    external: bool = False
    scratch: Scratch | None = None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model, replacing an existing file at once or not at all.

        A large model whose input had external data, and any above 2 GB, gets its weights in ``<path>.data``.

        Raises:
            OutputError: the file cannot be written.
        """
        if self.unchanged_file is not None:
            copy_file(self.unchanged_file, path)
        else:
            save(self.model, path, external=self.external)


def optimize(
    model: str | os.PathLike[str] | onnx.ModelProto,
    *,
    calibration: Any = None,
    evaluation: Any = None,
    plan: Plan | None = None,
    config: Config | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Result:
    """Remove channels from a model, compensate for them, and prove what it costs.

    Args:
        model: a path or a ModelProto; it is never changed.
        calibration: a path (.npz, .npy, a folder of those or of images), an array, a dict of arrays, an
            iterable of dicts, or an onnxruntime ``CalibrationDataReader``; None: made-up inputs.
        evaluation: like ``calibration``: where parity is measured, if not on the calibration data.
        plan: decisions made before, for the same model, in the place of a budget; they are applied with the
            method and the options that made them, so the same data give the same bytes.
        config: all options at once; or give them by name: ``ratio=0.5``, ``macs=0.5``, ...
        progress: called with (stage, done, total).

    Raises:
        OnnxMergeError: one of its subclasses, see ``onnxmerge.errors``.
    """
    config = configured(config, options)
    if plan is not None:
        config = budgets.config_of_plan(config, plan.method, options)
    study = analysed(model, calibration, evaluation, config, Clock(progress))
    choice = chosen(study) if plan is None else budgets.planned(study, plan)
    decision = without_misjudged(study, made(study, choice))
    proof = proven(study, decision)
    return _result(study, decision, describe(study, decision, proof))


def inspect(
    model: str | os.PathLike[str] | onnx.ModelProto,
    *,
    config: Config | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Inspection:
    """Which channels of a model could be removed, and what stays and why; nothing is changed.

    Raises:
        OnnxMergeError: one of its subclasses, see ``onnxmerge.errors``.
    """
    config = configured(config, options | {"samples": 1})
    return describe_inspection(analysed(model, None, None, config, Clock(progress), generic=False))


def sweep(
    model: str | os.PathLike[str] | onnx.ModelProto,
    *,
    steps: Sequence[float] = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3),
    calibration: Any = None,
    evaluation: Any = None,
    config: Config | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Sweep:
    """The trade-off curve: for shares of MACs kept the measured change and latency; writes no model.

    Without evaluation data the change is measured on a part of the data that is held out. Shares that
    cannot be reached are left out.

    Raises:
        OnnxMergeError: one of its subclasses, see ``onnxmerge.errors``.
    """
    config = configured(config, options)
    if config.budget is not None:
        raise UsageError(f"a sweep has budgets of its own: leave {config.budget[0]}= out, or take optimize")
    study = analysed(model, calibration, evaluation, config, Clock(progress))
    holdout = study.holdout_of_sweep()
    scores, builder = score(study, holdout.fit), Builder.of(study, holdout.fit)
    shares = sorted({float(step) for step in steps}, reverse=True)
    points: list[tuple[Decision, Proof, Parity | None]] = []
    interrupted = False
    for number, share in enumerate(shares):
        study.clock.step("sweep", number, len(shares))
        try:
            selection = budgets.filled(study, scores, "macs", share)
        except BudgetError:
            continue
        candidate = builder.of_widths(selection)
        decision = decision_of(study, Choice(selection, holdout), candidate, candidate, "rest")
        proof, after = measured(study, decision), None
        if config.recovery is not None and not decision.unchanged and not interrupted:
            student, facts = taught(study, candidate, holdout, among=len(shares))
            after = study.parity(study.session(student), holdout.judged) if facts.taken else proof.parity
            interrupted = facts.stopped == "interrupted"
        points.append((decision, proof, after))
    return describe_sweep(study, holdout, points)


def configured(config: Config | None, options: dict[str, Any]) -> Config:
    """A configuration with some options replaced.

    Raises:
        UsageError: unknown options, or values out of range.
    """
    try:
        return replace(config or Config(), **options)
    except TypeError as error:
        raise UsageError(f"unknown option: {error}") from error


def analysed(
    model: Any, calibration: Any, evaluation: Any, config: Config, clock: Clock, *, generic: bool = True
) -> Study:
    """Load the model, gather the data, find the channels, and choose the method.

    Args:
        generic: whether generic images may stand in for data that were not given.
    """
    runtime = Runtime.create(config.device, config.threads)
    teaches = config.recovery is not None and generic
    if teaches:
        trainer()
    with clock("load"):
        loaded = load(model)
        warnings = (*check_model(loaded.proto), *([runtime.note] if runtime.note else []))
        if teaches:
            trainer().ensure_covered(loaded.proto)
        kinds = output_kinds(loaded.proto, config.output_kinds)
        source = Source(loaded, runtime.session(loaded.proto), kinds, warnings)
    with clock("data"):
        reading = Reading(config.images, config.samples, config.shapes, config.seed, generic)
        samples, plausible = gather(
            loaded.proto, source.session, runtime, calibration, evaluation, source.class_scores, reading
        )
    with clock("analyse"):
        analysis = Analysis.of(loaded, partial(runtime.trace, feed=next(iter(samples.fit.feeds(batch=1)))))
        explanation = explain(analysis.channels, analysis.cost)
        analysis = analysis.with_channels(in_scope(analysis.channels, config.scope, config.skip, config.only))
    method = choose_method(config, analysis, samples.kind)
    return Study(source, samples, plausible, analysis, explanation, method, config, runtime, clock)


def chosen(study: Study) -> Choice:
    """What the budget asks for: collect and score once, then allocate.

    Raises:
        BudgetError: the budget cannot be met.
    """
    if study.config.budget is None:
        holdout = study.holdout().for_search(study.config.seed)
        return budgets.within_tolerance(study, score(study, holdout.fit), holdout)
    kind, value = study.config.budget
    budgets.refuse_impossible(study, kind, value)
    holdout = study.holdout()
    scores = score(study, holdout.fit)
    try:
        if kind == "latency":
            return budgets.within_latency(study, scores, holdout, value)
        return budgets.within_share(study, scores, holdout, kind, value)
    except BudgetError as error:
        raise budgets.with_reasons(error, study) from error


def without_misjudged(study: Study, decision: Decision) -> Decision:
    """The decision, if what was made answers like its masked reference; else one that leaves groups whole.

    Raises:
        BudgetError: the budget cannot be met with the groups whose removal equals their mask.
    """
    if decision.unchanged:
        return decision
    cut, depth = Builder.of(study, study.samples.fit).cut, study.analysis.depth

    def agrees(candidate: Candidate) -> bool:
        reference = partial(masked, study.analysis, candidate.selection, candidate.folds)
        return equals_mask(candidate.model, reference, study.feed, study.runtime)

    def agrees_if_cut(selection: Selection) -> bool:
        # Groups that can only go together are tried when all of them are there.
        return not depth.together(selection.emptied) or agrees(cut(selection))

    with study.clock("check"):
        if agrees(decision.checked):
            return decision
        selection = decision.checked.selection
        sizes = {group.name: len(group) for group in study.analysis.channels.groups}
        distrusted = misjudged(selection, sizes, agrees_if_cut)
    if not distrusted:
        return replace(decision, unexplained=True)
    if study.config.budget is not None and not decision.choice.planned:
        return _within_budget_without(study, distrusted)
    rest = Selection({name: index for name, index in selection.keep.items() if name not in distrusted})
    if not depth.together(rest.emptied):
        rest = Selection({name: index for name, index in rest.keep.items() if len(index)})
    again = replace(decision.choice, selection=rest, replay=True, fit_on=decision.fit_on, sought=None)
    return replace(made(study, again), distrusted=tuple(distrusted))


def _within_budget_without(study: Study, distrusted: Sequence[str]) -> Decision:
    """The budget is owed all the same, and the groups that remain have to meet it."""
    rest = study.without(distrusted)
    try:
        others = without_misjudged(rest, made(rest, chosen(rest)))
    except BudgetError as error:
        names = ", ".join(repr(name) for name in distrusted)
        raise BudgetError(
            f"{error}; the groups {names} stay whole, because without them the model would not answer like "
            "its masked reference, which is a defect of onnxmerge: please report it"
        ) from error
    return replace(others, distrusted=(*distrusted, *others.distrusted))


def proven(study: Study, decision: Decision) -> Proof:
    """Check the new model, compare its answers and its speed with the input's.

    Raises:
        ToleranceExceeded: a budget or a plan was given, and the change is above the tolerance given with it;
            or, where none was given and there are no data, above what made-up inputs may show.
        InternalError: the new model is not valid.
    """
    if not decision.unchanged:
        with study.clock("check"):
            try:
                check_model(decision.candidate.model)
            except ModelError as error:
                raise InternalError(
                    f"the smaller model is not valid, nothing was written: {error}"
                ) from error
    proof = measured(study, decision)
    config, parity = study.config, proof.parity
    settled = decision.choice.planned or config.budget is not None
    if settled and config.tolerance is not None and parity.change > config.tolerance:
        raise ToleranceExceeded(
            f"the change is {parity.change:.4g}, above the tolerance of {config.tolerance:.4g} "
            f"(measured on {parity.source}); nothing was written: keep more, or allow more"
        )
    blind = (
        decision.choice.holdout.basis == "made up"
        and config.tolerance is None
        and config.compensation == "auto"
    )
    if blind and parity.change > MOST_BLIND_CHANGE:
        raise ToleranceExceeded(
            f"no data was given, and on made-up inputs the answers change by {parity.change:.0%}, more than "
            f"the {MOST_BLIND_CHANGE:.0%} that pass where nothing real can be measured; nothing was written: "
            "give real inputs with calibration=, keep more, or say with tolerance= what change you accept"
        )
    return proof


def measured(study: Study, decision: Decision) -> Proof:
    """How a decided model answers on the samples that judge, and how fast it is beside the input."""
    reference, judged = study.source.session, decision.choice.holdout.judged
    tried = reference if decision.unchanged else study.session(decision.tried)
    parity = study.parity(tried, judged)
    with study.clock("latency"):
        if study.config.latency is not None and not decision.unchanged:
            sessions = [study.latency_in_new_sessions(decision.candidate) for _ in range(SESSIONS)]
            return Proof(parity, median_of_sessions(sessions))
        if not decision.unchanged and decision.tried is not decision.candidate:
            del tried  # it holds a copy of all weights
            tried = study.session(decision.candidate)
        return Proof(parity, compare_latency(reference, tried, study.feed, seconds=0.5))


def _result(study: Study, decision: Decision, report: Report) -> Result:
    loaded, candidate = study.source.loaded, decision.candidate
    keep = {name: tuple(int(i) for i in index) for name, index in candidate.selection.keep.items()}
    method = budgets.recorded(study.method, study.config) | {"fit_on": decision.fit_on}
    if decision.recovery is None or not decision.recovery.taken:
        method["recover"] = None
    return Result(
        loaded.proto if decision.unchanged else candidate.model,
        report,
        Plan(loaded.sha256, keep, method),
        unchanged_file=loaded.path if decision.unchanged and loaded.self_contained else None,
        external=not loaded.self_contained,
        scratch=loaded.scratch if decision.unchanged else candidate.scratch,
    )

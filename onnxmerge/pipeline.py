"""From a model to a smaller one that answers almost as before: the stages in order.

``analysed``: load, gather data, find the channels. ``chosen``: collect, score, allocate. ``made``:
reconstruct, rewrite, and teach where that is asked for. ``without_misjudged`` and ``proven``: verify, and
between them ``lowered``: int8 or float16 where that is asked for. ``describe``: report.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import onnx

from onnxmerge import budgets
from onnxmerge.arguments import numbers
from onnxmerge.budgets.latency import SESSIONS
from onnxmerge.budgets.tolerance import MOST_MEASURED
from onnxmerge.candidates import Builder, score, time_of_all
from onnxmerge.channels.analysis import Analysis
from onnxmerge.channels.explain import explain
from onnxmerge.channels.scope import in_scope, without_statistics
from onnxmerge.config import Config, configured
from onnxmerge.data.gather import Reading, gather
from onnxmerge.decisions import decision_of, made
from onnxmerge.errors import BudgetError, InternalError, ModelError, UsageError
from onnxmerge.gates import refuse_excess
from onnxmerge.graph import external_weights
from onnxmerge.graph.files import load
from onnxmerge.method import choose_method
from onnxmerge.outcomes import Candidate, Choice, Decision, Proof, Recovered
from onnxmerge.plan import Plan, Selection
from onnxmerge.precision import lowered, refuse_precision
from onnxmerge.progress import Clock, Progress
from onnxmerge.recovery import taught, trainer
from onnxmerge.report import (
    Inspection,
    Sweep,
    describe,
    describe_inspection,
    describe_sweep,
)
from onnxmerge.result import Result
from onnxmerge.rewrite import masked
from onnxmerge.runtime import Runtime, Session
from onnxmerge.study import DataPaths, Source, Study
from onnxmerge.validation import (
    OwnMeasure,
    check_model,
    class_scores,
    compare_latency,
    equals_mask,
    median_of_sessions,
    misjudged,
    output_kinds,
    seen,
)


def optimize(
    model: str | os.PathLike[str] | onnx.ModelProto,
    *,
    calibration: Any = None,
    evaluation: Any = None,
    evaluate: Callable[[Any], Any] | None = None,
    plan: Plan | None = None,
    force: bool = False,
    config: Config | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Result:
    """Remove channels from a model, compensate for them, and prove what it costs.

    Args:
        model: a path or a ModelProto; it is never changed.
        calibration: a path (.npz, .npy, a folder of those or of images), an array, a dict of arrays, a
            ``Dataset``, a loader or data set (torch, Hugging Face), an iterable of dicts, tuples or arrays,
            or an onnxruntime ``CalibrationDataReader``; None: made-up inputs.
        evaluation: like ``calibration``: where parity is measured, if not on the calibration data.
        evaluate: a function of your own from an ``onnxruntime.InferenceSession`` to a score; larger is
            better, or smaller with ``lower_is_better=True``. With ``max_drop=`` a run without a budget keeps
            the drop of the score within that, and one with a budget fails above it.
        plan: decisions made before, for the same model, in the place of a budget; they are applied with the
            method and the options that made them, so the same data give the same bytes.
        force: whether a plan that was made for another file is applied where that has the same groups.
        config: all options at once; or give them by name: ``ratio=0.5``, ``macs=0.5``, ...
        progress: called with (stage, done, total).

    Raises:
        OnnxMergeError: one of its subclasses, see ``onnxmerge.errors``.
    """
    config = configured(config, options)
    if plan is not None:
        config = budgets.config_of_plan(config, plan, options)
    clock = Clock(progress)
    searches = plan is None and config.budget is None and config.max_drop is not None
    own = OwnMeasure.of(evaluate, config, clock, MOST_MEASURED + 2 if searches else 2)
    study = analysed(model, calibration, evaluation, config, clock, own=own)
    choice = chosen(study) if plan is None else budgets.planned(study, plan, force=force)
    decision = lowered(study, without_misjudged(study, made(study, choice)))
    proof = proven(study, decision)
    report = describe(study, decision, proof)
    return Result.of(study, decision, budgets.plan_of(study, decision), report)


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
    evaluate: Callable[[Any], Any] | None = None,
    config: Config | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Sweep:
    """The trade-off curve: for shares of MACs kept the measured change and latency; writes no model.

    Without evaluation data the change is measured on a part of the data that is held out. Shares that
    cannot be reached are left out, and a warning names them. ``evaluate`` is as for ``optimize``.

    Raises:
        OnnxMergeError: one of its subclasses, see ``onnxmerge.errors``.
    """
    config = configured(config, options)
    if config.budget is not None:
        raise UsageError(f"a sweep has budgets of its own: leave {config.budget[0]}= out, or take optimize")
    if config.max_drop is not None:
        raise UsageError("a sweep shows the score at every budget: leave max_drop= out, or take optimize")
    if config.precision is not None:
        raise UsageError("a sweep compares widths alone: leave precision= out, or take optimize")
    what = "shares of MACs kept, above 0 and at most 1"
    listed = numbers("steps", steps, what, lambda s: bool(s) and all(0 < share <= 1 for share in s))
    clock, shares = Clock(progress), sorted(set(listed), reverse=True)
    own = OwnMeasure.of(evaluate, config, clock, len(shares) * (1 if config.recovery is None else 2))
    study = analysed(model, calibration, evaluation, config, clock, own=own)
    holdout = study.holdout_of_sweep()
    scores, builder = score(study, holdout.fit), Builder.of(study, holdout.fit)
    points: list[tuple[Decision, Proof, Recovered | None]] = []
    beyond: dict[float, BudgetError] = {}
    teaches = config.recovery is not None
    for number, share in enumerate(shares):
        study.clock.step("sweep", number, len(shares))
        try:
            selection = budgets.filled(study, scores, "macs", share)
        except BudgetError as error:
            beyond[share] = error
            continue
        candidate = builder.of_widths(selection)
        decision = decision_of(study, Choice(selection, holdout), candidate, candidate, "rest")
        proof, after = measured(study, decision, examples=False), None
        if teaches and not decision.unchanged:
            after, teaches = _after_teaching(study, decision, proof, among=len(shares))
        points.append((decision, proof, after))
    return describe_sweep(study, holdout, points, beyond)


def _after_teaching(study: Study, decision: Decision, proof: Proof, among: int) -> tuple[Recovered, bool]:
    """How a point of a sweep answers after teaching, and whether others are to be taught, too."""
    holdout = decision.choice.holdout
    student, facts = taught(study, decision.candidate, holdout, among)
    goes_on = facts.stopped != "interrupted"
    if not facts.taken:
        return Recovered(proof.parity, proof.score), goes_on
    session = study.session(student)
    return Recovered(study.parity(session, holdout.judged), study.score(student, session)), goes_on


def analysed(
    model: Any,
    calibration: Any,
    evaluation: Any,
    config: Config,
    clock: Clock,
    *,
    generic: bool = True,
    own: OwnMeasure | None = None,
) -> Study:
    """Load the model, gather the data, find the channels, and choose the method.

    Args:
        own: the user's own measure: it gives the input its score before any work.
        generic: whether generic images may stand in for data that were not given.
    """
    runtime = Runtime.create(config.device, config.threads)
    teaches = config.recovery is not None and generic
    if teaches:
        trainer()
    with clock("load"):
        loaded = load(model)
        refuse_precision(loaded, config)
        warnings = (*check_model(loaded.proto), *runtime.notes)
        if teaches:
            trainer().ensure_covered(loaded.proto)
        kinds = output_kinds(loaded.proto, config.output_kinds)
        source = Source(loaded, runtime.session_of(loaded), kinds, warnings)
    if own is not None:
        own.begin(source.session)
    with clock("data"):
        reading = Reading(config.images, config.samples, config.shapes, config.seed, generic)
        samples, plausible = gather(
            loaded.proto, source.session, runtime, calibration, evaluation, class_scores(kinds), reading
        )
        source = replace(source, kinds=seen(source.kinds, loaded.proto, source.session, samples.fit))
        external_weights.trim()
    with clock("analyse"):
        analysis = Analysis.of(loaded, partial(runtime.trace, feed=next(iter(samples.fit.feeds(batch=1)))))
        explanation = explain(analysis.channels, analysis.cost)
        analysis = analysis.with_channels(in_scope(analysis.channels, config.scope, config.skip, config.only))
    method = choose_method(config, analysis, samples.kind)
    if not method.refits and generic:  # which data there will be, an inspection does not know
        analysis = analysis.with_channels(without_statistics(analysis.channels))
    paths = DataPaths.of(calibration, evaluation)
    return Study(
        source, samples, plausible, analysis, explanation, method, config, runtime, clock, paths, own
    )


def chosen(study: Study) -> Choice:
    """What the budget asks for: collect and score once, then allocate.

    Raises:
        BudgetError: the budget cannot be met.
    """
    if study.config.budget is None:
        holdout = study.holdout().for_search(study.config.seed)
        scores = score(study, holdout.fit)
        return replace(budgets.within_tolerance(study, scores, holdout), order=scores.best_first())
    kind, value = study.config.budget
    budgets.refuse_impossible(study, kind, value)
    holdout = study.holdout()
    scores = score(study, holdout.fit)
    try:
        if kind == "latency":
            choice = budgets.within_latency(study, scores, holdout, value)
        else:
            choice = budgets.within_share(study, scores, holdout, kind, value)
    except BudgetError as error:
        raise budgets.with_reasons(error, study) from error
    return replace(choice, order=scores.best_first())


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
        ToleranceExceeded: a budget or a plan was given, and the change is above the tolerance given with it,
            or the drop of the user's own score above the largest one; or, where neither was given and there
            are no data, the change is above what made-up inputs may show.
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
    proof = measured(study, decision, examples=True)
    if decision.lowered is not None:
        proof = replace(proof, before=measured(study, decision.lowered.before, examples=False))
    removed = study.analysis.removed(decision.candidate.selection).any()
    if study.analysis.lighter and not decision.unchanged and (removed or decision.lowered is not None):
        known = decision.choice.all_channels
        proof = replace(proof, all_channels=time_of_all(study) if known is None else known)
    refuse_excess(study, decision, proof)
    return proof


def measured(study: Study, decision: Decision, *, examples: bool) -> Proof:
    """How a decided model answers on the samples that judge, and how fast it is beside the input.

    Args:
        examples: whether to name the samples that changed most.
    """
    reference, judged = study.source.session, decision.choice.holdout.judged
    tried = reference if decision.unchanged else study.session(decision.tried)
    parity = study.parity(tried, judged)
    score = _score(study, decision, tried)
    changed = study.most_changed(tried, judged, parity) if examples else ()
    with study.clock("latency"):
        if study.config.latency is not None and not decision.unchanged:
            sessions = [study.latency_in_new_sessions(decision.candidate) for _ in range(SESSIONS)]
            return Proof(parity, median_of_sessions(sessions), score, most_changed=changed)
        if not decision.unchanged and decision.tried is not decision.candidate:
            del tried  # it holds a copy of all weights
            tried = study.session(decision.candidate)
        latency = compare_latency(reference, tried, study.feed, seconds=0.5)
        return Proof(parity, latency, score, most_changed=changed)


def _score(study: Study, decision: Decision, tried: Session) -> float | None:
    """The user's own score of what is written; None without a measure."""
    candidate = decision.candidate
    if decision.unchanged or study.own is None:
        return None if study.own is None else study.own.before
    return study.score(candidate, tried if candidate is decision.tried else study.session(candidate))

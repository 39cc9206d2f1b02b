"""From a model to a smaller one that answers almost as before: the stages in order.

``optimize`` is the whole story: prepare (load, data, analyse), decide (score, select, compensate,
rewrite, at one budget or searching for one), prove (check, parity, latency), describe.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from onnxmerge.calibration import Dataset
from onnxmerge.clock import Clock, Progress
from onnxmerge.config import DEFAULT_TOLERANCE, Config
from onnxmerge.deadline import SESSIONS, within_latency
from onnxmerge.errors import InternalError, ModelError, ToleranceExceeded, UsageError
from onnxmerge.graph.output import copy_file, save
from onnxmerge.graph.weights import Scratch
from onnxmerge.method import as_planned, recorded
from onnxmerge.plan import Plan, Selection
from onnxmerge.preparation import prepare
from onnxmerge.recipe import Candidate, Recipe
from onnxmerge.reference import trusted
from onnxmerge.report import Report, describe, describe_inspection, describe_sweep
from onnxmerge.search import Found, search
from onnxmerge.stages import Decision, Prepared, Proof
from onnxmerge.validation import Latency, Parity, check_model, compare_latency, middle


@dataclass(frozen=True, eq=False)
class Result:
    """What ``optimize`` gives back.

    Attributes:
        model: the smaller model, or the input model where nothing was removed. The weights of a large
            one are references to files that are there as long as this object is; ``save`` writes all.
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
        config = as_planned(config, plan.method, options)
    clock = Clock(progress)
    prepared = prepare(model, calibration, evaluation, config, clock)
    decision = decide(prepared, plan)
    proof = prove(prepared, decision)
    report = describe(prepared, decision, proof)
    kept = {name: tuple(int(i) for i in keep) for name, keep in decision.candidate.selection.keep.items()}
    method = recorded(prepared.method, config) | {"fit_on": decision.fit_on}
    unchanged_file = prepared.loaded.path if decision.unchanged and prepared.loaded.self_contained else None
    output = prepared.loaded.proto if decision.unchanged else decision.candidate.model
    return Result(
        output,
        report,
        Plan(prepared.loaded.sha256, kept, method),
        unchanged_file,
        external=not prepared.loaded.self_contained,
        scratch=prepared.loaded.scratch if decision.unchanged else decision.candidate.scratch,
    )


def inspect(
    model: str | os.PathLike[str] | onnx.ModelProto,
    *,
    config: Config | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Report:
    """Which channels of a model could be removed, and what stays and why; nothing is changed.

    Raises:
        OnnxMergeError: one of its subclasses, see ``onnxmerge.errors``.
    """
    config = configured(config, options | {"samples": 1})
    return describe_inspection(prepare(model, None, None, config, Clock(progress), generic=False))


def sweep(
    model: str | os.PathLike[str] | onnx.ModelProto,
    *,
    steps: Sequence[float] = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3),
    calibration: Any = None,
    evaluation: Any = None,
    config: Config | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Report:
    """The trade-off curve: for shares of MACs kept the measured change and latency; writes no model.

    Without evaluation data the change is measured on a part of the data that is held out. Shares that
    cannot be reached are left out.

    Raises:
        OnnxMergeError: one of its subclasses, see ``onnxmerge.errors``.
    """
    config = configured(config, options)
    clock = Clock(progress)
    prepared = prepare(model, calibration, evaluation, config, clock)
    fit, held_out = (
        (prepared.data, prepared.evaluation)
        if prepared.evaluation is not None
        else prepared.data.split(seed=config.seed)
    )
    recipe = prepared.recipe(fit)
    points = []
    for number, share in enumerate(sorted({float(s) for s in steps}, reverse=True)):
        clock.step("sweep", number, len(steps))
        if share >= recipe.smallest("macs"):
            candidate = recipe.at("macs", share)
            decision = Decision(candidate, held_out, None, unchanged=False)
            points.append((decision, prove(prepared, decision)))
    return describe_sweep(prepared, points)


def configured(config: Config | None, options: dict[str, Any]) -> Config:
    """A configuration with some options replaced.

    Raises:
        UsageError: unknown options, or values out of range.
    """
    try:
        return replace(config or Config(), **options)
    except TypeError as error:
        raise UsageError(f"unknown option: {error}") from error


def decide(prepared: Prepared, plan: Plan | None) -> Decision:
    """The candidate of the plan or the budget, or the smallest one within the tolerance."""
    config, subject = prepared.config, prepared.subject
    recipe = prepared.recipe()
    found, fit_on = None, "all"
    data = prepared.evaluation or prepared.data
    if plan is not None:
        fit_on = str(plan.method.get("fit_on", "all"))
        if fit_on == "part":
            recipe = prepared.recipe(prepared.data.split(seed=config.seed)[0])
        candidate = recipe.of(_checked(plan, prepared))
    elif config.latency is not None:
        candidate = _fast_enough(prepared, recipe, config.latency)
    elif config.budget is not None:
        candidate = recipe.at(*config.budget)
    else:
        fit, held_out = prepared.data.split(seed=config.seed)
        data = prepared.evaluation or held_out
        candidate, found = _search(prepared, recipe, fit, held_out)
        if found is not None and candidate is found.candidate:
            recipe, fit_on = prepared.recipe(fit), "part"
    distrusted: list[str] = []
    if subject.removed(candidate.selection).any():
        with prepared.clock("check"):
            candidate, distrusted = trusted(recipe, candidate, next(iter(prepared.data.feeds(batch=1))))
    unchanged = not subject.removed(candidate.selection).any()
    predicted = None if config.latency is None else recipe.share("latency", candidate.selection)
    return Decision(
        candidate,
        data,
        found,
        unchanged,
        tuple(distrusted),
        planned=plan is not None,
        predicted=predicted,
        shortfall=None if config.budget is None else recipe.shortfall(*config.budget, candidate.selection),
        fit_on=fit_on,
    )


def _search(
    prepared: Prepared, recipe: Recipe, fit: Dataset, held_out: Dataset
) -> tuple[Candidate, Found | None]:
    """Search on a part of the data, rebuild with all of it; the part's candidate where that falls outside."""
    tolerance = DEFAULT_TOLERANCE if prepared.config.tolerance is None else prepared.config.tolerance

    def change(candidate: Candidate) -> Parity:
        return prepared.parity(prepared.session(candidate), held_out)

    found = search(prepared.recipe(fit), change, tolerance, prepared.clock)
    if found is None:
        return recipe.of(Selection({})), None
    candidate = recipe.of_widths(found.candidate.selection)
    return (candidate if change(candidate).change <= tolerance else found.candidate), found


def _fast_enough(prepared: Prepared, recipe: Recipe, goal: float) -> Candidate:
    def share(candidate: Candidate) -> float:
        with prepared.clock("latency"):
            return _in_new_sessions(prepared, candidate, prepared.data).ratio

    return recipe.of_widths(within_latency(recipe, share, goal, prepared.clock.step).selection)


def _in_new_sessions(prepared: Prepared, candidate: Candidate, data: Dataset) -> Latency:
    """Times of the input and of a candidate; one session of either may be slow as long as it lives."""
    before, after = prepared.runtime.session(prepared.loaded.proto), prepared.session(candidate)
    return compare_latency(before, after, next(iter(data.feeds(batch=1))), seconds=0.3)


def _checked(plan: Plan, prepared: Prepared) -> Selection:
    if plan.fingerprint != prepared.loaded.sha256:
        raise UsageError("the plan belongs to another model: its fingerprint differs")
    sizes = {group.name: len(group) for group in prepared.subject.channels.groups}
    for name, keep in plan.keep.items():
        if name not in sizes:
            raise UsageError(f"the plan names the group '{name}', which this model does not have")
        if not keep or min(keep) < 0 or max(keep) >= sizes[name]:
            raise UsageError(f"the plan keeps none or unknown channels of '{name}', which has {sizes[name]}")
    return plan.selection


def prove(prepared: Prepared, decision: Decision) -> Proof:
    """Check the new model, compare its answers and its speed with the input's.

    Raises:
        ToleranceExceeded: a budget was given with a tolerance, and the change is above it.
        InternalError: the new model is not valid.
    """
    config, clock = prepared.config, prepared.clock
    session = prepared.reference
    if not decision.unchanged:
        with clock("check"):
            try:
                check_model(decision.candidate.model)
            except ModelError as error:
                raise InternalError(
                    f"the smaller model is not valid, nothing was written: {error}"
                ) from error
            session = prepared.session(decision.candidate)
    parity = prepared.parity(session, decision.data)
    if config.budget is not None and config.tolerance is not None and parity.change > config.tolerance:
        raise ToleranceExceeded(
            f"the change is {parity.change:.4g}, above the tolerance of {config.tolerance:.4g} "
            f"(measured on {parity.source}); nothing was written: keep more, or allow more"
        )
    with clock("latency"):
        if config.latency is not None and not decision.unchanged:
            latency = middle(
                [_in_new_sessions(prepared, decision.candidate, decision.data) for _ in range(SESSIONS)]
            )
        else:
            feed = next(iter(decision.data.feeds(batch=1)))
            latency = compare_latency(prepared.reference, session, feed, seconds=0.5)
    return Proof(parity, latency)

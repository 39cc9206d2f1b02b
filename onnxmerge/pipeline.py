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

from onnxmerge.budgets import decide, in_new_sessions
from onnxmerge.config import Config
from onnxmerge.deadline import SESSIONS
from onnxmerge.errors import InternalError, ModelError, ToleranceExceeded, UsageError
from onnxmerge.graph.external_weights import Scratch
from onnxmerge.graph.output import copy_file, save
from onnxmerge.method import as_planned, recorded
from onnxmerge.plan import Plan
from onnxmerge.preparation import prepare
from onnxmerge.progress import Clock, Progress
from onnxmerge.report import Report, describe, describe_inspection, describe_sweep
from onnxmerge.stages import SEARCHED, Decision, Prepared, Proof, Trial
from onnxmerge.validation import check_model, compare_latency, middle

# The largest change on made-up inputs that is written without being asked for.
MOST_BLIND_CHANGE = 0.2


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
    trial = Trial.of(prepared, *SEARCHED)
    recipe = prepared.recipe(trial.fit)
    points = []
    for number, share in enumerate(sorted({float(s) for s in steps}, reverse=True)):
        clock.step("sweep", number, len(steps))
        if share >= recipe.smallest("macs"):
            candidate = recipe.at("macs", share)
            decision = Decision(candidate, trial, candidate, None, unchanged=False)
            points.append((decision, measured(prepared, decision)))
    return describe_sweep(prepared, trial, points)


def configured(config: Config | None, options: dict[str, Any]) -> Config:
    """A configuration with some options replaced.

    Raises:
        UsageError: unknown options, or values out of range.
    """
    try:
        return replace(config or Config(), **options)
    except TypeError as error:
        raise UsageError(f"unknown option: {error}") from error


def prove(prepared: Prepared, decision: Decision) -> Proof:
    """Check the new model, compare its answers and its speed with the input's.

    Raises:
        ToleranceExceeded: a budget or a plan was given, and the change is above the tolerance given with it;
            or, where none was given and there are no data, above what made-up inputs may show.
        InternalError: the new model is not valid.
    """
    if not decision.unchanged:
        with prepared.clock("check"):
            try:
                check_model(decision.candidate.model)
            except ModelError as error:
                raise InternalError(
                    f"the smaller model is not valid, nothing was written: {error}"
                ) from error
    proof = measured(prepared, decision)
    config, parity = prepared.config, proof.parity
    settled = decision.planned or config.budget is not None
    if settled and config.tolerance is not None and parity.change > config.tolerance:
        raise ToleranceExceeded(
            f"the change is {parity.change:.4g}, above the tolerance of {config.tolerance:.4g} "
            f"(measured on {parity.source}); nothing was written: keep more, or allow more"
        )
    blind = decision.trial.basis == "made up" and config.tolerance is None and config.compensation == "auto"
    if blind and parity.change > MOST_BLIND_CHANGE:
        raise ToleranceExceeded(
            f"no data was given, and on made-up inputs the answers change by {parity.change:.0%}, more than "
            f"the {MOST_BLIND_CHANGE:.0%} that pass where nothing real can be measured; nothing was written: "
            "give real inputs with calibration=, keep more, or say with tolerance= what change you accept"
        )
    return proof


def measured(prepared: Prepared, decision: Decision) -> Proof:
    """How a decided model answers on its trial's samples, and how fast it is beside the input."""
    same = decision.unchanged
    tried = prepared.reference if same else prepared.session(decision.tried)
    parity = prepared.parity(tried, decision.trial.judged)
    with prepared.clock("latency"):
        if prepared.config.latency is not None and not same:
            made, judged = decision.candidate, decision.trial.judged
            latency = middle([in_new_sessions(prepared, made, judged) for _ in range(SESSIONS)])
        else:
            own = same or decision.tried is decision.candidate
            written = tried if own else prepared.session(decision.candidate)
            feed = next(iter(decision.trial.judged.feeds(batch=1)))
            latency = compare_latency(prepared.reference, written, feed, seconds=0.5)
    return Proof(parity, latency)

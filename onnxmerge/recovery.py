"""The last stage before the proof, where it is asked for: the candidate is taught by the original."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import Any

from onnxmerge.candidates import Builder
from onnxmerge.errors import UsageError
from onnxmerge.study import Decision, Recovered, Study

# Without a bound, teaching takes so many times as long as the rest of the run, and at most so long.
RECOVERY_TIMES, MOST_RECOVERY_SECONDS = 5.0, 600.0
# Of the samples that may be learned from, those that decide what is learned: the share, the fewest, and the
# largest share.
CHECKED = (0.15, 32, 0.25)


def recovered(study: Study, decision: Decision) -> Decision:
    """The decision with its candidate taught by the original, where that is asked for and helps.

    Nothing that judges the result is learned from; a part of what is left decides what is learned.
    """
    recovery = study.config.recovery
    if recovery is None or decision.unchanged:
        return decision
    teach, held_out = decision.holdout.fit.split(*CHECKED, seed=study.config.seed)
    if held_out is teach:
        return decision
    if recovery.steps is None and recovery.seconds is None:
        spent = sum(study.clock.seconds.values())
        recovery = replace(recovery, seconds=min(RECOVERY_TIMES * spent, MOST_RECOVERY_SECONDS))
    with study.clock("recover"):
        found = trainer().recover(
            study.source.loaded.proto,
            decision.tried.model,
            teach,
            held_out,
            recovery,
            images=study.colour_images(),
            threads=study.runtime.threads,
            seed=study.config.seed,
            device=study.runtime.device,
            progress=study.clock.step,
        )
    names = ("taken", "error_before", "error_after", "steps", "seconds", "learning_rate", "stopped")
    facts = {name: getattr(found, name) for name in names}
    outcome = Recovered(**facts, taught_on=len(teach), held_out=len(held_out))
    if found.taken:
        taught = replace(decision.tried, model=found.model)
        return replace(decision, candidate=taught, tried=taught, recovered=outcome)
    if decision.fit_on == "rest":
        # Nothing was taught: what is written is fitted to all of the data, as without recovery.
        everything = Builder.of(study, study.samples.fit).of_widths(decision.candidate.selection)
        return replace(decision, candidate=everything, fit_on="all", recovered=outcome)
    return replace(decision, recovered=outcome)


def trainer() -> Any:
    """The module that teaches: it needs torch, and is loaded where it is asked for and nowhere else.

    Raises:
        UsageError: torch is not installed.
    """
    try:
        return import_module("onnxmerge.train.recovery")
    except ImportError as error:
        raise UsageError(
            f'recover= needs torch, which cannot be imported ({error}): pip install "onnxmerge[train]"'
        ) from error

"""Where it is asked for, a candidate is taught by the original: the stage between rewriting and the proof."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from math import nan
from typing import Any

from onnxmerge.data.holdout import CHECKING, Holdout
from onnxmerge.errors import UsageError
from onnxmerge.outcomes import Candidate, RecoveryFacts
from onnxmerge.study import Study

# Without a bound, teaching takes so many times as long as the rest of the run, and at most so long.
RECOVERY_TIMES, MOST_RECOVERY_SECONDS = 5.0, 600.0


def taught(
    study: Study, student: Candidate, holdout: Holdout, among: int = 1
) -> tuple[Candidate, RecoveryFacts]:
    """A candidate after teaching, or as it was where that is not better; and what came of it.

    Nothing that judges the result is learned from; a part of what is left, which the student may have been
    fitted to, decides what is learned.

    Args:
        among: how many candidates share the time there is by default.
    """
    recovery = study.config.recovery
    assert recovery is not None, "nobody asked for it"
    teach, held_out = holdout.fit.split(*CHECKING, seed=study.config.seed)
    if held_out is teach:
        return student, RecoveryFacts(False, nan, nan, 0, 0, 0.0, nan, "too few inputs", len(teach), 0)
    if recovery.steps is None and recovery.seconds is None:
        spent = sum(seconds for stage, seconds in study.clock.seconds.items() if stage != "recover")
        recovery = replace(recovery, seconds=min(RECOVERY_TIMES * spent, MOST_RECOVERY_SECONDS) / among)
    with study.clock("recover"):
        found = trainer().recover(
            study.source.loaded.whole(),
            student.model,
            teach,
            held_out,
            recovery,
            images=study.colour_images(),
            threads=study.runtime.threads,
            seed=study.config.seed,
            device=study.runtime.device,
            progress=study.clock.step,
        )
    names = ("taken", "error_before", "error_after", "steps", "batch", "seconds", "learning_rate", "stopped")
    facts = {name: getattr(found, name) for name in names}
    outcome = RecoveryFacts(**facts, taught_on=len(teach), held_out=len(held_out))
    return (replace(student, model=found.model) if found.taken else student), outcome


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

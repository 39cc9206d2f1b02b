"""Everything that can go wrong, as one tree: what happened, where, and what to do about it.

Each class carries the exit code that the command line ends with, so that a pipeline can tell
a bad file from a budget that cannot be met without reading the message.
"""

from __future__ import annotations

import traceback
from pathlib import Path


class OnnxMergeError(Exception):
    """Base of all errors of this package. The message is one sentence that a user can act on."""

    exit_code = 1


class UsageError(OnnxMergeError):
    """Options or arguments that contradict each other or are out of range."""

    exit_code = 2


class ModelError(OnnxMergeError):
    """The input model cannot be read, checked or run."""

    exit_code = 3


class CalibrationError(OnnxMergeError):
    """The calibration or evaluation data does not fit the model."""

    exit_code = 4


class BudgetError(OnnxMergeError):
    """The budget cannot be met; the message says what is reachable."""

    exit_code = 5


class ToleranceExceeded(OnnxMergeError):
    """The measured change exceeds the tolerance given with a budget, or the most that a comparison allows."""

    exit_code = 6


class OutputError(OnnxMergeError):
    """The output or the report cannot be written."""

    exit_code = 7


class DeviceError(OnnxMergeError):
    """The device that was asked for does not run here."""

    exit_code = 8


class InternalError(OnnxMergeError):
    """A rewritten model failed its own checks: a defect of onnxmerge, and nothing was written."""

    exit_code = 9


class TrainingError(OnnxMergeError):
    """Training diverged: the loss is not finite, or beyond all measure."""

    exit_code = 10


class LatencyExceeded(OnnxMergeError):
    """A comparison found the second model to take more of the first one's time than it may."""

    exit_code = 11


class EvaluationError(OnnxMergeError):
    """The user's own measure raised an error, or gave no number."""

    exit_code = 12


def in_one_line(error: BaseException) -> str:
    """An error of somebody else's code in one line: its type, what it says, and where it was raised."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    said = " ".join(str(error).split())[:300].rstrip(". ")
    return f"{type(error).__name__}{': ' if said else ''}{said} ({Path(last.filename).name}:{last.lineno})"

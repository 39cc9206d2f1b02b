"""What an application is: a package's own client code around one ONNX file, and the measure of its task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import onnxruntime


@dataclass(frozen=True)
class Case:
    """What the client is given, and what is true of it; None where the original's own answer is the truth."""

    given: Any
    truth: Any = None


class Client(Protocol):
    """A package's client, running on one thread with a model of ours in the place of its own."""

    session: onnxruntime.InferenceSession

    def __call__(self, given: Any) -> Any:
        """The client's answer."""
        ...


class Application(Protocol):
    """A package with a model in it.

    Attributes:
        name: as it stands in the table.
        packages: what pip installs.
        without_dependencies: packages whose dependencies are too heavy and not needed here.
        metric: the measure of the task; higher is better.
        unit: what a full score is: 100 for shares in percent, 1 for F1.
        told_by: the original's own answers, or labels.
        calibration: how many cases are recorded.
    """

    name: str
    packages: Sequence[str]
    without_dependencies: Sequence[str]
    metric: str
    unit: float
    told_by: str
    calibration: int

    def model(self) -> Path:
        """The file in the installed package."""
        ...

    def client(self, model: Path) -> Client: ...

    def cases(self, count: int, seed: int) -> list[Case]:
        """Cases drawn at random; other seeds give other cases."""
        ...

    def score(self, answers: Sequence[Any], truths: Sequence[Any]) -> float:
        """The measure, 0..unit."""
        ...


def one_thread() -> onnxruntime.SessionOptions:
    """Options of sessions that are timed and judged."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return options


def session(model: Path) -> onnxruntime.InferenceSession:
    """A session on one thread."""
    return onnxruntime.InferenceSession(str(model), one_thread(), providers=["CPUExecutionProvider"])

"""Any two models with the same inputs and outputs, compared: pruned or not, by whatever tool.

The first one is the reference. Nothing is fitted, so all data judge.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import onnx

from onnxmerge.channels.analysis import Analysis
from onnxmerge.config import Config, configured
from onnxmerge.data import Dataset, holds_images
from onnxmerge.data.dataset import mixture
from onnxmerge.data.gather import MADE_UP_SAMPLES, Reading, gather
from onnxmerge.data.generic import Plausible
from onnxmerge.data.holdout import Holdout, Samples
from onnxmerge.data.model_inputs import fixed_batch
from onnxmerge.errors import ModelError, OnnxMergeError
from onnxmerge.graph.constants import operators
from onnxmerge.graph.files import LoadedModel, load
from onnxmerge.progress import Clock, Progress
from onnxmerge.report import Comparison, describe_comparison
from onnxmerge.report.facts import ModelFacts
from onnxmerge.runtime import Runtime, Session
from onnxmerge.runtime.session import Feed
from onnxmerge.runtime.tensor_info import TensorInfo
from onnxmerge.study import DataPaths
from onnxmerge.validation import (
    Judgement,
    Latency,
    check_model,
    class_scores,
    compare_latency,
    measure,
    median_of_sessions,
    output_kinds,
    seen,
    worst,
)

# One session may be slower than another of the same model as long as it lives.
SESSIONS = 3

Model = str | os.PathLike[str] | onnx.ModelProto | LoadedModel


@dataclass(frozen=True, eq=False)
class _Side:
    """One of the two models, running.

    Attributes:
        name: what messages call it.
        warnings: what its check found.
    """

    name: str
    loaded: LoadedModel
    session: Session
    warnings: tuple[str, ...]


def compare(
    first: Model,
    second: Model,
    *,
    calibration: Any = None,
    config: Config | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Comparison:
    """How a model answers beside another one with the same inputs and outputs, how large and how fast it is.

    Args:
        first: the reference: a path or a ModelProto.
        second: what is compared with it.
        calibration: inputs to compare on, in any form that ``optimize`` takes; all of them count unless
            ``samples=`` is given. None: photographs or made-up inputs stand in, and the result says so.
        config: all options at once; or give them by name: ``images``, ``output_kinds``, ``threads``, ...
        progress: called with (stage, done, total).

    Raises:
        ModelError: a model cannot be read or run, or their inputs and outputs differ.
        OnnxMergeError: another of its subclasses, see ``onnxmerge.errors``.
    """
    every = "samples" not in options and (config is None or config.samples == Config().samples)
    config, clock = configured(config, options), Clock(progress)
    most = None if every else config.samples
    runtime = Runtime.create(config.device, config.threads)
    with clock("load"):
        reference, other = _side("first", first, runtime), _side("second", second, runtime)
        notes = _ensure_comparable(reference, other)
        kinds = output_kinds(reference.loaded.proto, config.output_kinds)
    with clock("data"):
        samples, plausible = _gathered(reference, calibration, most, config, runtime, kinds)
        # As a run judges them: what an output is may show in what the reference answers.
        kinds = seen(kinds, reference.loaded.proto, reference.session, samples.fit)
        holdout = _compared_on(samples, most, config, given=calibration is not None)
        holdout = replace(holdout, judged=_in_batches_of(other.session, holdout.judged))
    feed = next(iter(holdout.judged.feeds(batch=1)))
    with clock("parity"):
        parts = holdout.judged.parts()
        parity = worst([measure(reference.session, other.session, part, kinds, clock.step) for part in parts])
    with clock("latency"):
        latency = _latency(reference, other, feed, runtime, clock)
    with clock("analyse"):
        first_facts, second_facts = (_facts(side, feed, runtime) for side in (reference, other))
    return describe_comparison(
        first_facts,
        second_facts,
        parity,
        latency,
        holdout,
        plausible,
        config.as_dict() | {"samples": most} | asdict(DataPaths.of(calibration, None)),
        [*notes, *reference.warnings, *other.warnings, *runtime.notes, *samples.notes],
        clock,
    )


def _side(place: str, model: Model, runtime: Runtime) -> _Side:
    name = f"{model}" if isinstance(model, str | os.PathLike) else f"the {place} model"
    with _about(name):
        loaded = model if isinstance(model, LoadedModel) else load(model)
        session = runtime.session_of(loaded)
        try:
            warnings = check_model(loaded.proto)
        except ModelError as error:
            # Some converters write nodes out of order. What runs can be compared.
            warnings = [f"{error}; onnxruntime runs it all the same"]
        return _Side(name, loaded, session, tuple(f"{name}: {warning}" for warning in warnings))


@contextmanager
def _about(name: str) -> Iterator[None]:
    """Errors within the block say which model they are about."""
    try:
        yield
    except OnnxMergeError as error:
        raise error if name in str(error) else type(error)(f"{name}: {error}") from error


def _ensure_comparable(reference: _Side, other: _Side) -> list[str]:
    """What to know of outputs that only one model has. Raises ModelError where the two cannot be compared."""
    for what in ("inputs", "outputs"):
        mine, theirs = (_by_name(getattr(side.session, what)) for side in (reference, other))
        missing = [name for name in mine if name not in theirs]
        extra = [name for name in theirs if name not in mine]
        if missing or (extra and what == "inputs"):
            raise ModelError(
                f"the models cannot be compared: the {what} of {reference.name} are {', '.join(mine)}, "
                f"those of {other.name} are {', '.join(theirs)}; export them with the same names"
            )
        for name, info in mine.items():
            if info.kind != theirs[name].kind and what == "inputs":
                raise ModelError(
                    f"the models cannot be compared: the input '{name}' is a {info.kind} in "
                    f"{reference.name}, and a {theirs[name].kind} in {other.name}; keep the types of inputs "
                    "where you convert"
                )
    return [f"{other.name} has outputs that were not compared: {', '.join(extra)}"] if extra else []


def _by_name(values: tuple[TensorInfo, ...]) -> dict[str, TensorInfo]:
    return {value.name: value for value in values}


def _gathered(
    reference: _Side,
    calibration: Any,
    most: int | None,
    config: Config,
    runtime: Runtime,
    kinds: dict[str, Judgement],
) -> tuple[Samples, Plausible | None]:
    """The data; ``most`` bounds the samples of those that were given."""
    # Of what stands in, only what would judge a run is used, and that has its own size.
    count = MADE_UP_SAMPLES if calibration is None else most
    reading = Reading(config.images, count, config.shapes, config.seed, apart=False)
    # Folders of images may have to be read under several conventions; then all of them are to judge.
    again = calibration if holds_images(calibration) else None
    loaded, session = reference.loaded, reference.session
    return gather(loaded.proto, session, runtime, calibration, again, class_scores(kinds), reading)


def _compared_on(samples: Samples, most: int | None, config: Config, *, given: bool) -> Holdout:
    """What is compared on; ``most`` bounds the samples of data that were given."""
    found = Holdout.of(samples, config.seed, fits=False)
    if not given:
        return found
    if most is not None:
        # The same images under every convention.
        parts = [part.take(most, config.seed) for part in found.judged.parts()]
        found = replace(found, judged=mixture(parts))
    return replace(found, basis="compared")


def _in_batches_of(session: Session, data: Dataset) -> Dataset:
    """The data in the batches that the other model takes, too."""
    fixed = fixed_batch(session.inputs)
    if fixed is None or fixed == data.batch or data.ready is not None:
        return data
    if data.batch is not None:
        raise ModelError(f"the models take batches of {data.batch} and of {fixed}: export them alike")
    return replace(data, batch=fixed)


def _latency(reference: _Side, other: _Side, feed: Feed, runtime: Runtime, clock: Clock) -> Latency:
    """Times of both by turns, in several new sessions of both."""
    found = [compare_latency(reference.session, other.session, feed, seconds=0.5)]
    if not found[0].in_turn:  # models that do not fit into memory together are timed at length already
        return found[0]
    for number in range(1, SESSIONS):
        clock.step("latency", number, SESSIONS)
        before, after = (runtime.session_of(side.loaded) for side in (reference, other))
        found.append(compare_latency(before, after, feed, seconds=0.5))
    return median_of_sessions(found)


def _facts(side: _Side, feed: Feed, runtime: Runtime) -> ModelFacts:
    with _about(side.name):
        cost = Analysis.of(side.loaded, partial(runtime.trace, feed=feed)).cost
    loaded = side.loaded
    name = None if loaded.path is None else loaded.path.name
    return ModelFacts(cost.params, cost.macs, loaded.bytes, loaded.sha256, operators(loaded.proto), name)

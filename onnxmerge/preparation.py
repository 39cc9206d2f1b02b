"""The first stage: read the model and the data, find the channels, choose the methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx

from onnxmerge.calibration import Dataset, Plausible, generic_dataset, made_up_inputs, read_calibration
from onnxmerge.channels.explain import explain
from onnxmerge.channels.scope import in_scope
from onnxmerge.clock import Clock
from onnxmerge.config import Config
from onnxmerge.errors import ModelError
from onnxmerge.graph.io import load
from onnxmerge.method import choose_method
from onnxmerge.runtime import Runtime, Session
from onnxmerge.stages import Prepared
from onnxmerge.subject import Subject
from onnxmerge.validation import check_model, output_kinds

# Made-up inputs prove little; more of them would not prove more.
MADE_UP_SAMPLES = 64


def prepare(
    model: Any,
    calibration: Any,
    evaluation: Any,
    config: Config,
    clock: Clock,
    *,
    generic: bool = True,
) -> Prepared:
    """Read the model and the data, and find the channels.

    Args:
        generic: whether generic images may stand in for data that were not given.
    """
    runtime = Runtime.create(config.device, config.threads)
    with clock("load"):
        loaded = load(model)
        warnings = check_model(loaded.proto)
        reference = runtime.session(loaded.proto)
        kinds = output_kinds(loaded.proto, config.output_kinds)
    with clock("data"):
        scores = [name for name, judged in kinds.items() if judged.kind == "classes"]
        found = _data(loaded.proto, reference, calibration, config, runtime, generic, scores)
        data = found.fit
        judged = found.fresh if evaluation is None else _read(reference, evaluation, config, None)
    with clock("analyse"):
        subject = Subject.of(loaded, next(iter(data.feeds(batch=1))), runtime)
        explanation = explain(subject.channels, subject.cost)
        channels = in_scope(subject.channels, config.scope, config.skip, config.only)
    notes = (*warnings, *([runtime.note] if runtime.note else []))
    return Prepared(
        loaded=loaded,
        reference=reference,
        kinds=kinds,
        data=data,
        data_kind=found.kind,
        plausible=found.plausible,
        evaluation=judged,
        evaluation_given=evaluation is not None,
        method=choose_method(config, channels, found.kind),
        subject=subject.with_channels(channels),
        explanation=explanation,
        config=config,
        runtime=runtime,
        clock=clock,
        warnings=notes,
    )


@dataclass(frozen=True)
class _Data:
    """Data for the fit, and others of the same kind that nothing is fitted to; None of what a user gave."""

    fit: Dataset
    kind: str
    fresh: Dataset | None = None
    plausible: Plausible | None = None


def _data(
    proto: onnx.ModelProto,
    reference: Session,
    calibration: Any,
    config: Config,
    runtime: Runtime,
    generic: bool,
    scores: Sequence[str],
) -> _Data:
    """What the user gave, else generic images where they fit, else made-up inputs."""
    if calibration is not None:
        return _Data(_read(reference, calibration, config, config.samples), "given")
    given = (config.images, config.samples, config.seed, config.shapes, scores)
    images = generic_dataset(proto, reference.inputs, runtime, *given) if generic else None
    if images is not None:
        return _Data(images.fit, "generic", images.fresh, images.plausible)
    fit, fresh = (
        made_up_inputs(proto, reference.inputs, config.shapes, seed, MADE_UP_SAMPLES, runtime)
        for seed in (config.seed, config.seed + 1)
    )
    return _Data(fit, "made up", fresh)


def _read(reference: Session, what: Any, config: Config, samples: int | None) -> Dataset:
    """Data for the model; where the graph fixes a batch size that its inputs do not show, one by one."""
    data = read_calibration(what, reference.inputs, config.images, samples, config.seed)
    if data.batch is None and data.ready is None and len(data) > 1:
        try:
            reference.run(next(iter(data.feeds(2))))
        except ModelError:
            return replace(data, batch=1)
    return data

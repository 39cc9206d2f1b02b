"""The first stage: read the model and the data, find the channels, choose the methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx

from onnxmerge.channels.explain import explain
from onnxmerge.channels.scope import in_scope
from onnxmerge.config import Config
from onnxmerge.data import Dataset, holds_images, made_up_inputs, read_calibration
from onnxmerge.data.generic import Plausible, conventions_of, generic_dataset, under_conventions, under_each
from onnxmerge.data.image_inputs import ImageInput
from onnxmerge.errors import ModelError
from onnxmerge.graph.files import load
from onnxmerge.method import choose_method
from onnxmerge.progress import Clock
from onnxmerge.runtime import Runtime, Session
from onnxmerge.stages import HELD_OUT, Prepared
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
        judged = found.fresh if evaluation is None else _evaluation(reference, evaluation, config, found)
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
    """Data for the fit, and others of the same kind that nothing is fitted to; None where there are none yet.

    ``plausible`` holds the conventions of images whose numbers nobody stated, and ``target`` is their input.
    """

    fit: Dataset
    kind: str
    fresh: Dataset | None = None
    plausible: Plausible | None = None
    target: ImageInput | None = None


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
        read = _read(reference, calibration, config, config.samples)
        if not _undeclared(calibration, config):
            return _Data(read, "given")
        known = conventions_of(proto, reference.inputs, runtime, config.images, config.seed, scores)
        if known is None:
            return _Data(read, "given")
        found, target = known
        fit, held_out = under_conventions(read, target, found, HELD_OUT, config.seed)
        return _Data(fit, "given", held_out, found, target)
    given = (config.images, config.samples, config.seed, config.shapes, scores)
    images = generic_dataset(proto, reference.inputs, runtime, *given) if generic else None
    if images is not None:
        return _Data(images.fit, "generic", images.fresh, images.plausible, images.target)
    fit, fresh = (
        made_up_inputs(proto, reference.inputs, config.shapes, seed, MADE_UP_SAMPLES, runtime)
        for seed in (config.seed, config.seed + 1)
    )
    return _Data(fit, "made up", fresh)


def _undeclared(what: Any, config: Config) -> bool:
    """Whether data are images, and nobody said which numbers the model expects their pixels to be."""
    return holds_images(what) and (config.images is None or not config.images.states_numbers)


def _evaluation(reference: Session, what: Any, config: Config, known: _Data) -> Dataset:
    read = _read(reference, what, config, None)
    if known.plausible is None or known.target is None or not _undeclared(what, config):
        return read
    return under_each(read, known.target, known.plausible)


def _read(reference: Session, what: Any, config: Config, samples: int | None) -> Dataset:
    """Data for the model; where the graph fixes a batch size that its inputs do not show, one by one."""
    data = read_calibration(what, reference.inputs, config.images, samples, config.seed)
    if data.batch is None and data.ready is None and len(data) > 1:
        try:
            reference.run(next(iter(data.feeds(2))))
        except ModelError:
            return replace(data, batch=1)
    return data

"""The data of a run: what the user gave, else photographs where a model takes images, else made-up inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxmerge.data.dataset import Dataset
from onnxmerge.data.generic import Plausible, conventions_of, generic_dataset, under_conventions, under_each
from onnxmerge.data.holdout import APART, JUDGED, Samples
from onnxmerge.data.image_inputs import ImageInput
from onnxmerge.data.images import ImageOptions
from onnxmerge.data.readers import holds_images, read_calibration
from onnxmerge.data.synthetic import made_up_inputs
from onnxmerge.errors import ModelError
from onnxmerge.runtime import Runtime, Session

# Made-up inputs prove little; more of them would not prove more.
MADE_UP_SAMPLES = 64


@dataclass(frozen=True)
class Reading:
    """How data are read.

    Attributes:
        images: how images become numbers; None: as they are, or as the model seems to expect them.
        samples: most samples used to fit; None: all that were given.
        shapes: input shapes for made-up inputs, by name.
        seed: of the choice of samples and of made-up values.
        generic: whether generic photographs may stand in for data that were not given.
        apart: whether of more than ``samples`` others judge.
    """

    images: ImageOptions | None = None
    samples: int | None = 512
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    seed: int = 0
    generic: bool = True
    apart: bool = True

    @property
    def spare(self) -> int:
        """How many samples judge where so many are given beyond those that are fitted; 0: none do."""
        if not self.apart or self.samples is None:
            return 0
        share, fewest = APART
        return max(int(share * self.samples), fewest)


def gather(
    proto: onnx.ModelProto,
    session: Session,
    runtime: Runtime,
    calibration: Any,
    evaluation: Any,
    class_scores: Sequence[str],
    reading: Reading,
) -> tuple[Samples, Plausible | None]:
    """The data of a run, and the conventions that images may follow whose numbers nobody stated.

    Args:
        session: of the model.
        calibration: what to fit to, in any form that ``read_calibration`` takes, or None.
        evaluation: what to measure the change on, or None.
        class_scores: the outputs that hold scores of classes.

    Raises:
        CalibrationError: the data do not fit the model.
        ModelError: the model does not run on data that stand in.
    """
    if evaluation is not None:
        reading = replace(reading, apart=False)
    samples, plausible, target = _to_fit(proto, session, runtime, calibration, class_scores, reading)
    samples = replace(samples, notes=tuple(_doubts(calibration, evaluation, samples.kind, reading)))
    if evaluation is None:
        return samples, plausible
    judged = _read(session, evaluation, reading, None)
    if plausible is not None and target is not None and _undeclared(evaluation, reading):
        judged = under_each(judged, target, plausible)
    seen = evaluation is calibration or (isinstance(evaluation, str | Path) and evaluation == calibration)
    return replace(samples, evaluation=judged, evaluation_given=True, evaluation_fitted=seen), plausible


def _to_fit(
    proto: onnx.ModelProto,
    session: Session,
    runtime: Runtime,
    calibration: Any,
    class_scores: Sequence[str],
    reading: Reading,
) -> tuple[Samples, Plausible | None, ImageInput | None]:
    """What is fitted, the conventions it may follow, and the input that takes its images."""
    inputs, seed = session.inputs, reading.seed
    if calibration is not None:
        read, share = _given(session, calibration, reading)
        known = None
        if _undeclared(calibration, reading):
            known = conventions_of(proto, inputs, runtime, reading.images, seed, class_scores)
        if known is None:
            fit, held_out = (read, None) if share is None else read.split(*share, seed=seed)
            return Samples(fit, "given", None if held_out is fit else held_out), None, None
        plausible, target = known
        mixed, held_out = under_conventions(read, target, plausible, share or JUDGED, seed)
        return Samples(mixed, "given", held_out), plausible, target
    if reading.generic:
        most = MADE_UP_SAMPLES if reading.samples is None else reading.samples
        options = (reading.images, most, seed, reading.shapes, class_scores)
        photographs = generic_dataset(proto, inputs, runtime, *options)
        if photographs is not None:
            found = Samples(photographs.fit, "generic", photographs.fresh)
            return found, photographs.plausible, photographs.target
    fit, fresh = (
        made_up_inputs(proto, inputs, reading.shapes, s, MADE_UP_SAMPLES, runtime).in_files()
        for s in (seed, seed + 1)
    )
    return Samples(fit, "made up", fresh), None, None


def _given(session: Session, what: Any, reading: Reading) -> tuple[Dataset, tuple[float, int, float] | None]:
    """Data that were given, and how to split off what judges, as ``Dataset.split`` takes it.

    The latter is None where no more are there than are fitted.
    """
    if reading.samples is None:
        return _read(session, what, reading, None), None
    most = reading.samples + reading.spare
    read = _read(session, what, reading, most)
    if reading.spare and len(read) >= most:
        return read, (0.0, reading.spare, 1.0)
    return read.take(reading.samples, reading.seed), None


def _doubts(calibration: Any, evaluation: Any, kind: str, reading: Reading) -> Iterator[str]:
    """Whether what was said of data can have been meant so."""
    options = reading.images
    if reading.shapes and calibration is not None:
        yield "shapes= had no effect: that is for made-up inputs, and data were given"
    if options is None or not options.stated:
        return
    given = [what for what in (calibration, evaluation) if what is not None]
    if kind == "made up" or (given and not any(map(holds_images, given))):
        names = ", ".join(f"{name}=" for name in options.stated)
        yield f"{names} had no effect: no images were read, and arrays are taken as they are"
    elif options.doubt is not None:
        yield options.doubt


def _undeclared(what: Any, reading: Reading) -> bool:
    """Whether data are images, and nobody said which numbers the model expects their pixels to be."""
    return holds_images(what) and (reading.images is None or not reading.images.states_numbers)


def _read(session: Session, what: Any, reading: Reading, samples: int | None) -> Dataset:
    """Data for the model; where the graph fixes a batch size that its inputs do not show, one by one."""
    data = read_calibration(what, session.inputs, reading.images, samples, reading.seed, session.run)
    if not isinstance(what, np.ndarray | Mapping | Dataset):  # the caller holds those in memory anyway
        data = data.in_files()
    if data.batch is None and data.ready is None and len(data) > 1:
        try:
            session.run(next(iter(data.feeds(2))))
        except ModelError:
            return replace(data, batch=1)
    return data

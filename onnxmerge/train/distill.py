"""Recovering a smaller ONNX model by distillation: the original answers, no labels are needed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from torch import Tensor

from onnxmerge.errors import ModelError
from onnxmerge.graph import load
from onnxmerge.train.batches import Batches
from onnxmerge.train.executor import OnnxModule
from onnxmerge.train.loop import fit
from onnxmerge.train.no_masks import NoMasks
from onnxmerge.train.processes import Processes
from onnxmerge.train.trainer import Trainer

Source = str | os.PathLike[str] | onnx.ModelProto


@dataclass(frozen=True)
class Distillation:
    """How a smaller model is taught.

    Attributes:
        steps: updates of the weights.
        lr: the largest learning rate of Adam; it falls to zero along a cosine. The default suits batches of
            64 and a student that is near its teacher. One that is far from it may bear 1e-3, batches of
            8 may want 5e-5; too large a rate makes a good student worse.
        decay: weight decay (decoupled).
        features: match the sums (residual streams) that both models have, besides the outputs.
        batch_statistics: whether BatchNormalization uses, and follows, the batches' statistics.
    """

    steps: int = 1000
    lr: float = 2e-4
    decay: float = 0.0
    features: bool = True
    batch_statistics: bool = False


def distill(
    teacher: Source,
    student: Source,
    data: Batches,
    options: Distillation | None = None,
    *,
    processes: Processes | None = None,
    **loop: Any,
) -> onnx.ModelProto:
    """Train all weights of ``student`` until it answers as ``teacher`` does.

    Args:
        teacher: the original model, as a path or a ModelProto.
        student: a smaller model with the same inputs and outputs, such as ``onnxmerge`` makes.
        data: inputs; further tensors in it are ignored.
        options: None: ``Distillation()``.
        processes: as for ``fit``.
        loop: ``autocast``, ``checkpoint``, ``checkpoint_every``, ``after_step``, ``quiet`` of ``fit``.

    Returns:
        the student with the new weights; names and everything else are as they were.

    Raises:
        ModelError: a model cannot be read, has operators that the executor does not cover, or the two
            do not belong together.
        TrainingError: the loss is not finite: ``lr`` is too large, or the inputs are not finite.
    """
    options = options or Distillation()
    processes = processes or Processes()
    originals = load(teacher).proto, load(student).proto
    names = shared_tensors(*originals, next_inputs(data), options.features)
    guide, pupil = (
        _executed(proto, names, options.batch_statistics).to(processes.device) for proto in originals
    )
    guide.eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(pupil.parameters(), lr=options.lr, weight_decay=options.decay)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)
    trainer = Trainer(NoMasks(pupil), optimizer, options.steps)
    inputs = Batches(data.tensors[:1], data.size, data.seed, data.augment)
    fit(trainer, inputs, relative_error, teacher=guide, scheduler=scheduler, processes=processes, **loop)
    return pupil.to_model()


def _executed(proto: onnx.ModelProto, names: list[str], batch_statistics: bool) -> OnnxModule:
    """A module with its images' channels last in memory: convolutions are faster that way, on CPUs too."""
    module = OnnxModule(proto, names, batch_statistics=batch_statistics)
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's stubs lack it


def next_inputs(data: Batches) -> Tensor:
    """A few samples, for shapes."""
    return data.tensors[0][:2]


def shared_tensors(
    teacher: onnx.ModelProto, student: onnx.ModelProto, inputs: Tensor, features: bool
) -> list[str]:
    """The outputs and, with ``features``, the sums of two activations that both models have in one shape."""
    outputs = [value.name for value in teacher.graph.output]
    if outputs != [value.name for value in student.graph.output]:
        raise ModelError("the two models have different outputs: a student has to have its teacher's")
    models = [OnnxModule(proto).eval() for proto in (teacher, student)]
    names = [*outputs]
    if features:
        common = set(models[1].sums)
        names += [name for name in models[0].sums if name in common and name not in outputs]
    with torch.no_grad():
        answers = [model.run({model.inputs[0]: inputs}, names) for model in models]
    same = [a.shape == b.shape and a.is_floating_point() for a, b in zip(*answers, strict=True)]
    if not all(same[: len(outputs)]):
        raise ModelError("an output of the student has another shape than its teacher's, or is no float")
    return [name for name, ok in zip(names, same, strict=True) if ok]


def relative_error(answers: Tensor | Sequence[Tensor], expected: Tensor | Sequence[Tensor]) -> Tensor:
    """The mean over all pairs of |y' - y|^2 / |y - mean(y)|^2."""
    pairs = zip(*((x,) if isinstance(x, Tensor) else x for x in (answers, expected)), strict=True)
    errors = [(a - b).float().square().mean() / (b.float().var() + 1e-12) for a, b in pairs]
    return torch.stack(errors).mean()

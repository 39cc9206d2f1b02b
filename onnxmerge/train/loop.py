"""A ready training loop: weights and masks in turn or together, on one process or many."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from torch import Tensor, nn

from onnxmerge.train.batches import Batches
from onnxmerge.train.checkpoint import load_checkpoint, save_checkpoint
from onnxmerge.train.exporting import evaluating
from onnxmerge.train.processes import Processes
from onnxmerge.train.trainer import Trainer

Loss = Callable[..., Tensor]


def fit(
    trainer: Trainer,
    data: Batches,
    loss: Loss,
    *,
    mask_data: Batches | None = None,
    teacher: nn.Module | None = None,
    scheduler: Any = None,
    processes: Processes | None = None,
    autocast: torch.dtype | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 500,
    after_step: Callable[[Trainer], None] | None = None,
    quiet: bool = True,
) -> None:
    """Train until all of the trainer's steps are done.

    Args:
        data: for the weights.
        loss: called with (what the module returns, *targets of the batch); a scalar.
        teacher: a frozen module in evaluation mode; ``loss`` then gets what it answers to the same
            inputs before the targets. With a teacher no targets are needed.
        mask_data: for the masks, in bilevel learning; None: the same data.
        scheduler: of the weights' learning rate; stepped with every update of the weights.
        processes: from ``Processes.start``; None: this process alone.
        autocast: bfloat16 or float16 for the forward pass; None: float32.
        checkpoint: a file that is written every ``checkpoint_every`` steps and at the end; where it
            exists already, the run goes on from it.
        after_step: called after every step, for evaluations on the way.
        quiet: show no progress.

    Raises:
        ModelError, OutputError: the checkpoint cannot be read or written.
        TrainingError: training diverged; a checkpoint stays as it was last written.
    """
    processes = processes or Processes()
    module = processes.spread(trainer.masks.module)
    device = processes.device
    if checkpoint is not None and Path(checkpoint).exists():
        load_checkpoint(checkpoint, trainer, scheduler)
    with Progress(disable=quiet or processes.rank > 0, transient=True) as progress:
        task = progress.add_task("training", total=trainer.steps, completed=trainer.done)
        while trainer.done < trainer.steps:
            module.train()
            turn = trainer.turn
            masks_only = turn == "masks" and mask_data is not None
            source = mask_data if masks_only and mask_data is not None else data
            number = trainer.turns["masks"] if masks_only else trainer.done - trainer.turns["masks"]
            batch = [t.to(device) for t in source.batch(number, processes.rank, processes.world)]
            with torch.autocast(device.type, autocast) if autocast else nullcontext():
                answers = [] if teacher is None else [_asked(teacher, batch[0])]
                value = loss(module(batch[0]), *answers, *batch[1:])
            trainer.backward(value)
            trainer.step(value)
            if scheduler is not None and turn != "masks":
                scheduler.step()
            if after_step is not None:
                after_step(trainer)
            if checkpoint is not None and processes.rank == 0 and _due(trainer, checkpoint_every):
                save_checkpoint(checkpoint, trainer, scheduler)
            progress.update(task, completed=trainer.done, description=_line(trainer))


@torch.no_grad()
def _asked(teacher: nn.Module, inputs: Tensor) -> Any:
    return teacher(inputs)


def _due(trainer: Trainer, every: int) -> bool:
    return trainer.done % every == 0 or trainer.done == trainer.steps


def _line(trainer: Trainer) -> str:
    state = trainer.state_of_masks()
    return f"open {state['open']:.3f} mu {state['mu']:.2g} recovered {state['recovered']}"


def accuracy(module: nn.Module, inputs: Tensor, labels: Tensor, batch: int = 256) -> float:
    """The share of top-1 answers that are right, in evaluation mode."""
    device = next(module.parameters()).device
    with evaluating(module):
        right = sum(
            int((module(x.to(device)).argmax(1) == y.to(device)).sum())
            for x, y in zip(inputs.split(batch), labels.split(batch), strict=True)
        )
    return right / len(labels)

"""Saving a run, and going on with it as if nothing had happened."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from onnxmerge.errors import ModelError, OutputError
from onnxmerge.train.trainer import Trainer


def save_checkpoint(path: str | os.PathLike[str], trainer: Trainer, scheduler: Any = None) -> None:
    """Write the trainer's state and the random states; an interrupted write leaves the old file.

    Args:
        scheduler: the learning-rate scheduler of the weights' optimizer, if there is one.

    Raises:
        OutputError: the file cannot be written.
    """
    state = {
        "trainer": trainer.state_dict(),
        "scheduler": None if scheduler is None else scheduler.state_dict(),
        "random": torch.get_rng_state(),
        "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    target = Path(path)
    partial = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        torch.save(state, partial)
        os.replace(partial, target)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        raise OutputError(f"cannot write the checkpoint {target}: {error}") from error


def load_checkpoint(path: str | os.PathLike[str], trainer: Trainer, scheduler: Any = None) -> None:
    """Bring trainer, scheduler and random states to where the checkpoint was written.

    Raises:
        ModelError: the file is no checkpoint, or of another module.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        trainer.load_state_dict(state["trainer"])
        if scheduler is not None:
            scheduler.load_state_dict(state["scheduler"])
        torch.set_rng_state(state["random"])
        if torch.cuda.is_available() and state["random_cuda"]:
            torch.cuda.set_rng_state_all(state["random_cuda"])
    except (OSError, KeyError, TypeError, RuntimeError, ValueError, EOFError) as error:
        raise ModelError(f"cannot go on from {path}: {error}") from error
    except pickle.UnpicklingError as error:
        raise ModelError(f"cannot go on from {path}: it is no checkpoint") from error

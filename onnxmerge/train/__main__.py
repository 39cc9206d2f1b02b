"""``python -m onnxmerge.train``: run a training script, or teach a smaller ONNX model by distillation."""

from __future__ import annotations

import argparse
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from onnxmerge.errors import CalibrationError, OnnxMergeError
from onnxmerge.graph import save
from onnxmerge.train.batches import Batches, shift_and_flip
from onnxmerge.train.distill import Distillation, distill
from onnxmerge.train.processes import Processes


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit code."""
    options = _parser().parse_args(arguments)
    torch.manual_seed(options.seed)
    np.random.seed(options.seed)
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        processes = Processes.start(options.device)
        try:
            options.action(options, processes)
        finally:
            processes.close()
    except OnnxMergeError as error:
        print(f"onnxmerge.train: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("onnxmerge.train: interrupted", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--seed", type=int, default=0, help="of all random numbers")
    common.add_argument("--threads", type=int, default=0, help="of torch on the CPU; 0: as torch chooses")
    common.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser = argparse.ArgumentParser(
        prog="python -m onnxmerge.train",
        description="Learned masks and distillation. Under torchrun, all processes train together.",
    )
    verbs = parser.add_subparsers(required=True, metavar="run|distill")

    run = verbs.add_parser("run", parents=[common], help="run a training script, seeded, on all processes")
    run.add_argument("script", type=Path)
    run.add_argument("arguments", nargs=argparse.REMAINDER, help="given to the script")
    run.set_defaults(action=_run)

    teach = verbs.add_parser("distill", parents=[common], help="teach a smaller model on unlabelled inputs")
    teach.add_argument("teacher", help="the original model")
    teach.add_argument("student", help="the smaller model")
    teach.add_argument("output", help="where the taught model is written")
    teach.add_argument("--data", required=True, help="inputs, .npy or .npz with one array, samples first")
    teach.add_argument("--steps", type=int, default=Distillation.steps, help="updates of the weights")
    teach.add_argument("--batch", type=int, default=64, help="samples in a batch")
    teach.add_argument(
        "--lr",
        type=float,
        default=Distillation.lr,
        help="largest learning rate (Adam, cosine)",
    )
    teach.add_argument("--outputs-only", action="store_true", help="do not match residual sums")
    teach.add_argument("--augment", action="store_true", help="shift and mirror images")
    teach.add_argument("--checkpoint", help="written on the way; where it exists, the run goes on from it")
    teach.set_defaults(action=_distill)
    return parser


def _run(options: argparse.Namespace, processes: Processes) -> None:
    sys.argv = [str(options.script), *options.arguments]
    sys.path.insert(0, str(options.script.resolve().parent))
    runpy.run_path(str(options.script), run_name="__main__")


def _distill(options: argparse.Namespace, processes: Processes) -> None:
    augment = shift_and_flip() if options.augment else None
    model = distill(
        options.teacher,
        options.student,
        Batches((_inputs(options.data),), options.batch, options.seed, augment),
        Distillation(steps=options.steps, lr=options.lr, features=not options.outputs_only),
        processes=processes,
        checkpoint=options.checkpoint,
        quiet=False,
    )
    if processes.rank == 0:
        save(model, options.output)


def _inputs(path: str) -> torch.Tensor:
    """The only array of a file.

    Raises:
        CalibrationError: the file is no array file, or has several.
    """
    try:
        stored = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise CalibrationError(f"cannot read {path}: {error}") from error
    if isinstance(stored, np.ndarray):
        return torch.from_numpy(stored)
    if len(stored.files) != 1:
        raise CalibrationError(f"{path} holds {len(stored.files)} arrays: give a file with the inputs alone")
    return torch.from_numpy(stored[stored.files[0]])


if __name__ == "__main__":
    sys.exit(main())

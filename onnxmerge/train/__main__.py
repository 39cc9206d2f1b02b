"""``python -m onnxmerge.train``: run a training script, or teach a smaller ONNX model by the original."""

from __future__ import annotations

import argparse
import runpy
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from onnxmerge.config import Recovery
from onnxmerge.data import read_calibration
from onnxmerge.data.holdout import CHECKING
from onnxmerge.data.image_inputs import image_input
from onnxmerge.errors import OnnxMergeError
from onnxmerge.graph import load, save
from onnxmerge.runtime import Runtime
from onnxmerge.train.processes import Processes
from onnxmerge.train.recovery import recover


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
        description="Learned masks and distillation. Under torchrun all processes train one script together.",
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
    teach.add_argument("--data", required=True, help="inputs, of any kind that onnxmerge --calib takes")
    teach.add_argument(
        "--held-out",
        help="inputs that nothing was fitted to; they judge. Without them an eighth of the data does, which "
        "says little where the student was made with the same data",
    )
    teach.add_argument("--bound", default="10m", help="time (90s, 2m, 1h), or a number of steps")
    teach.add_argument(
        "--batch", type=int, help="samples in a step (without it 32, fewer where the time leaves few steps)"
    )
    teach.add_argument("--rate", type=float, help="learning rate, relative; without it trials find one")
    teach.add_argument("--outputs-only", action="store_true", help="do not match what is inside")
    teach.add_argument("--no-augment", action="store_true", help="neither shift nor mirror images")
    teach.set_defaults(action=_distill)
    return parser


def _run(options: argparse.Namespace, processes: Processes) -> None:
    sys.argv = [str(options.script), *options.arguments]
    sys.path.insert(0, str(options.script.resolve().parent))
    runpy.run_path(str(options.script), run_name="__main__")


def _distill(options: argparse.Namespace, processes: Processes) -> None:
    teacher, student = (load(path).whole() for path in (options.teacher, options.student))
    inputs = Runtime.create("cpu", 1).session(teacher).inputs
    data = read_calibration(options.data, inputs, None, None, options.seed)
    if options.held_out is None:
        fit, held_out = data.split(*CHECKING, seed=options.seed)
    else:
        fit, held_out = data, read_calibration(options.held_out, inputs, None, None, options.seed)
    image = image_input(teacher, inputs)
    found = recover(
        teacher,
        student,
        fit,
        held_out,
        replace(
            Recovery.parse(options.bound, "--bound"),
            batch=options.batch,
            rate=options.rate,
            augment=not options.no_augment,
            inner=0.0 if options.outputs_only else Recovery.inner,
        ),
        images={} if image is None else {image.name: image.layout},
        threads=options.threads or None,
        seed=options.seed,
        device=processes.device.type,
    )
    if processes.rank == 0:
        save(found.model, options.output)
        print(found.summary())


if __name__ == "__main__":
    sys.exit(main())

"""Recovery by distillation on unlabelled images: a trained ONNX model is pruned, then taught by the original.

    python -m onnxmerge.train run tools/train_distill.py --data cifar10 --teacher resnet56.onnx --macs 0.4 \\
        --mean 0.4914,0.4822,0.4465 --std 0.2023,0.1994,0.2010
    python -m onnxmerge.train run tools/train_distill.py --data photographs --teacher mobilenetv2.onnx \\
        --macs 0.6 --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5 --crop 224 --shift 16 --batch 8 --lr 5e-5

Labels are used for nothing but the top-1 figures, on the test images. Settings are chosen with --test 0 by
the answers' error on --held-out of the training images, before and after.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from train_common import Row, arguments, device_name, held_out, read

import onnxmerge
from onnxmerge.graph import load, save
from onnxmerge.runtime import Runtime
from onnxmerge.train import Batches, Distillation, Processes, distill, shift_and_flip


def main() -> None:
    options = arguments(
        __doc__,
        teacher="teacher.onnx",
        student="",
        macs=0.4,
        mean="",
        std="",
        crop=0,
        shift=4,
        calibrate=512,
        steps=300,
        batch=64,
        lr=Distillation.lr,
        held_out=0,
        test=1,
        save="",
    )
    numbers = (_numbers(text) for text in (options.mean, options.std))
    data = read(options.data, options.samples, *numbers, options.crop)
    processes = Processes.start(options.device)
    data, unseen = held_out(data, options.held_out)
    images = data.train[0]
    start = time.perf_counter()
    if options.student:
        pruned = load(options.student).proto
    else:
        calibration = images[: options.calibrate].numpy()
        pruned = onnxmerge.optimize(
            options.teacher, macs=options.macs, calibration=calibration, threads=options.threads
        ).model
    pruning = time.perf_counter() - start
    batches = Batches((images,), options.batch, options.seed, shift_and_flip(options.shift))
    start = time.perf_counter()
    settings = Distillation(steps=options.steps, lr=options.lr)
    taught = distill(options.teacher, pruned, batches, settings, processes=processes, quiet=False)
    teaching = time.perf_counter() - start
    if options.save:
        save(taught, options.save)
    if processes.rank > 0:
        return
    runtime = Runtime.create("cpu", options.threads)
    models = (load(options.teacher).proto, pruned, taught)
    before, cut, after = (
        f"{_top1(runtime, model, *data.test):.2f}" if options.test else "-" for model in models
    )
    Row(options.out).write({
        "model": Path(options.teacher).stem,
        "MACs kept": options.macs,
        "top-1 dense": before,
        "top-1 pruned": cut,
        "top-1 taught": after,
        "held-out error, pruned > taught": _errors(runtime, models, unseen[0]) if options.held_out else "-",
        "calibration": min(options.calibrate, len(images)),
        "unlabelled images": len(images),
        "steps x batch": f"{options.steps} x {options.batch}",
        "lr": options.lr,
        "minutes pruning": f"{pruning / 60:.1f}" if not options.student else "-",
        "minutes teaching": f"{teaching / 60:.1f}",
        "seed": options.seed,
        "device": device_name(processes),
    })  # fmt: skip


def _numbers(text: str) -> list[float] | None:
    return [float(v) for v in text.split(",")] if text else None


def _answers(runtime: Runtime, model: onnx.ModelProto, images: torch.Tensor) -> np.ndarray:
    """The first output."""
    session = runtime.session(model)
    feeds = ({session.inputs[0].name: x.numpy()} for x in images.split(100))
    return np.concatenate([session.run(feed)[session.outputs[0].name] for feed in feeds])


def _top1(runtime: Runtime, model: onnx.ModelProto, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Percent of the test images that the first output classifies as labelled."""
    return 100 * float((_answers(runtime, model, images).argmax(1) == labels.numpy()).mean())


def _errors(runtime: Runtime, models: Sequence[onnx.ModelProto], images: torch.Tensor) -> str:
    """|y' - y|^2 / |y - mean(y)|^2 of the pruned and of the taught model, y being the teacher's answers."""
    expected, cut, after = (_answers(runtime, model, images) for model in models)
    return " > ".join(f"{np.square(y - expected).mean() / expected.var():.4f}" for y in (cut, after))


if __name__ == "__main__":
    main()

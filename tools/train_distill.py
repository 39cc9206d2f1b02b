"""Recovery by distillation on unlabelled images: a trained ONNX model is pruned, then taught by the original.

    python -m onnxmerge.train run tools/train_distill.py --data cifar10 --teacher resnet56.onnx --macs 0.4 \\
        --mean 0.4914,0.4822,0.4465 --std 0.2023,0.1994,0.2010

Labels are used for nothing but the top-1 figures, on the test images.
"""

from __future__ import annotations

import time
from pathlib import Path

import onnx
import torch
from train_common import Row, arguments, device_name, read

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
        calibrate=512,
        steps=300,
        batch=64,
        lr=1e-3,
        save="",
    )
    data = read(options.data, options.samples, *(_numbers(text) for text in (options.mean, options.std)))
    processes = Processes.start(options.device)
    images, labels = data.train[0], data.test
    start = time.perf_counter()
    if options.student:
        pruned = load(options.student).proto
    else:
        calibration = images[: options.calibrate].numpy()
        pruned = onnxmerge.optimize(
            options.teacher, macs=options.macs, calibration=calibration, threads=options.threads
        ).model
    pruning = time.perf_counter() - start
    batches = Batches((images,), options.batch, options.seed, shift_and_flip())
    start = time.perf_counter()
    settings = Distillation(steps=options.steps, lr=options.lr)
    taught = distill(options.teacher, pruned, batches, settings, processes=processes, quiet=False)
    teaching = time.perf_counter() - start
    if options.save:
        save(taught, options.save)
    if processes.rank > 0:
        return
    runtime = Runtime.create("cpu", options.threads)
    before, cut, after = (
        _top1(runtime, model, *labels) for model in (load(options.teacher).proto, pruned, taught)
    )
    Row(options.out).write({
        "model": Path(options.teacher).stem,
        "MACs kept": options.macs,
        "top-1 dense": f"{before:.2f}",
        "top-1 pruned": f"{cut:.2f}",
        "top-1 taught": f"{after:.2f}",
        "calibration": options.calibrate,
        "unlabelled images": len(images),
        "steps x batch": f"{options.steps} x {options.batch}",
        "lr": options.lr,
        "minutes pruning": f"{pruning / 60:.1f}",
        "minutes teaching": f"{teaching / 60:.1f}",
        "seed": options.seed,
        "device": device_name(processes),
    })  # fmt: skip


def _numbers(text: str) -> list[float] | None:
    return [float(v) for v in text.split(",")] if text else None


def _top1(runtime: Runtime, model: onnx.ModelProto, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Percent of the test images that the first output classifies as labelled."""
    session = runtime.session(model)
    right = sum(
        int(
            (
                session.run({session.inputs[0].name: x.numpy()})[session.outputs[0].name].argmax(1)
                == y.numpy()
            ).sum()
        )
        for x, y in zip(images.split(100), labels.split(100), strict=True)
    )
    return 100 * right / len(labels)


if __name__ == "__main__":
    main()

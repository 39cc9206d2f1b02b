"""LeNet-300-100 and LeNet-5 on MNIST: neurons pruned to a share of the MACs, or weights to a compression.

    python -m onnxmerge.train run tools/train_lenet.py --data mnist.npz --net lenet5 --macs 0.07
    python -m onnxmerge.train run tools/train_lenet.py --data mnist.npz --net lenet300 --weights 0.02

Every run ends in an ONNX file, cut by the core; without --macs and --weights the dense net is trained, with
--widths 3-12-270 a narrower one: what the learned widths are worth without what was learned on the way.
With --dense-epochs the dense net is trained first and gates are learned from there; with --teach 1 it
also answers beside the labels. With --narrow-epochs the smaller ONNX file is trained on, at its own, lower
cost. --dense names a file for the dense net's weights, so that several runs share one start.

Settings are chosen by the error on training images that are left out (--held-out of them); the test images
are looked at with --test 1 only, for what has been chosen.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn
from train_common import Row, Run, arguments, device_name, held_out, read

from onnxmerge.errors import UsageError
from onnxmerge.train import (
    Batches,
    NoMasks,
    OnnxModule,
    Processes,
    Shrunk,
    Trainer,
    accuracy,
    shift_and_flip,
    shrink,
    wrap,
    wrap_weights,
)
from onnxmerge.train.masks import Masks


def lenet300(first: int = 300, second: int = 100) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, first),
        nn.ReLU(),
        nn.Linear(first, second),
        nn.ReLU(),
        nn.Linear(second, 10),
    )


def lenet5(first: int = 20, second: int = 50, third: int = 500) -> nn.Module:
    """The 20-50-500-10 net of the pruning literature (431k weights)."""
    return nn.Sequential(
        nn.Conv2d(1, first, 5),
        nn.MaxPool2d(2),
        nn.Conv2d(first, second, 5),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * second, third),
        nn.ReLU(),
        nn.Linear(third, 10),
    )


def main() -> None:
    options = arguments(
        __doc__,
        net="lenet5",
        widths="",
        macs=None,
        weights=None,
        epochs=10,
        dense_epochs=0,
        dense="",
        settle=0.3,
        narrow_epochs=0,
        shift=0,
        teach=0,
        clip=0.0,
        decay=5e-4,
        held_out=5000,
        test=0,
        batch=128,
        lr=0.05,
        mask_lr=0.02,
        weigh="macs",
        save="",
    )
    if options.narrow_epochs and options.macs is None:
        raise UsageError("--narrow-epochs is for learned widths: it needs --macs")
    data, unseen = held_out(read(options.data, options.samples), options.held_out)
    processes = Processes.start(options.device)
    augment = shift_and_flip(options.shift, flip=False) if options.shift else None
    batches = Batches(data.train, options.batch, options.seed, augment)
    widths = [int(text) for text in options.widths.split("-") if text]
    module = {"lenet300": lenet300, "lenet5": lenet5}[options.net](*widths).to(processes.device)
    example = data.train[0][:2]
    phases: list[Run] = []

    def phase(epochs: int) -> Run:
        steps, clip = epochs * len(batches), options.clip or None
        run = Run(data, batches, steps, processes, options.lr, options.decay, clip)
        phases.append(run)
        return run

    teacher = None
    if options.dense_epochs:
        started(module, options.dense, phase(options.dense_epochs))
        print(f"dense: {_error(module, unseen):.2f} held out", flush=True)
        teacher = deepcopy(module).eval().requires_grad_(False) if options.teach else None
    masks, budget = gated(module, example, options)
    learning = {"lr": options.mask_lr, "weigh": options.weigh, "settle": options.settle, **budget}
    trainer = phase(options.epochs).learn(masks, teacher=teacher, **learning)
    result = shrink(masks, example)
    final = result
    if options.narrow_epochs:
        print(f"with masks: {_error(module, unseen):.2f} held out", flush=True)
        module = phase(options.narrow_epochs).plain(OnnxModule(result.model), teacher)
        final = shrink(NoMasks(module), example)
    if options.save:
        final.save(Path(options.save))
    if processes.rank == 0:
        held = f"{_error(module, unseen):.2f}" if options.held_out else "-"
        test = f"{phases[-1].error(module):.2f}" if options.test else "-"
        measured = {"held-out error %": held, "test error %": test, "file = module": f"{final.error:.0e}"}
        row(options, masks, trainer, result, measured, processes, sum(run.seconds for run in phases))


def started(module: nn.Module, file: str, run: Run) -> None:
    """A dense net: read from ``file`` where that exists, otherwise trained and written there."""
    if file and Path(file).exists():
        module.load_state_dict(torch.load(file, weights_only=True))
        return
    run.plain(module)
    if file:
        torch.save(module.state_dict(), file)


def gated(module: nn.Module, example: Tensor, options) -> tuple[Masks, dict[str, float]]:
    """The masks that the options ask for, and their budget."""
    if options.macs is not None:
        return wrap(module, example), {"macs": options.macs}
    if options.weights is not None:
        return wrap_weights(module), {"params": options.weights}
    return NoMasks(module), {}


def _error(module: nn.Module, images: tuple[Tensor, Tensor]) -> float:
    return 100 * (1 - accuracy(module, *images)) if len(images[0]) else float("nan")


def row(options, masks, trainer: Trainer, result: Shrunk, measured, processes, seconds: float) -> None:
    target = options.macs or options.weights
    compression = f"{masks.compression:.0f}x" if options.weights is not None else "-"
    widths = "-".join(str(kept) for kept, _ in result.widths.values())
    Row(options.out).write({
        "net": options.net,
        "gates": "neurons" if options.macs else "weights" if options.weights else "none",
        "target": target or "-",
        "MACs kept": f"{100 * result.macs[1] / result.macs[0]:.1f}%",
        "weights": compression,
        "widths in the file": widths,
        **measured,
        "lr": options.lr,
        "mask lr": options.mask_lr if target else "-",
        "weighed by": options.weigh if options.macs else "-",
        "shift, teacher": f"{options.shift}, {options.teach}",
        "clip, decay": f"{options.clip:g}, {options.decay:g}",
        "recovered": trainer.recovered,
        "epochs, dense + masks + fixed + narrow": _epochs(options),
        "seed": options.seed,
        "device": device_name(processes),
        "seconds": f"{seconds:.0f}",
    })  # fmt: skip


def _epochs(options) -> str:
    if options.macs is None and options.weights is None:
        return f"{options.dense_epochs + options.epochs} + 0 + 0 + 0"
    fixed = options.settle * options.epochs
    learned = f"{options.epochs - fixed:g} + {fixed:g} + {options.narrow_epochs}"
    return f"{options.dense_epochs} + {learned}"


if __name__ == "__main__":
    main()

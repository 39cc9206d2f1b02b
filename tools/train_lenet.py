"""LeNet-300-100 and LeNet-5 on MNIST: neurons pruned to a share of the MACs, or weights to a compression.

    python -m onnxmerge.train run tools/train_lenet.py --data mnist.npz --net lenet5 --macs 0.07
    python -m onnxmerge.train run tools/train_lenet.py --data mnist.npz --net lenet300 --weights 0.02

Every run ends in an ONNX file, cut by the core; without --macs and --weights the dense net is trained, with
--widths 3-12-270 a narrower one: what the learned widths are worth without what was learned on the way.
With --dense-epochs the dense net is trained first and gates are learned from there. Settings are chosen by
the error on training images that are left out (--held-out of them); the test images are looked at with
--test 1 only, for what has been chosen.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

from torch import nn
from train_common import Row, Run, arguments, device_name, held_out, read

from onnxmerge.train import (
    Batches,
    NoMasks,
    Processes,
    Trainer,
    accuracy,
    shift_and_flip,
    shrink,
    wrap,
    wrap_weights,
)


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
        settle=0.3,
        shift=0,
        teach=0,
        held_out=5000,
        test=0,
        batch=128,
        lr=0.05,
        mask_lr=0.02,
        weigh="macs",
        save="",
    )
    data, unseen = held_out(read(options.data, options.samples), options.held_out)
    processes = Processes.start(options.device)
    augment = shift_and_flip(options.shift, flip=False) if options.shift else None
    batches = Batches(data.train, options.batch, options.seed, augment)
    run = Run(data, batches, options.epochs * len(batches), processes, options.lr)
    widths = [int(text) for text in options.widths.split("-") if text]
    module = {"lenet300": lenet300, "lenet5": lenet5}[options.net](*widths).to(processes.device)
    example = data.train[0][:2]
    seconds, teacher = 0.0, None
    if options.dense_epochs:
        dense = Run(data, batches, options.dense_epochs * len(batches), processes, options.lr)
        dense.plain(module)
        seconds = dense.seconds
        if options.teach:
            teacher = deepcopy(module).eval().requires_grad_(False)
            print(f"dense: {100 * (1 - accuracy(module, *unseen)):.2f} held out", flush=True)
    if options.macs is not None:
        masks, kind, target = wrap(module, example), "macs", options.macs
    elif options.weights is not None:
        masks, kind, target = wrap_weights(module), "params", options.weights
    else:
        masks, kind, target = NoMasks(module), "", None
    budget = {} if target is None else {kind: target}
    trainer = run.learn(
        masks, teacher=teacher, lr=options.mask_lr, weigh=options.weigh, settle=options.settle, **budget
    )
    result = shrink(masks, example)
    if options.save:
        result.save(Path(options.save))
    if processes.rank == 0:
        held = 100 * (1 - accuracy(module, *unseen)) if options.held_out else None
        row(options, masks, trainer, run, result, processes, seconds + run.seconds, held)


def row(
    options, masks, trainer: Trainer, run: Run, result, processes, seconds: float, held: float | None
) -> None:
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
        "held-out error %": "-" if held is None else f"{held:.2f}",
        "test error %": f"{run.error(masks.module):.2f}" if options.test else "-",
        "lr": options.lr,
        "mask lr": options.mask_lr if target else "-",
        "weighed by": options.weigh if options.macs else "-",
        "recovered": trainer.recovered,
        "file = module": f"{result.error:.0e}",
        "epochs, dense + masks + fixed": _epochs(options),
        "seed": options.seed,
        "device": device_name(processes),
        "seconds": f"{seconds:.0f}",
    })  # fmt: skip


def _epochs(options) -> str:
    if options.macs is None and options.weights is None:
        return f"{options.dense_epochs + options.epochs} + 0 + 0"
    fixed = options.settle * options.epochs
    return f"{options.dense_epochs} + {options.epochs - fixed:g} + {fixed:g}"


if __name__ == "__main__":
    main()

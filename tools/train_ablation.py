"""The estimators compared: compression against epoch at one fixed mu, as in the AutoPrune paper's ablation.

    python -m onnxmerge.train run tools/train_ablation.py --data cifar10 --out tools/results/train_ablation.md

Also writes <out>.json (the curves) and <out>.svg (the plot). There is no budget here: mu is fixed, and
what an estimator makes of it is the result.
"""

from __future__ import annotations

import json

import torch
from train_common import Row, Run, arguments, device_name, read
from train_nets import NETS

from onnxmerge.train import (
    Batches,
    HardStep,
    LeakyRelu,
    Linear,
    Processes,
    Softplus,
    shift_and_flip,
    wrap,
)

CASES = {
    "softplus, lr 0.01": (Softplus(), 0.01),
    "softplus, lr 0.03": (Softplus(), 0.03),
    "leaky ReLU, lr 0.01": (LeakyRelu(), 0.01),
    "leaky ReLU, lr 0.03": (LeakyRelu(), 0.03),
    "linear, lr 0.01": (Linear(), 0.01),
}


def main() -> None:
    options = arguments(__doc__, net="vgg", width=12.0, mu=0.5, epochs=6, batch=64, lr=0.05)
    data = read(options.data, options.samples)
    processes = Processes.start(options.device)
    batches = Batches(data.train, options.batch, options.seed, shift_and_flip())
    curves: dict[str, list[float]] = {}
    for name, (estimator, lr) in CASES.items():
        torch.manual_seed(options.seed)
        module = NETS[options.net](options.width).to(processes.device)
        masks = wrap(module, data.train[0][:2], method=HardStep(estimator))
        run = Run(data, batches, options.epochs * len(batches), processes, options.lr)
        curve = curves.setdefault(name, [1.0])

        def after(trainer, masks=masks, curve=curve) -> None:
            if trainer.done % len(batches) == 0:
                curve.append(1 / masks.share("params"))

        trainer = run.learn(masks, after, mu=options.mu, lr=lr, settle=0.0)
        if processes.rank == 0:
            Row(options.out).write({
                "net": f"{options.net} {options.width:g}",
                "estimator": name,
                "mu": options.mu,
                "parameters, dense / kept": f"{curve[-1]:.2f}",
                "MACs kept": f"{100 * masks.share('macs'):.1f}%",
                "test error %": f"{run.error(module):.2f}",
                "recovered": trainer.recovered,
                "images": len(data.train[0]),
                "epochs": options.epochs,
                "seed": options.seed,
                "device": device_name(processes),
                "seconds": f"{run.seconds:.0f}",
            })  # fmt: skip
    if options.out is not None and processes.rank == 0:
        options.out.with_suffix(".json").write_text(json.dumps(curves, indent=1) + "\n")
        plot(curves, options.out.with_suffix(".svg"))


def plot(curves: dict[str, list[float]], path) -> None:
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams["svg.hashsalt"] = "onnxmerge"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    for name, curve in curves.items():
        axes.plot(curve, label=name)
    axes.set(xlabel="epoch", ylabel="compression: parameters dense / kept")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()

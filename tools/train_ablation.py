"""The estimators compared: at one fixed mu, as in the AutoPrune paper's ablation, or at one budget.

    python -m onnxmerge.train run tools/train_ablation.py --data cifar10 --out tools/results/train_ablation.md
    python -m onnxmerge.train run tools/train_ablation.py --data cifar10 --budget 0.3 --out ...

Also writes <out>.json (the curves) and <out>.svg (the plot). With a fixed mu what an estimator makes of it
is the result: compression against epoch. With a budget of multiplications all nets end at the same share,
their masks are fixed for the last part of training, and the error is the result; drawn are the widths.
"""

from __future__ import annotations

import json

import matplotlib
import torch
from matplotlib.figure import Figure
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
from onnxmerge.train.channel_masks import ChannelMasks

# Text as text, and names of parts that do not change from run to run.
matplotlib.rcParams.update({"svg.hashsalt": "onnxmerge", "svg.fonttype": "none", "font.size": 8})

CASES = {
    "softplus, lr 0.01": (Softplus(), 0.01),
    "softplus, lr 0.03": (Softplus(), 0.03),
    "leaky ReLU, lr 0.01": (LeakyRelu(), 0.01),
    "leaky ReLU, lr 0.03": (LeakyRelu(), 0.03),
    "linear, lr 0.01": (Linear(), 0.01),
}


# How often an epoch the widths are looked at.
LOOKS = 4


def main() -> None:
    options = arguments(__doc__, net="vgg", width=12.0, mu=0.5, budget=0.0, epochs=6, batch=64, lr=0.05)
    data = read(options.data, options.samples)
    processes = Processes.start(options.device)
    batches = Batches(data.train, options.batch, options.seed, shift_and_flip())
    learning = {"macs": options.budget} if options.budget else {"mu": options.mu, "settle": 0.0}
    curves: dict[str, list[float]] = {}
    widths: dict[str, list[list[int]]] = {}
    for name, (estimator, lr) in CASES.items():
        torch.manual_seed(options.seed)
        module = NETS[options.net](options.width).to(processes.device)
        masks = wrap(module, data.train[0][:2], method=HardStep(estimator))
        run = Run(data, batches, options.epochs * len(batches), processes, options.lr)
        curve, wide = curves.setdefault(name, [1.0]), widths.setdefault(name, [_widths(masks)])

        def after(trainer, masks=masks, curve=curve, wide=wide) -> None:
            if trainer.done % len(batches) == 0:
                curve.append(1 / masks.share("params"))
            if trainer.done % max(len(batches) // LOOKS, 1) == 0:
                wide.append(_widths(masks))

        trainer = run.learn(masks, after, lr=lr, **learning)
        if processes.rank == 0:
            asked = {"budget": options.budget} if options.budget else {"mu": options.mu}
            Row(options.out).write({
                "net": f"{options.net} {options.width:g}",
                "estimator": name,
                **asked,
                "parameters, dense / kept": f"{curve[-1]:.2f}",
                "MACs kept": f"{100 * masks.share('macs'):.1f}%",
                "widths": "-".join(map(str, _widths(masks))),
                "test error %": f"{run.error(module):.2f}",
                "recovered": trainer.recovered,
                "images": len(data.train[0]),
                "epochs": options.epochs,
                "seed": options.seed,
                "device": device_name(processes),
                "seconds": f"{run.seconds:.0f}",
            })  # fmt: skip
    if options.out is not None and processes.rank == 0:
        told = widths if options.budget else curves
        lines = (f" {json.dumps(name)}: {json.dumps(curve)}" for name, curve in told.items())
        options.out.with_suffix(".json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
        figure = plot_widths(widths) if options.budget else plot(curves)
        figure.savefig(options.out.with_suffix(".svg"), format="svg", metadata={"Date": None})


def _widths(masks: ChannelMasks) -> list[int]:
    """How many gates of every group are open."""
    return [opened for opened, _ in masks.widths.values()]


def plot(curves: dict[str, list[float]]) -> Figure:
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, curve in curves.items():
        axes.plot(curve, label=name)
    axes.set(xlabel="epoch", ylabel="compression: parameters dense / kept")
    axes.legend()
    return figure


def plot_widths(widths: dict[str, list[list[int]]]) -> Figure:
    """A panel for every estimator, a line for every layer."""
    figure = Figure(figsize=(2.3 * len(widths), 2.6), layout="constrained")
    panels = figure.subplots(1, len(widths), sharey=True, squeeze=False)[0]
    for axes, (name, rows) in zip(panels, widths.items(), strict=True):
        for layer, wide in enumerate(zip(*rows, strict=True), start=1):
            epochs = [look / LOOKS for look in range(len(wide))]
            axes.plot(epochs, [w / wide[0] for w in wide], label=f"layer {layer}")
        axes.set_title(name)
        axes.set_xlabel("epoch")
    panels[0].set_ylabel("share of the channels open")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=8)
    return figure


if __name__ == "__main__":
    main()

"""From a trained net to a smaller one, every way with the same training: error at equal MACs.

    python -m onnxmerge.train run tools/train_recipes.py --data cifar10 --net resnet20 --budget 0.5 --seed 0

The dense net is trained first, or read where ``--dense`` names weights that were. All that follow get the
same number of updates of their weights, and are taught by it (half labels, half its softened answers):

- learned masks, and L0 gates, from the dense net's weights, over a budget that falls slowly; once from gates
  that are all alike, once from the order in which onnxmerge would leave the channels out;
- at fixed widths, from the dense net's weights: the channels of largest l1 norm, the same share of every
  layer; those of largest l2 norm in all layers together, in units of their layer's mean; those that onnxmerge
  keeps, without layers going;
- a uniformly narrower net from scratch.

Last, without labels, what onnxmerge makes of the dense net with so many images, with ``--recover`` of so many
steps, and taught on all images with the updates of the others. The last 2,000 training images are never
trained on: with ``--split train`` they judge, and settings are chosen there. Test images are looked at once.
"""

from __future__ import annotations

import argparse
import copy
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn
from train_common import Run, arguments, held_out, read
from train_compare import Table
from train_nets import NETS

import onnxmerge
from onnxmerge.candidates import Widths, score
from onnxmerge.config import Config, Recovery
from onnxmerge.data import Dataset
from onnxmerge.data.holdout import CHECKING
from onnxmerge.pipeline import analysed
from onnxmerge.plan import Selection
from onnxmerge.progress import Clock
from onnxmerge.train import (
    Batches,
    HardConcrete,
    HardStep,
    Processes,
    recover,
    shift_and_flip,
    shrink,
    to_onnx,
    wrap,
)

HELD_OUT = 2000
# Of the MACs: what is left out at the first of them is worth least.
SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
# How the channels are chosen that are trained at fixed widths; only they are used, for training repairs.
CHOSEN = {
    "largest l1 norms, uniform": {"criterion": "l1", "allocation": "uniform", "compensation": "none"},
    "largest l2 norms, global": {"criterion": "l2", "allocation": "global", "compensation": "none"},
    "channels of onnxmerge": {"depth": False},
}


def main() -> None:
    options = arguments(
        __doc__, net="resnet20", width=8.0, budget=0.5, epochs=2, dense_epochs=12, batch=64, lr=0.02,
        scratch_lr=0.1, mask_lr=0.02, settle=0.4, calibrate=512, recover=300, dense="", split="test", only="",
        precision="float32",
    )  # fmt: skip
    rest, judged = held_out(read(options.data, options.samples), HELD_OUT)
    data = replace(rest, test=judged) if options.split == "train" else rest
    processes = Processes.start(options.device)
    batches = Batches(data.train, options.batch, options.seed, shift_and_flip())
    table = Table(options, data, processes)
    autocast = None if options.precision == "float32" else getattr(torch, options.precision)

    def net(width: float = options.width) -> nn.Module:
        torch.manual_seed(options.seed)
        return NETS[options.net](width).to(processes.device, memory_format=torch.channels_last)

    def run(epochs: int = options.epochs, lr: float = options.lr) -> Run:
        return Run(data, batches, epochs * len(batches), processes, lr, clip=5.0, autocast=autocast)

    teacher = _dense(net(), run(options.dense_epochs, options.scratch_lr), options.dense)
    table.dense = to_onnx(teacher, table.example)
    images = data.train[0][: options.calibrate].numpy()
    common = {"macs": options.budget, "calibration": images, "threads": options.threads, "device": "cpu"}

    def behind_masks(method=None):
        return wrap(copy.deepcopy(teacher).requires_grad_(), table.example, method=method, seed=options.seed)

    def learned(method, ordered=False):
        masks, training = behind_masks(method), run()
        if ordered:
            masks.start_in_order(_falling(table.dense, images, options))
        training.learn(masks, teacher=teacher, macs=options.budget, lr=options.mask_lr, settle=options.settle)
        return shrink(masks, table.example).model, training.seconds

    def chosen(how):
        masks, training = behind_masks(), run()
        plan = onnxmerge.optimize(table.dense, **common, align=1, **how).plan
        masks.fix_at(plan.selection)
        training.learn(masks, teacher=teacher)
        return shrink(masks, table.example).model, training.seconds

    def from_scratch():
        training = run(lr=options.scratch_lr)
        narrow = training.plain(net(table.width_at(options.budget, net)), teacher=teacher)
        return to_onnx(narrow, table.example), training.seconds

    def recovered(steps: int | None):
        start = time.perf_counter()
        asked = {"recover": Recovery(steps=steps)} if steps else {}
        return onnxmerge.optimize(table.dense, **common, **asked).model, time.perf_counter() - start

    def taught_on_all():
        start = time.perf_counter()
        small = onnxmerge.optimize(table.dense, **common).model
        name = small.graph.input[0].name
        everything = Dataset("training images", {name: data.train[0].numpy()})
        fit, judged = everything.split(*CHECKING, seed=options.seed)
        bound = Recovery(steps=options.epochs * len(batches), batch=options.batch)
        found = recover(
            table.dense, small, fit, judged, bound, images={name: "nchw"}, threads=options.threads
        )
        return found.model, time.perf_counter() - start

    table.row("dense", table.dense, 0.0, 1.0)
    rows = {
        "learned masks": lambda: learned(HardStep()),
        "learned masks, in the order of onnxmerge": lambda: learned(HardStep(), ordered=True),
        "L0 gates": lambda: learned(HardConcrete()),
        **{name: lambda how=how: chosen(how) for name, how in CHOSEN.items()},
        "uniform width, from scratch": from_scratch,
        f"onnxmerge, {options.calibrate} images": lambda: recovered(None),
        f"onnxmerge --recover {options.recover}": lambda: recovered(options.recover),
        "onnxmerge, recovered on all images": taught_on_all,
    }
    for name, make in rows.items():
        if options.only in name:
            table.row(name, *make(), options.budget)


def _falling(model: onnx.ModelProto, images: np.ndarray, options: argparse.Namespace) -> list[Selection]:
    """What onnxmerge keeps at ever smaller shares of the MACs."""
    config = Config(align=1, depth=False, threads=options.threads, device="cpu")
    study = analysed(model, images, None, config, Clock())
    widths = Widths(study, score(study, study.samples.fit), "macs")
    return [widths.select(share) for share in SHARES]


def _dense(net: nn.Module, run: Run, path: str) -> nn.Module:
    """The trained dense net, in evaluation mode; read from a file where it is there, else written to it."""
    if path and Path(path).exists():
        net.load_state_dict(torch.load(path, weights_only=True))
    else:
        run.plain(net)
        if path:
            torch.save(net.state_dict(), path)
    return net.eval().requires_grad_(False)


if __name__ == "__main__":
    main()

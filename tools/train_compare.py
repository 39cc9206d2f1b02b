"""One net, some budgets of MACs, every way to get there: error at equal MACs.

    python -m onnxmerge.train run tools/train_compare.py --data cifar10 --net vgg --budgets 0.5,0.3 --seed 0

Learned masks and L0 gates (both from scratch), the uniformly narrower net trained from scratch, and
onnxmerge without training on the dense net. Every row is an ONNX file at the end; its size and its
latency in onnxruntime are those of that file, beside the dense one. All trained nets get the same steps.
With --out FILE.md, FILE.svg shows the run.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
import onnx
import torch
from matplotlib.figure import Figure
from torch import nn
from train_common import Row, Run, arguments, device_name, read
from train_nets import NETS

import onnxmerge
from onnxmerge.channels.analysis import Analysis
from onnxmerge.channels.cost import CostModel
from onnxmerge.graph import load
from onnxmerge.runtime import Runtime
from onnxmerge.train import Batches, HardConcrete, HardStep, Processes, shift_and_flip, shrink, to_onnx, wrap
from onnxmerge.validation import compare_latency

# Text as text, and names of parts that do not change from run to run.
matplotlib.rcParams.update({"svg.hashsalt": "onnxmerge", "svg.fonttype": "none", "font.size": 8})


def main() -> None:
    options = arguments(
        __doc__,
        net="vgg",
        width=12.0,
        budgets="0.3",
        epochs=8,
        batch=64,
        lr=0.05,
        mask_lr=0.02,
        calibrate=512,
    )
    data = read(options.data, options.samples)
    processes = Processes.start(options.device)
    batches = Batches(data.train, options.batch, options.seed, shift_and_flip())
    run = Run(data, batches, options.epochs * len(batches), processes, options.lr)
    table = Table(options, data, processes)

    def net(width: float = options.width) -> nn.Module:
        torch.manual_seed(options.seed)
        return NETS[options.net](width).to(processes.device)

    dense = run.plain(net())
    table.dense = to_onnx(dense, table.example)
    table.row("dense", table.dense, run.seconds, 1.0)
    for budget in map(float, options.budgets.split(",")):
        for name, method in (("learned masks", HardStep()), ("L0 gates", HardConcrete())):
            masks = wrap(net(), table.example, method=method, seed=options.seed)
            run.learn(masks, macs=budget, lr=options.mask_lr)
            table.row(name, shrink(masks, table.example).model, run.seconds, budget)
        narrow = run.plain(net(table.width_at(budget, net)))
        table.row("uniform width, from scratch", to_onnx(narrow, table.example), run.seconds, budget)
        start = time.perf_counter()
        cut = onnxmerge.optimize(
            table.dense,
            macs=budget,
            calibration=data.train[0][: options.calibrate].numpy(),
            threads=options.threads,
        )
        seconds = time.perf_counter() - start
        table.row("dense, then onnxmerge without training", cut.model, seconds, budget)
        if options.out is not None and processes.rank == 0:
            table.draw(options.out.with_suffix(".svg"))


class Table:
    """Rows about ONNX files of one net; ``dense`` is what they are compared with."""

    def __init__(self, options, data, processes: Processes):
        self.options, self.data, self.processes = options, data, processes
        self.example = data.train[0][:2]
        self.runtime = Runtime.create("cpu", options.threads)
        self.dense = onnx.ModelProto()
        self.points: dict[str, list[tuple[float, float]]] = {}

    def macs(self, model: onnx.ModelProto) -> int:
        feed = {model.graph.input[0].name: self.example[:1].numpy()}
        return CostModel(Analysis.of(load(model), partial(self.runtime.trace, feed=feed)).channels).macs

    def width_at(self, budget: float, net) -> float:
        """The width whose MACs come nearest to the budget from below."""
        full = self.macs(self.dense)
        low, high = 1.0, self.options.width
        for _ in range(12):
            middle = (low + high) / 2
            fits = self.macs(to_onnx(net(middle).cpu(), self.example)) <= budget * full
            low, high = (middle, high) if fits else (low, middle)
        return low

    def error(self, model: onnx.ModelProto) -> float:
        session = self.runtime.session(model)
        images, labels = self.data.test
        name = session.inputs[0].name
        right = sum(
            int((next(iter(session.run({name: x.numpy()}).values())).argmax(1) == y.numpy()).sum())
            for x, y in zip(images.split(256), labels.split(256), strict=True)
        )
        return 100 * (1 - right / len(labels))

    def row(self, method: str, model: onnx.ModelProto, seconds: float, budget: float) -> None:
        if self.processes.rank > 0:
            return
        sessions = [self.runtime.session(m) for m in (self.dense, model)]
        feed = {sessions[0].inputs[0].name: np.zeros((1, *self.example.shape[1:]), np.float32)}
        latency = compare_latency(*sessions, feed, seconds=2.0)
        options = self.options
        share, error = self.macs(model) / self.macs(self.dense), self.error(model)
        self.points.setdefault(method, []).append((100 * share, 100 - error))
        Row(options.out).write({
            "net": f"{options.net} {options.width:g}",
            "budget": budget,
            "method": method,
            "MACs kept": f"{100 * share:.1f}%",
            "test error %": f"{error:.2f}",
            "file kB": f"{model.ByteSize() / 1000:.0f}",
            "latency / dense": f"{latency.ratio:.2f}",
            "images": len(self.data.train[0]),
            "epochs": options.epochs,
            "seed": options.seed,
            "device": device_name(self.processes),
            "seconds": f"{seconds:.0f}",
        })  # fmt: skip

    def draw(self, path: Path) -> None:
        """Accuracy against the share of MACs kept, a line for every method; all start at the dense net."""
        dense = self.points["dense"]
        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        for method, points in self.points.items():
            if method != "dense":
                axes.plot(*zip(*sorted(points + dense), strict=True), "o-", label=method, markersize=3)
        axes.set(xlabel="MACs kept, %", ylabel="test images right, %")
        axes.grid(alpha=0.3)
        axes.legend()
        figure.savefig(path, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    main()

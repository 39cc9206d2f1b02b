"""What a smaller model loses on labelled test images: tables of losses, methods and time.

    python tools/accuracy.py losses --shared ../shared
    python tools/accuracy.py losses --models resnet20_bn --shares 0.7 0.5 --data none
    python tools/accuracy.py methods --models resnet20_bn --shares 0.6
    python tools/accuracy.py time

Needs a folder with ``models`` (ONNX files and models.json: normalisation and data set of each) and
``data`` (load.py). Calibration uses training images without their labels, each draw others; accuracy
is that of the test images. ``--split train`` measures on training images that no draw uses: settings
are chosen there.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import resource
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx

import onnxmerge
from onnxmerge.runtime import Runtime

SHARES = {
    "resnet56_bn": (0.7, 0.6, 0.5, 0.4),
    "resnet56_folded": (0.7, 0.6, 0.5, 0.4),
    "resnet20_bn": (0.7, 0.6, 0.5),
    "resnet20_folded": (0.7, 0.6, 0.5),
    "resnet8": (0.8, 0.7, 0.6, 0.5),
    "mobilenetv2": (0.9, 0.8, 0.7),
    "lenet_300_100": (0.5, 0.4, 0.3, 0.2),
}
SAMPLES = {"mobilenetv2": 250}
# Training images from here on are never used for calibration.
_VALIDATION = 15_000


@dataclass(frozen=True, eq=False)
class Bench:
    """A model with images to calibrate on and images to judge on, both as the model takes them."""

    name: str
    path: Path
    pool: np.ndarray
    judged: np.ndarray
    labels: np.ndarray

    def draw(self, number: int) -> np.ndarray:
        """The images of one calibration draw."""
        count = min(SAMPLES.get(self.name, 512), len(self.pool))
        order = np.random.default_rng(100 + number).permutation(len(self.pool))
        return self.pool[order[:count]]

    def answers(self, model: onnx.ModelProto | Path, runtime: Runtime) -> np.ndarray:
        """The class of every image that is judged on."""
        session = runtime.session(model)
        name, output = session.inputs[0].name, session.outputs[0].name
        fixed = session.inputs[0].shape[0]
        step = fixed if isinstance(fixed, int) else 50
        found = [
            session.run({name: self.judged[i : i + step]}, [output])[output]
            for i in range(0, len(self.judged), step)
        ]
        return np.concatenate([y.reshape(-1, y.shape[-1]) for y in found]).argmax(axis=1)


def load_bench(shared: Path, name: str, split: str) -> Bench:
    """Read a model's images and bring them into its normalisation."""
    facts = json.loads((shared / "models" / "models.json").read_text())
    data = _module(shared / "data" / "load.py")
    own = facts[name]
    own = facts[own["same_as"]] | own if "same_as" in own else own
    if own["dataset"] == "imagenet":
        (pool, _), (judged, labels) = data.imagenet("calibration"), data.imagenet("test")
        pool, judged = (x[:, 16:240, 16:240].astype(np.float32) / 127.5 - 1 for x in (pool, judged))
    else:
        read = getattr(data, own["dataset"])
        (pool, known), (judged, labels) = read("train"), read("test")
        mixed = np.random.default_rng(0).permutation(len(pool))
        pool, known = pool[mixed], known[mixed]
        if split == "train":
            judged, labels = pool[_VALIDATION : _VALIDATION + 3000], known[_VALIDATION : _VALIDATION + 3000]
        pool = pool[:_VALIDATION]
        divisor = 255.0 if own["scale"] == "1/255" else 1.0
        pool, judged = (
            (x.astype(np.float32) / np.float32(divisor) - np.float32(own["mean"])) / np.float32(own["std"])
            for x in ((x if x.ndim == 4 else x[..., None]) for x in (pool, judged))
        )
    pool, judged = (np.ascontiguousarray(x.transpose(0, 3, 1, 2)) for x in (pool, judged))
    return Bench(name, shared / "models" / f"{name}.onnx", pool, judged, labels)


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("load", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def losses(args: argparse.Namespace) -> None:
    """Points of top-1 lost at shares of the MACs, over several calibration draws."""
    print("| model | data | kept | dense | points lost | standard error | agreement |")
    print("|---|---|---|---|---|---|---|")
    for name in args.models or SHARES:
        bench = load_bench(args.shared, name, args.split)
        runtime = Runtime.create("cpu", args.threads)
        dense = bench.answers(bench.path, runtime)
        for data, share in product(args.data, args.shares or SHARES[name]):
            # Without data nothing is drawn: only the seed of the generic images differs.
            rows = [_loss(bench, dense, data, share, draw, args, runtime) for draw in range(args.draws)]
            lost, agreement = np.array(rows).T
            error = lost.std(ddof=1) / math.sqrt(len(lost)) if len(lost) > 1 else math.nan
            print(
                f"| {name} | {data} | {share:g} | {100 * (dense == bench.labels).mean():.2f} "
                f"| {lost.mean():.2f} | {error:.2f} | {agreement.mean():.2f} |",
                flush=True,
            )


def _loss(
    bench, dense, data: str, share: float, draw: int, args, runtime: Runtime, **method
) -> tuple[float, float]:
    """(points of top-1 lost, percent of equal answers) of one run."""
    found = bench.answers(_smaller(bench, data, share, draw, args, **method).model, runtime)
    lost = 100 * ((dense == bench.labels).mean() - (found == bench.labels).mean())
    return float(lost), float(100 * (found == dense).mean())


def _smaller(bench: Bench, data: str, share: float, draw: int, args, **method):
    # The published figures of this net are for a share of its neurons.
    neurons = bench.name == "lenet_300_100"
    budget = {"ratio": 1 - share} if neurons else {"macs": share}
    method = {"allocation": "curves"} | method if neurons and data == "given" else method
    calibration = bench.draw(draw) if data == "given" else None
    return onnxmerge.optimize(
        bench.path,
        calibration=calibration,
        seed=draw,
        threads=args.threads,
        device="cpu",
        align=args.align if args.align == "auto" else int(args.align),
        **budget,
        **method,
    )


def methods(args: argparse.Namespace) -> None:
    """Every compensation with every criterion and allocation, one draw."""
    print("| model | MACs kept | criterion | allocation | none | merge | gaussian | lstsq |")
    print("|---|---|---|---|---|---|---|---|")
    for name in args.models or ("resnet56_bn", "resnet20_bn"):
        bench = load_bench(args.shared, name, args.split)
        runtime = Runtime.create("cpu", args.threads)
        dense = bench.answers(bench.path, runtime)
        for share, criterion, allocation in product(
            args.shares or (0.6,), ("l1", "l2", "gm", "reconstruction"), ("uniform", "global", "curves")
        ):
            cells = []
            for compensation in ("none", "merge", "gaussian", "lstsq"):
                chosen = {"criterion": criterion, "allocation": allocation, "compensation": compensation}
                cells.append(f"{_loss(bench, dense, 'given', share, 0, args, runtime, **chosen)[0]:.1f}")
            print(f"| {name} | {share:g} | {criterion} | {allocation} | {' | '.join(cells)} |", flush=True)


def times(args: argparse.Namespace) -> None:
    """Where the seconds go, and the peak memory."""
    for name in args.models or ("resnet56_bn", "mobilenetv2"):
        bench = load_bench(args.shared, name, args.split)
        for share in args.shares or (0.5 if name.startswith("resnet") else 0.8,):
            begin = time.perf_counter()
            result = _smaller(bench, "given", share, 0, args)
            total = time.perf_counter() - begin
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            print(f"{name} at {share:g}: {total:.1f} s, peak {peak:.2f} GB (the images included)")
            for stage, seconds in result.report["seconds"].items():
                print(f"  {stage:<12} {seconds:7.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", choices=("losses", "methods", "time"))
    parser.add_argument("--shared", type=Path, default=Path(__file__).resolve().parents[2] / "shared")
    parser.add_argument("--models", nargs="*")
    parser.add_argument("--shares", nargs="*", type=float)
    parser.add_argument("--data", nargs="*", choices=("given", "none"), default=("given", "none"))
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--split", choices=("test", "train"), default="test")
    parser.add_argument("--align", default="auto", help="auto, or a number of channels")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    {"losses": losses, "methods": methods, "time": times}[args.table](args)


if __name__ == "__main__":
    main()

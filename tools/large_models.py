"""How onnxmerge does on large models: time, peak memory and sizes, on generated models with random weights.

    python tools/large_models.py --folder FOLDER [--only vgg16] [--layers 12]

A decoder of 3 GB (token ids in, logits out, weights in a file of their own) and a network of the size of
VGG-16 are made in FOLDER, optimised by the command line in a process of its own, checked, run, and
deleted. The table goes to tools/results/large_models.md, the figures beside it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

RESULTS = Path(__file__).parent / "results" / "large_models.json"


@dataclass
class Writer:
    """A model under construction; big weights go straight to its data file."""

    path: Path
    seed: int = 0
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    stored: list[onnx.TensorProto] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self._data = self.path.with_name(self.path.name + ".data").open("wb")

    def node(self, op: str, *inputs: str, **attributes) -> str:
        """Add a node; returns the name of its output."""
        name = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def constant(self, name: str, values: np.ndarray) -> str:
        """Add an initializer."""
        tensor = TensorProto(name=name, dims=values.shape)
        tensor.data_type = helper.np_dtype_to_tensor_dtype(values.dtype)
        if values.nbytes < 1024:
            tensor = numpy_helper.from_array(values, name)
        else:
            self._data.write(bytes(-self._data.tell() % 4096))
            start = self._data.tell()
            values.tofile(self._data)
            places = (("location", f"{self.path.name}.data"), ("offset", start), ("length", values.nbytes))
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in places:
                tensor.external_data.add(key=key, value=str(value))
        self.stored.append(tensor)
        return name

    def normal(self, *shape: int, scale: float) -> np.ndarray:
        values = self.rng.standard_normal(shape, dtype=np.float32)
        values *= scale
        return values

    def finish(self, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]) -> None:
        self._data.close()
        graph = helper.make_graph(self.nodes, "large", inputs, outputs, self.stored)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
        self.path.write_bytes(model.SerializeToString())


def decoder(path: Path, layers: int, width: int = 2048, hidden: int = 8192, words: int = 32000) -> None:
    """A pre-norm decoder: learned positions are left out, attention is causal with heads of 128.

    Of the hidden units of every feed-forward part, three in ten are noisy copies of others, and their
    scales are spread: there is something to find.
    """
    w, heads = Writer(path), width // 128
    split = w.constant("split", np.array([0, 0, heads, 128], np.int64))
    join = w.constant("join", np.array([0, 0, width], np.int64))
    scale = w.constant("scale", np.array(128**-0.5, np.float32))
    future = w.constant("future", np.triu(np.full((64, 64), -1e9, np.float32), 1))
    x = w.node("Gather", w.constant("words", w.normal(words, width, scale=1.0)), "ids")

    def norm(x: str, name: str) -> str:
        gain = w.constant(f"{name}.gain", 1 + w.normal(width, scale=0.1))
        return w.node("LayerNormalization", x, gain, w.constant(f"{name}.shift", w.normal(width, scale=0.1)))

    def dense(x: str, name: str, weight: np.ndarray) -> str:
        product = w.node("MatMul", x, w.constant(f"{name}.weight", weight))
        bias = w.normal(weight.shape[1], scale=0.1)
        return w.node("Add", product, w.constant(f"{name}.bias", bias))

    for i in range(layers):
        y = norm(x, f"{i}.norm1")
        parts = [dense(y, f"{i}.{n}", w.normal(width, width, scale=width**-0.5)) for n in "qkv"]
        q, k, v = (
            w.node("Transpose", w.node("Reshape", p, split), perm=perm)
            for p, perm in zip(parts, ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True)
        )
        scores = w.node("Add", w.node("Mul", w.node("MatMul", q, k), scale), future)
        mixed = w.node("MatMul", w.node("Softmax", scores, axis=-1), v)
        joined = w.node("Reshape", w.node("Transpose", mixed, perm=[0, 2, 1, 3]), join)
        x = w.node("Add", x, dense(joined, f"{i}.out", w.normal(width, width, scale=width**-0.5)))
        into = w.normal(width, hidden, scale=width**-0.5)
        copies = hidden * 3 // 10
        into[:, -copies:] = into[:, :copies] + w.normal(width, copies, scale=0.2 * width**-0.5)
        into *= np.exp(w.normal(hidden, scale=0.5))
        h = w.node("Gelu", dense(norm(x, f"{i}.norm2"), f"{i}.up", into))
        x = w.node("Add", x, dense(h, f"{i}.down", w.normal(hidden, width, scale=hidden**-0.5)))
    logits = w.node("MatMul", norm(x, "norm"), w.constant("head", w.normal(width, words, scale=width**-0.5)))
    w.nodes[-1].output[0] = logits = "logits"
    shape = ["batch", 64]
    w.finish(
        [helper.make_tensor_value_info("ids", TensorProto.INT64, shape)],
        [helper.make_tensor_value_info(logits, TensorProto.FLOAT, [*shape, words])],
    )


def vgg16(path: Path) -> None:
    """The layers of VGG-16 (Simonyan and Zisserman 2015, configuration D), random He-scaled weights."""
    w = Writer(path)

    def layer(op: str, x: str, weight: np.ndarray, **attributes) -> str:
        name = f"{op.lower()}{len(w.nodes)}"
        weight *= np.exp(w.normal(len(weight), scale=0.3)).reshape(-1, *[1] * (weight.ndim - 1))
        bias = w.constant(f"{name}.bias", w.normal(len(weight), scale=0.01))
        return w.node(op, x, w.constant(f"{name}.weight", weight), bias, **attributes)

    x, channels = "image", 3
    for width, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(depth):
            weight = w.normal(width, channels, 3, 3, scale=(2 / (9 * channels)) ** 0.5)
            x, channels = w.node("Relu", layer("Conv", x, weight, pads=[1] * 4)), width
        x = w.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = w.node("Flatten", x)
    for width, inputs in ((4096, 512 * 49), (4096, 4096), (1000, 4096)):
        x = layer("Gemm", x, w.normal(width, inputs, scale=(2 / inputs) ** 0.5), transB=1)
        x = w.node("Relu", x) if width == 4096 else x
    w.finish(
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 224, 224])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, ["batch", 1000])],
    )


@dataclass(frozen=True)
class Job:
    """A model to make, data to calibrate it with and other data to judge it by, and further options."""

    name: str
    make: Callable[[Path], None]
    feed: dict[str, np.ndarray]
    fresh: dict[str, np.ndarray]
    options: tuple[str, ...]


def jobs(layers: int) -> Iterator[Job]:
    rng = np.random.default_rng(1)
    ids, other = rng.integers(0, 32000, (2, 32, 64))
    yield Job(
        f"decoder, {layers} layers of 2048/8192, fp32",
        lambda path: decoder(path, layers),
        {"ids": ids},
        {"ids": other},
        ("--params", "0.8"),
    )
    images, other = rng.standard_normal((2, 32, 3, 224, 224), dtype=np.float32)
    yield Job("VGG-16 sizes, fp32", vgg16, {"image": images}, {"image": other}, ("--params", "0.5"))


def aside(work: Callable[[], object]) -> object:
    """What a function gives, in a process of its own.

    The largest resident set of a process counts for its children too: the maker has to stay small.
    """
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=lambda: queue.put(work()))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit("a model could not be made or run")
    return queue.get()


def runs(path: Path, feed: dict[str, np.ndarray]) -> bool:
    """Whether a file is valid and gives finite answers."""
    onnx.checker.check_model(str(path))
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return bool(np.isfinite(session.run(None, feed)[0]).all())


def measured(job: Job, folder: Path) -> dict:
    """Make the model, optimise it in a child process, check and run what it wrote."""
    source, target, report = folder / "in.onnx", folder / "out.onnx", folder / "report.json"
    calib, fresh = folder / "calib.npz", folder / "fresh.npz"
    aside(lambda: job.make(source))
    np.savez(calib, **job.feed)
    np.savez(fresh, **job.fresh)
    command = [sys.executable, "-m", "onnxmerge", str(source), str(target), "--calib", str(calib), "--quiet"]
    command += ["--eval-calib", str(fresh)]
    started = time.perf_counter()
    child = subprocess.Popen([*command, "--report", str(report), *job.options])
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"{job.name}: onnxmerge failed")
    finite = aside(lambda: runs(target, {name: values[:1] for name, values in job.feed.items()}))
    return {
        "seconds": seconds,
        "peak": usage.ru_maxrss * 1024,
        "input": _size(source),
        "output": _size(target),
        "finite": finite,
        "change": (told := json.loads(report.read_text()))["parity"]["change"],
        "latency": told["latency"]["ratio"],
        "stages": told["seconds"],
    }


def _size(path: Path) -> int:
    data = path.with_name(path.name + ".data")
    return path.stat().st_size + (data.stat().st_size if data.exists() else 0)


def table(found: dict[str, dict], command: str) -> str:
    lines = [
        "# Large models",
        "",
        f"Made by `{command}`. Peak: the largest resident set of the process, mapped weights "
        "included. The change is measured on other samples than those that calibrated.",
        "",
        "| model | options | input | output | seconds | peak | peak / input | change | latency ratio "
        "| valid and runs |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in found.items():
        lines.append(
            f"| {name} | {row['options']} | {row['input'] / 1e9:.3f} GB | {row['output'] / 1e9:.3f} GB "
            f"| {row['seconds']:.0f} | {row['peak'] / 1e9:.2f} GB | {row['peak'] / row['input']:.2f} "
            f"| {row['change']:.3f} | {row['latency']:.2f} | {'yes' if row['finite'] else 'no'} |"
        )
    for name, row in found.items():
        seconds = ", ".join(f"{k} {v:.0f}" for k, v in row["stages"].items())
        lines += ["", f"Seconds per stage, {name}: {seconds}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="where models are made and deleted")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--only", default="", help="jobs whose name contains this")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for job in jobs(options.layers):
        if options.only.lower() not in job.name.lower():
            continue
        try:
            row = measured(job, options.folder) | {"options": " ".join(job.options)}
        finally:
            for path in options.folder.iterdir():
                path.unlink()
        found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        found[job.name] = row
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
        RESULTS.with_suffix(".md").write_text(table(found, "python tools/large_models.py --folder FOLDER"))


if __name__ == "__main__":
    main()

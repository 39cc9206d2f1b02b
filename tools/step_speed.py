"""A step of teaching through the executor of ONNX graphs beside the same network in torch.nn.

    python tools/step_speed.py [--pairs 15]

Forth, the mean square of the answers, and back, on batches of 32; the two take turns on one thread, and the
median of the ratios of processor time is what counts, for a machine that others use. Normalisations keep
their statistics, and images lie channels last, on both sides, as recovery has them. A table goes to
tools/results/step_speed.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from train_nets import mobilenet2, resnet

from onnxmerge.train import to_onnx
from onnxmerge.train.executor import OnnxModule

RESULTS = Path(__file__).parent / "results" / "step_speed.md"
BATCH = 32


def transformer() -> nn.Module:
    """Four layers of width 64 with four heads on sequences of 16."""
    layer = nn.TransformerEncoderLayer(64, 4, 256, dropout=0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
    return nn.Sequential(encoder, nn.Flatten(), nn.Linear(16 * 64, 10))


def mlp() -> nn.Module:
    """Three layers of 32."""
    return nn.Sequential(*(m for _ in range(3) for m in (nn.Linear(32, 32), nn.ReLU())), nn.Linear(32, 10))


# By name: what makes the network, and the shape of a sample.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "ResNet-56 for 32 x 32 pixels": (lambda: resnet(16, 9), (3, 32, 32)),
    "MobileNetV2 of five blocks for 32 x 32 pixels, width 32": (lambda: mobilenet2(32), (3, 32, 32)),
    "transformer of 4 layers and width 64, sequences of 16": (transformer, (16, 64)),
    "MLP of 3 layers of 32": (mlp, (32,)),
}


def measure(make: Callable[[], nn.Module], shape: tuple[int, ...], pairs: int) -> tuple[np.ndarray, float]:
    """The ratios of single pairs, float64 [pairs]; and the median step in torch.nn, in milliseconds."""
    torch.manual_seed(0)
    plain, x = make().eval(), torch.randn(BATCH, *shape)
    executed = OnnxModule(to_onnx(plain, x[:2]), batch_statistics=False).eval()
    if len(shape) == 3:
        x = x.contiguous(memory_format=torch.channels_last)
        plain, executed = (m.to(memory_format=torch.channels_last) for m in (plain, executed))  # type: ignore[call-overload]
    assert torch.allclose(plain(x), executed(x), rtol=1e-2, atol=1e-4)
    # Short steps are measured several at a time.
    count = max(1, round(0.02 / _seconds(plain, x, 1)))
    times = np.array([[_seconds(module, x, count) for module in (plain, executed)] for _ in range(pairs)])
    return times[:, 1] / times[:, 0], 1000 * float(np.median(times[:, 0])) / count


def _seconds(module: nn.Module, x: Tensor, count: int) -> float:
    begin = time.process_time()
    for _ in range(count):
        module.zero_grad(set_to_none=True)
        module(x).square().mean().backward()
    return time.process_time() - begin


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=15)
    pairs = parser.parse_args().pairs
    torch.set_num_threads(1)
    torch.backends.mha.set_fastpath_enabled(False)  # it is no operator that can be exported
    lines = [
        "# A step of teaching",
        "",
        f"`python tools/step_speed.py --pairs {pairs}`: processor time of a step forth and back through the "
        f"executor of ONNX graphs, as a share of the same network's in torch.nn; batches of {BATCH}, one "
        "thread of a CPU, taking turns, random weights. The aim is 1.1.",
        "",
        "| network | torch.nn, ms | share, median | half of the pairs between |",
        "|---|---|---|---|",
    ]
    for name, (make, shape) in NETWORKS.items():
        ratios, milliseconds = measure(make, shape, pairs)
        low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
        lines.append(f"| {name} | {milliseconds:.1f} | {middle:.2f} | {low:.2f} and {high:.2f} |")
        print(lines[-1], flush=True)
    RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

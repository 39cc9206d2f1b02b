"""Train the small model in ``models/`` on scikit-learn's digits, and write its calibration and test data.

    python tools/train_digits.py [--out models] [--epochs 60] [--seed 0]

The net is a residual convolutional one with BatchNorm, a depthwise convolution and a concat, so that
every kind of coupling occurs in a file of a few hundred kilobytes. Writes digits.onnx, digits_calib.npz
(unlabelled training images) and digits_test.npz (images and labels that training has not seen).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

CALIBRATION_SAMPLES = 512


class Block(nn.Module):
    """Two convolutions around which the input is added back."""

    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, inner, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(x + self.norm2(self.conv2(y)))


class DigitsNet(nn.Module):
    """8x8 grey images in [0, 1] -> 10 logits."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 32, 3, padding=1)
        self.block1 = Block(32, 32)
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.left = nn.Conv2d(32, 32, 1)
        self.right = nn.Conv2d(32, 32, 3, padding=1)
        self.down = nn.Conv2d(64, 64, 3, stride=2, padding=1)
        self.block2 = Block(64, 64)
        self.fc1 = nn.Linear(64 * 4 * 4, 64)
        self.fc2 = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.block1(functional.relu(self.stem(x)))
        x = functional.relu(self.depthwise(x))
        x = torch.cat([functional.relu(self.left(x)), functional.relu(self.right(x))], dim=1)
        x = self.block2(functional.relu(self.down(x)))
        return self.fc2(functional.relu(self.fc1(x.flatten(1))))


def data(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Shuffled training and test images, float32 [N, 1, 8, 8] in [0, 1], with their labels."""
    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)[:, None]
    order = np.random.default_rng(seed).permutation(len(images))
    train, test = order[:1297], order[1297:]
    return images[train], digits.target[train], images[test], digits.target[test]


def train(net: nn.Module, x: np.ndarray, y: np.ndarray, epochs: int) -> None:
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    inputs, labels = torch.from_numpy(x), torch.from_numpy(y)
    for _ in range(epochs):
        net.train()
        for rows in torch.randperm(len(inputs)).split(64):
            shift = [int(s) for s in torch.randint(-1, 2, (2,))]
            batch = torch.roll(inputs[rows], shift, dims=(2, 3))
            loss = functional.cross_entropy(net(batch), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    net.eval()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "models")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    x, y, x_test, y_test = data(options.seed)
    net = DigitsNet()
    train(net, x, y, options.epochs)
    with torch.no_grad():
        right = (net(torch.from_numpy(x_test)).argmax(1).numpy() == y_test).mean()
    print(f"test accuracy {right:.2%} on {len(y_test)} images")
    options.out.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        net, (torch.from_numpy(x[:1]),), str(options.out / "digits.onnx"), input_names=["image"],
        output_names=["logits"], dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
        opset_version=17, dynamo=False, do_constant_folding=False, training=torch.onnx.TrainingMode.PRESERVE,
    )  # fmt: skip
    np.savez_compressed(options.out / "digits_calib.npz", image=x[:CALIBRATION_SAMPLES])
    np.savez_compressed(options.out / "digits_test.npz", image=x_test, label=y_test)


if __name__ == "__main__":
    main()

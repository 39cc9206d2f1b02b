"""The networks of the published experiments, at any width, with any activation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Activation = Callable[[], nn.Module]

ACTIVATIONS: dict[str, Activation] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "selu": nn.SELU,
    "elu": nn.ELU,
    "softsign": nn.Softsign,
    "hardswish": nn.Hardswish,
    "leakyrelu": nn.LeakyReLU,
}
_VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)
# Channels and stride of every pair of a depthwise and a pointwise convolution, for 32x32 images.
_MOBILENET = (
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)),
    *((512, 1),) * 5,
    *((1024, 2), (1024, 1)),
)


def lenet_300_100(width: float) -> nn.Module:
    first, second = round(300 * width), round(100 * width)
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(784, first), nn.ReLU()),
        *(nn.Linear(first, second), nn.ReLU(), nn.Linear(second, 10)),
    )


def lenet_5(width: float) -> nn.Module:
    first, second, third = round(20 * width), round(50 * width), round(500 * width)
    return nn.Sequential(
        *(nn.Conv2d(1, first, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(first, second, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(16 * second, third), nn.ReLU(), nn.Linear(third, 10)),
    )


class Vgg16(nn.Module):
    """Thirteen 3x3 convolutions with BatchNorm, ``conv1`` to ``conv13``, and two dense layers."""

    def __init__(self, width: float, activation: Activation):
        super().__init__()
        channels, number, layers = 3, 0, []
        for full in _VGG16:
            if not full:
                layers.append(("pool", nn.MaxPool2d(2)))
                continue
            number, wide = number + 1, round(full * width)
            layers += [
                (f"conv{number}", nn.Conv2d(channels, wide, 3, padding=1, bias=False)),
                (f"norm{number}", nn.BatchNorm2d(wide)),
                (f"act{number}", activation()),
            ]
            channels = wide
        self.features = nn.Sequential()
        for place, (name, layer) in enumerate(layers):
            self.features.add_module(f"{name}_{place}" if name == "pool" else name, layer)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Sequential(
            *(nn.Linear(channels, channels), nn.BatchNorm1d(channels), activation()),
            nn.Linear(channels, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.features(x)).flatten(1))


def mobilenetv1(width: float) -> nn.Module:
    """Depthwise-separable convolutions, strides for 32x32 images."""
    channels = round(32 * width)
    layers = _normed(nn.Conv2d(3, channels, 3, 1, 1, bias=False))
    for full, stride in _MOBILENET:
        wide = round(full * width)
        layers += _normed(nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False))
        layers += _normed(nn.Conv2d(channels, wide, 1, bias=False))
        channels = wide
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def _normed(convolution: nn.Conv2d) -> list[nn.Module]:
    return [convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU()]


class _PreActivated(nn.Module):
    """A residual block of a WideResNet: BatchNorm and ReLU stand before the convolutions."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.shortcut = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        entered = torch.relu(self.norm1(x))
        skipped = x if self.shortcut is None else self.shortcut(entered)
        return skipped + self.conv2(torch.relu(self.norm2(self.conv1(entered))))


def wide_resnet_10(width: float) -> nn.Module:
    """WRN-10 with three blocks; ``width`` 4 is WRN-10-4."""
    layers, channels = [nn.Conv2d(3, 16, 3, 1, 1, bias=False)], 16
    for full, stride in ((16, 1), (32, 2), (64, 2)):
        layers.append(_PreActivated(channels, round(full * width), stride))
        channels = round(full * width)
    head = (nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*layers, *head, nn.Linear(channels, 10))


@dataclass(frozen=True)
class Recipe:
    """How a network is built and trained.

    Attributes:
        build: from its width.
        data: ``cifar10`` or ``fashion_mnist``.
        width: share of the published channels; of the WideResNet its own factor.
        epochs: of one-cycle training.
        lr: its largest learning rate.
        half: whether bfloat16 is worth it on a CPU, as it is not for depthwise convolutions.
        start: the net whose weights it starts from, of the same shapes; None: random ones.
    """

    build: Callable[[float], nn.Module]
    data: str
    width: float
    epochs: int
    lr: float = 0.05
    half: bool = True
    start: str | None = None


def _vgg(activation: str) -> Recipe:
    def build(width: float) -> nn.Module:
        return Vgg16(width, ACTIVATIONS[activation])

    # Seven nets from nothing take hours on one core: the others go on from the first.
    if activation == "relu":
        return Recipe(build, "cifar10", 0.5, 10)
    return Recipe(build, "cifar10", 0.5, 3, lr=0.03, start="vgg16_relu")


# In the order in which they are trained.
RECIPES: dict[str, Recipe] = {
    "lenet_300_100": Recipe(lenet_300_100, "fashion_mnist", 1.0, 10, half=False),
    "lenet_5": Recipe(lenet_5, "fashion_mnist", 1.0, 5, half=False),
    "mobilenetv1": Recipe(mobilenetv1, "cifar10", 0.5, 6, lr=0.1, half=False),
    **{f"vgg16_{name}": _vgg(name) for name in ACTIVATIONS},
    "wrn_10_4": Recipe(wide_resnet_10, "cifar10", 4.0, 5, lr=0.1),
}

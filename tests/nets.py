"""Convolutional architectures for tests, written from the papers, small or at full size, random weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F


def conv(
    c: int, n: int, k: int = 3, s: int = 1, groups: int = 1, act: Callable | None = nn.ReLU
) -> nn.Sequential:
    """Convolution, BatchNorm and activation."""
    layers = [nn.Conv2d(c, n, k, s, k // 2, groups=groups, bias=False), nn.BatchNorm2d(n)]
    return nn.Sequential(*layers, *([act()] if act else []))


def head(c: int, classes: int = 10) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, classes))


class SqueezeExcite(nn.Module):
    def __init__(self, c: int, squeezed: int, act: Callable = nn.ReLU, gate: Callable = nn.Sigmoid):
        super().__init__()
        self.layers = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(c, squeezed, 1), act(), nn.Conv2d(squeezed, c, 1), gate()
        )

    def forward(self, x):
        return x * self.layers(x)


def vgg(full: bool) -> nn.Module:
    """Simonyan and Zisserman 2015, configuration D."""
    widths = (
        [64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0]
        if full
        else [8, 0, 16, 16, 0]
    )
    layers, c = [], 3
    for n in widths:
        layers += [conv(c, n)] if n else [nn.MaxPool2d(2)]
        c = n or c
    hidden, place = (4096, 7) if full else (24, 8)
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(c * place**2, hidden), nn.ReLU(), nn.Dropout(),
        nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(), nn.Linear(hidden, 10),
    )  # fmt: skip


class Bottleneck(nn.Module):
    """He et al. 2016; with ``groups`` the block of RegNet (Radosavovic et al. 2020)."""

    def __init__(self, c: int, width: int, n: int, s: int, groups: int = 1, excite: int = 0):
        super().__init__()
        self.a = nn.Sequential(conv(c, width, 1), conv(width, width, 3, s, groups))
        self.excite = SqueezeExcite(width, excite) if excite else nn.Identity()
        self.b = conv(width, n, 1, act=None)
        self.shortcut = nn.Identity() if (c, s) == (n, 1) else conv(c, n, 1, s, act=None)

    def forward(self, x):
        return F.relu(self.b(self.excite(self.a(x))) + self.shortcut(x))


def resnet(full: bool) -> nn.Module:
    """ResNet-50."""
    stages = [(64, 3), (128, 4), (256, 6), (512, 3)] if full else [(8, 2), (12, 1)]
    c = stages[0][0]
    layers: list[nn.Module] = [conv(3, c, 7, 2), nn.MaxPool2d(3, 2, 1)]
    for i, (width, count) in enumerate(stages):
        for j in range(count):
            layers.append(Bottleneck(c, width, width * 4, 2 if i and not j else 1))
            c = width * 4
    return nn.Sequential(*layers, head(c))


def regnet(full: bool) -> nn.Module:
    """RegNetY-1.6GF: grouped bottlenecks with squeeze-excite."""
    stages, group = ([(48, 2), (120, 6), (336, 17), (888, 2)], 24) if full else ([(16, 1), (24, 2)], 4)
    layers: list[nn.Module] = [conv(3, 32 if full else 8, 3, 2)]
    c = 32 if full else 8
    for n, count in stages:
        for j in range(count):
            layers.append(Bottleneck(c, n, n, 1 if j else 2, n // group, max(c // 4, 4)))
            c = n
    return nn.Sequential(*layers, head(c))


class DenseLayer(nn.Module):
    def __init__(self, c: int, growth: int):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(c), nn.Conv2d(c, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x):
        y = self.conv1(F.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(F.relu(self.norm2(y)))], 1)


def densenet(full: bool) -> nn.Module:
    """Huang et al. 2017, DenseNet-121."""
    growth, blocks = (32, [6, 12, 24, 16]) if full else (4, [2, 2])
    c = 2 * growth
    layers: list[nn.Module] = [conv(3, c, 7, 2), nn.MaxPool2d(3, 2, 1)]
    for i, count in enumerate(blocks):
        for _ in range(count):
            layers.append(DenseLayer(c, growth))
            c += growth
        if i < len(blocks) - 1:
            layers += [nn.BatchNorm2d(c), nn.ReLU(), nn.Conv2d(c, c // 2, 1, bias=False), nn.AvgPool2d(2)]
            c //= 2
    return nn.Sequential(*layers, nn.BatchNorm2d(c), nn.ReLU(), head(c))


class InceptionBlock(nn.Module):
    """Szegedy et al. 2015."""

    def __init__(self, c: int, a: int, b: tuple[int, int], d: tuple[int, int], e: int):
        super().__init__()
        self.branches = nn.ModuleList([
            conv(c, a, 1), nn.Sequential(conv(c, b[0], 1), conv(b[0], b[1])),
            nn.Sequential(conv(c, d[0], 1), conv(d[0], d[1], 5)),
            nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(c, e, 1)),
        ])  # fmt: skip

    def forward(self, x):
        return torch.cat([branch(x) for branch in self.branches], 1)


def inception(full: bool) -> nn.Module:
    s = 8 if full else 1
    return nn.Sequential(
        conv(3, 8 * s, 7, 2), nn.MaxPool2d(3, 2, 1),
        InceptionBlock(8 * s, 8 * s, (12 * s, 16 * s), (2 * s, 4 * s), 4 * s),
        InceptionBlock(32 * s, 16 * s, (16 * s, 24 * s), (4 * s, 12 * s), 8 * s), head(60 * s),
    )  # fmt: skip


def mobilenet_v1(full: bool) -> nn.Module:
    """Howard et al. 2017."""
    plan = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    plan = plan if full else [(16, 1), (24, 2)]
    c = 32 if full else 8
    layers = [conv(3, c, 3, 2)]
    for n, s in plan:
        layers += [conv(c, c, 3, s, c), conv(c, n, 1)]
        c = n
    return nn.Sequential(*layers, head(c))


class InvertedResidual(nn.Module):
    """Sandler et al. 2018; with squeeze-excite and other activations that of MobileNetV3 and EfficientNet."""

    def __init__(
        self, c: int, hidden: int, n: int, k: int, s: int, act: Callable, excite: int = 0, gate=nn.Sigmoid
    ):
        super().__init__()
        self.shortcut = (c, s) == (n, 1)
        inner = [SqueezeExcite(hidden, excite, act if act is nn.SiLU else nn.ReLU, gate)] if excite else []
        expand = [conv(c, hidden, 1, act=act)] if hidden != c else []
        self.layers = nn.Sequential(
            *expand, conv(hidden, hidden, k, s, hidden, act), *inner, conv(hidden, n, 1, act=None)
        )

    def forward(self, x):
        return x + self.layers(x) if self.shortcut else self.layers(x)


def mobilenet_v2(full: bool) -> nn.Module:
    plan = [
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ]
    plan = plan if full else [(1, 8, 1, 1), (3, 12, 2, 2)]
    c = 32 if full else 8
    layers: list[nn.Module] = [conv(3, c, 3, 2, act=nn.ReLU6)]
    for t, n, count, s in plan:
        for j in range(count):
            layers.append(InvertedResidual(c, c * t, n, 3, 1 if j else s, nn.ReLU6))
            c = n
    last = 1280 if full else 32
    return nn.Sequential(*layers, conv(c, last, 1, act=nn.ReLU6), head(last))


def mobilenet_v3(full: bool) -> nn.Module:
    """Howard et al. 2019, Large."""
    plan = [
        (16, 16, 3, 1, 0), (64, 24, 3, 2, 0), (72, 24, 3, 1, 0), (72, 40, 5, 2, 24), (120, 40, 5, 1, 32),
        (240, 80, 3, 2, 0), (200, 80, 3, 1, 0), (480, 112, 3, 1, 120), (672, 112, 3, 1, 168),
        (672, 160, 5, 2, 168), (960, 160, 5, 1, 240),
    ]  # fmt: skip
    plan = plan if full else [(16, 12, 3, 2, 8), (24, 12, 5, 1, 0)]
    c = 16 if full else 8
    layers: list[nn.Module] = [conv(3, c, 3, 2, act=nn.Hardswish)]
    for hidden, n, k, s, excite in plan:
        layers.append(InvertedResidual(c, hidden, n, k, s, nn.Hardswish, excite, nn.Hardsigmoid))
        c = n
    wide, last = (960, 1280) if full else (24, 32)
    return nn.Sequential(
        *layers, conv(c, wide, 1, act=nn.Hardswish), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(wide, last), nn.Hardswish(), nn.Linear(last, 10),
    )  # fmt: skip


def efficientnet(full: bool) -> nn.Module:
    """Tan and Le 2019, B0."""
    plan = [(1, 16, 1, 3, 1), (6, 24, 2, 3, 2), (6, 40, 2, 5, 2), (6, 80, 3, 3, 2), (6, 112, 3, 5, 1),
            (6, 192, 4, 5, 2), (6, 320, 1, 3, 1)]  # fmt: skip
    plan = plan if full else [(1, 8, 1, 3, 1), (4, 12, 2, 5, 2)]
    c = 32 if full else 8
    layers: list[nn.Module] = [conv(3, c, 3, 2, act=nn.SiLU)]
    for t, n, count, k, s in plan:
        for j in range(count):
            layers.append(InvertedResidual(c, c * t, n, k, 1 if j else s, nn.SiLU, max(c // 4, 2)))
            c = n
    last = 1280 if full else 32
    return nn.Sequential(*layers, conv(c, last, 1, act=nn.SiLU), head(last))


def shuffled(x, groups: int = 2):
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


class ShuffleUnit(nn.Module):
    """Ma et al. 2018."""

    def __init__(self, c: int, n: int, s: int):
        super().__init__()
        half = n // 2
        own = half if s == 1 else c
        self.split = s == 1
        self.b = nn.Sequential(conv(own, half, 1), conv(half, half, 3, s, half, None), conv(half, half, 1))
        self.a = nn.Identity() if self.split else nn.Sequential(conv(c, c, 3, s, c, None), conv(c, half, 1))

    def forward(self, x):
        left, right = x.chunk(2, 1) if self.split else (x, x)
        return shuffled(torch.cat([self.a(left), self.b(right)], 1))


def shufflenet(full: bool) -> nn.Module:
    stages = [(116, 4), (232, 8), (464, 4)] if full else [(16, 2), (24, 2)]
    c = 24 if full else 8
    layers: list[nn.Module] = [conv(3, c, 3, 2), nn.MaxPool2d(3, 2, 1)]
    for n, count in stages:
        for j in range(count):
            layers.append(ShuffleUnit(c, n, 1 if j else 2))
            c = n
    last = 1024 if full else 32
    return nn.Sequential(*layers, conv(c, last, 1), head(last))


class UNet(nn.Module):
    """Ronneberger et al. 2015."""

    def __init__(self, widths: list[int]):
        super().__init__()
        pairs = list(zip([3, *widths], widths, strict=False))
        self.down = nn.ModuleList(nn.Sequential(conv(c, n), conv(n, n)) for c, n in pairs)
        back = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(c, n, 2, 2) for c, n in back)
        self.merge = nn.ModuleList(nn.Sequential(conv(2 * n, n), conv(n, n)) for _, n in back)
        self.out = nn.Conv2d(widths[0], 2, 1)

    def forward(self, x):
        kept = []
        for i, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if i else x)
            kept.append(x)
        for i, (up, merge) in enumerate(zip(self.up, self.merge, strict=True)):
            x = merge(torch.cat([kept[-2 - i], up(x)], 1))
        return self.out(x)


def unet(full: bool) -> nn.Module:
    return UNet([64, 128, 256, 512, 1024] if full else [6, 8, 12])


class C2f(nn.Module):
    """The block of YOLOv8: split, a chain of bottlenecks, everything concatenated."""

    def __init__(self, c: int, n: int, count: int, shortcut: bool):
        super().__init__()
        self.shortcut, half = shortcut, n // 2
        self.first = conv(c, n, 1, act=nn.SiLU)
        self.inner = nn.ModuleList(
            nn.Sequential(conv(half, half, act=nn.SiLU), conv(half, half, act=nn.SiLU)) for _ in range(count)
        )
        self.last = conv(half * (2 + count), n, 1, act=nn.SiLU)

    def forward(self, x):
        parts = list(self.first(x).chunk(2, 1))
        for block in self.inner:
            y = block(parts[-1])
            parts.append(parts[-1] + y if self.shortcut else y)
        return self.last(torch.cat(parts, 1))


class Sppf(nn.Module):
    def __init__(self, c: int, n: int):
        super().__init__()
        self.first, self.last = conv(c, c // 2, 1, act=nn.SiLU), conv(c * 2, n, 1, act=nn.SiLU)

    def forward(self, x):
        pools = [self.first(x)]
        for _ in range(3):
            pools.append(F.max_pool2d(pools[-1], 5, 1, 2))
        return self.last(torch.cat(pools, 1))


class Yolo(nn.Module):
    """Backbone, path aggregation neck and heads in the style of YOLOv8."""

    def __init__(self, w: int, count: int):
        super().__init__()
        self.stem = nn.Sequential(
            conv(3, w, 3, 2, act=nn.SiLU), conv(w, 2 * w, 3, 2, act=nn.SiLU), C2f(2 * w, 2 * w, count, True)
        )
        self.p3 = nn.Sequential(conv(2 * w, 4 * w, 3, 2, act=nn.SiLU), C2f(4 * w, 4 * w, count, True))
        self.p4 = nn.Sequential(
            conv(4 * w, 8 * w, 3, 2, act=nn.SiLU), C2f(8 * w, 8 * w, count, True), Sppf(8 * w, 8 * w)
        )
        self.up, self.down = C2f(12 * w, 4 * w, count, False), conv(4 * w, 4 * w, 3, 2, act=nn.SiLU)
        self.low = C2f(12 * w, 8 * w, count, False)
        self.heads = nn.ModuleList(
            nn.Sequential(conv(c, c, act=nn.SiLU), nn.Conv2d(c, 4 * 4 + 5, 1)) for c in (4 * w, 8 * w)
        )

    def forward(self, x):
        p3 = self.p3(self.stem(x))
        p4 = self.p4(p3)
        n3 = self.up(torch.cat([F.interpolate(p4, scale_factor=2.0), p3], 1))
        n4 = self.low(torch.cat([self.down(n3), p4], 1))
        found = [h(p).flatten(2) for h, p in zip(self.heads, (n3, n4), strict=True)]
        boxes, classes = torch.cat(found, 2).split([16, 5], 1)
        n, _, a = boxes.shape
        weights = boxes.view(n, 4, 4, a).softmax(2)
        distances = (weights * torch.arange(4.0).view(1, 1, 4, 1)).sum(2)
        return torch.cat([distances, classes.sigmoid()], 1)


def yolo(full: bool) -> nn.Module:
    return Yolo(32, 2) if full else Yolo(4, 1)

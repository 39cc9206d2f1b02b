"""Small nets for 32x32 images, at any width."""

from __future__ import annotations

from torch import Tensor, nn


def _conv(inputs: int, outputs: int, stride: int = 1, kernel: int = 3, groups: int = 1) -> list[nn.Module]:
    padding = kernel // 2
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    ]


def _head(features: list[nn.Module], channels: int) -> nn.Sequential:
    return nn.Sequential(*features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def vgg(width: float) -> nn.Module:
    """Six 3x3 convolutions, two each at 1, 2 and 4 times ``width`` channels."""
    layers, channels = [], 3
    for stage in (1, 2, 4):
        for _ in range(2):
            layers += _conv(channels, round(width * stage))
            channels = round(width * stage)
        layers.append(nn.MaxPool2d(2))
    return _head(layers, channels)


def mobilenet1(width: float) -> nn.Module:
    """Depthwise-separable convolutions, as MobileNetV1 with fewer of them."""
    channels = round(width)
    layers = _conv(3, channels)
    for stage, stride in ((2, 1), (4, 2), (4, 1), (8, 2), (8, 1)):
        layers += _conv(channels, channels, stride, groups=channels)
        layers += _conv(channels, round(width * stage), kernel=1)
        channels = round(width * stage)
    return _head(layers, channels)


class Inverted(nn.Module):
    """An inverted residual: the input is added back where nothing changes its shape."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        inner = 4 * inputs
        expand, depthwise = _conv(inputs, inner, kernel=1), _conv(inner, inner, stride, groups=inner)
        self.body = nn.Sequential(*expand, *depthwise, *_conv(inner, outputs, kernel=1)[:-1])
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


def mobilenet2(width: float) -> nn.Module:
    """Inverted residuals, as MobileNetV2 with fewer of them."""
    channels = round(width)
    layers = _conv(3, channels)
    for stage, stride in ((1, 1), (2, 2), (2, 1), (4, 2), (4, 1)):
        layers.append(Inverted(channels, round(width * stage), stride))
        channels = round(width * stage)
    return _head([*layers, *_conv(channels, 2 * channels, kernel=1)], 2 * channels)


class Residual(nn.Module):
    """Two 3x3 convolutions beside the input, which a 1x1 convolution brings to their shape where needed."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(*_conv(inputs, outputs, stride), *_conv(outputs, outputs)[:-1])
        same = stride == 1 and inputs == outputs
        self.beside = nn.Identity() if same else nn.Sequential(*_conv(inputs, outputs, stride, kernel=1)[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return (self.body(x) + self.beside(x)).relu()


def resnet20(width: float) -> nn.Module:
    """Three stages of three residual blocks each, at 1, 2 and 4 times ``width`` channels."""
    return resnet(width, 3)


def resnet(width: float, blocks: int) -> nn.Module:
    """Three stages of so many residual blocks each, at 1, 2 and 4 times ``width`` channels."""
    channels = round(width)
    layers = _conv(3, channels)
    for stage in (1, 2, 4):
        for block in range(blocks):
            layers.append(Residual(channels, round(width * stage), 2 if stage > 1 and block == 0 else 1))
            channels = round(width * stage)
    return _head(layers, channels)


NETS = {"vgg": vgg, "mobilenet1": mobilenet1, "mobilenet2": mobilenet2, "resnet20": resnet20}

"""Networks of ``tools/zoo.py`` that no library provides in the form that people write them in."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn


def encoder() -> nn.Module:
    """torch's own encoder, post-norm, batch first, with a classifier on the mean."""
    layer = nn.TransformerEncoderLayer(128, 4, 512, batch_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, 3), _Mean(), nn.Linear(128, 10))


class _Mean(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(1)


class _Recurrent(nn.Module):
    """The sequence of a recurrent layer, without its state."""

    def __init__(self, layer: nn.RNNBase):
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)[0]


def lstm() -> nn.Module:
    """A bidirectional tagger of two layers."""
    layer = nn.LSTM(64, 96, num_layers=2, bidirectional=True, batch_first=True)
    return nn.Sequential(nn.Linear(40, 64), nn.ReLU(), _Recurrent(layer), nn.Linear(192, 64), nn.ReLU(),
                         nn.Linear(64, 12))  # fmt: skip


class Columns(nn.Module):
    """Recognition of a line of text: convolutions, a GRU over columns, scores per column."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(64, 96, 3, padding=1), nn.BatchNorm2d(96), nn.ReLU(), nn.MaxPool2d((2, 1)),
        )  # fmt: skip
        self.columns = nn.GRU(96 * 4, 96, bidirectional=True, batch_first=True)
        self.scores = nn.Linear(192, 40)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.convolutions(x)
        x = x.flatten(1, 2).transpose(1, 2)
        return self.scores(self.columns(x)[0])


class _ConvolutionModule(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.into = nn.Conv1d(width, 2 * width, 1)
        self.depthwise = nn.Conv1d(width, width, 15, padding=7, groups=width)
        self.batch_norm = nn.BatchNorm1d(width)
        self.out = nn.Conv1d(width, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.glu(self.into(self.norm(x).transpose(1, 2)), dim=1)
        return self.out(F.silu(self.batch_norm(self.depthwise(x)))).transpose(1, 2)


class _ConformerBlock(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()

        def feed_forward() -> nn.Module:
            return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.SiLU(),
                                 nn.Linear(4 * width, width))  # fmt: skip

        self.first, self.second = feed_forward(), feed_forward()
        self.norm, self.attention = nn.LayerNorm(width), nn.MultiheadAttention(width, heads, batch_first=True)
        self.convolution, self.last = _ConvolutionModule(width), nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + 0.5 * self.first(x)
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.convolution(x)
        return self.last(x + 0.5 * self.second(x))


class Conformer(nn.Module):
    """A speech encoder: subsampling, three blocks, scores."""

    def __init__(self, width: int = 128, heads: int = 4):
        super().__init__()
        self.subsampling = nn.Sequential(
            nn.Conv2d(1, 32, 3, 2), nn.ReLU(), nn.Conv2d(32, 32, 3, 2), nn.ReLU()
        )
        self.into = nn.Linear(32 * 19, width)
        self.blocks = nn.Sequential(*(_ConformerBlock(width, heads) for _ in range(3)))
        self.scores = nn.Linear(width, 40)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.subsampling(x.unsqueeze(1))
        x = self.into(x.transpose(1, 2).flatten(2))
        return self.scores(self.blocks(x))


class _Step(nn.Module):
    """A residual block that is told the time."""

    def __init__(self, inputs: int, outputs: int, time: int):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time = nn.Linear(time, outputs)
        self.norm2, self.conv2 = nn.GroupNorm(8, outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        h = self.conv1(F.silu(self.norm1(x))) + self.time(F.silu(t))[:, :, None, None]
        return self.skip(x) + self.conv2(F.silu(self.norm2(h)))


class _ImageAttention(nn.Module):
    def __init__(self, width: int, heads: int = 4):
        super().__init__()
        self.heads = heads
        self.norm, self.qkv, self.out = nn.GroupNorm(8, width), nn.Conv2d(width, 3 * width, 1), \
            nn.Conv2d(width, width, 1)  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(n, 3, self.heads, c // self.heads, h * w).unbind(1)
        scores = (q.transpose(2, 3) @ k / math.sqrt(c // self.heads)).softmax(-1)
        return x + self.out((v @ scores.transpose(2, 3)).reshape(n, c, h, w))


class Diffusion(nn.Module):
    """The UNet of denoising diffusion: GroupNorm, a time embedding, attention at the lowest resolution."""

    def __init__(self, width: int = 32):
        super().__init__()
        time = 4 * width
        self.width = width
        self.time = nn.Sequential(nn.Linear(width, time), nn.SiLU(), nn.Linear(time, time))
        self.first = nn.Conv2d(3, width, 3, padding=1)
        widths = [width, 2 * width, 4 * width]
        self.down = nn.ModuleList(
            _Step(a, b, time) for a, b in zip([width, *widths[:-1]], widths, strict=True)
        )
        self.pool = nn.ModuleList(nn.Conv2d(w, w, 3, 2, 1) for w in widths[:-1])
        self.middle = nn.ModuleList([_Step(widths[-1], widths[-1], time), _ImageAttention(widths[-1])])
        self.up = nn.ModuleList([_Step(3 * 2 * width, 2 * width, time), _Step(3 * width, width, time)])
        self.last = nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, 3, 3, padding=1))

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        half = self.width // 2
        angles = t[:, None].float() * torch.exp(torch.arange(half) * (-math.log(10000.0) / half))
        time = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        x, skips = self.first(x), []
        for i, step in enumerate(self.down):
            x = step(x, time)
            if i < len(self.pool):
                skips.append(x)
                x = self.pool[i](x)
        x = self.middle[1](self.middle[0](x, time))
        for step in self.up:
            x = torch.cat([F.interpolate(x, scale_factor=2.0), skips.pop()], 1)
            x = step(x, time)
        return self.last(x)

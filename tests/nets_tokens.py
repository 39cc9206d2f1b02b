"""Architectures with tokens and layer norms for tests, small or at full size, random weights."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of a map, written out as ConvNeXt does."""

    def __init__(self, c: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(c) + 0.5), nn.Parameter(torch.randn(c))

    def forward(self, x):
        centred = x - x.mean(1, keepdim=True)
        x = centred / torch.sqrt(centred.pow(2).mean(1, keepdim=True) + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class ConvNextBlock(nn.Module):
    """Liu et al. 2022."""

    def __init__(self, c: int):
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(c, c, 7, padding=3, groups=c), nn.LayerNorm(c)
        self.wide, self.back = nn.Linear(c, 4 * c), nn.Linear(4 * c, c)
        self.gamma = nn.Parameter(torch.rand(c))

    def forward(self, x):
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.gamma * self.back(F.gelu(self.wide(y)))).permute(0, 3, 1, 2)


def convnext(full: bool) -> nn.Module:
    """ConvNeXt-T."""
    stages = [(96, 3), (192, 3), (384, 9), (768, 3)] if full else [(8, 1), (12, 2)]
    c = stages[0][0]
    layers: list[nn.Module] = [nn.Conv2d(3, c, 4, 4), ChannelNorm(c)]
    for i, (n, count) in enumerate(stages):
        if i:
            layers += [ChannelNorm(c), nn.Conv2d(c, n, 2, 2)]
        layers += [ConvNextBlock(n) for _ in range(count)]
        c = n
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(c), nn.Linear(c, 10))


class SelfAttention(nn.Module):
    def __init__(self, c: int, heads: int, causal: bool):
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv, self.out = nn.Linear(c, 3 * c), nn.Linear(c, c)

    def forward(self, x):
        n, t, c = x.shape
        q, k, v = (p.view(n, t, self.heads, c // self.heads).transpose(1, 2) for p in self.qkv(x).split(c, 2))
        if self.causal:  # written out, as in nanoGPT without fused kernels
            scores = q @ k.transpose(-2, -1) * (c // self.heads) ** -0.5
            future = torch.ones(t, t, dtype=torch.bool).tril().logical_not()
            y = scores.masked_fill(future, float("-inf")).softmax(-1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(n, t, c))


class JointAttention(nn.Module):
    """Queries, keys and values from one projection that is viewed as [.., 3, heads, width], as in timm."""

    def __init__(self, c: int, heads: int, fused: bool = False):
        super().__init__()
        self.heads, self.fused = heads, fused
        self.qkv, self.out = nn.Linear(c, 3 * c), nn.Linear(c, c)

    def forward(self, x):
        n, t, c = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = ((q * (c // self.heads) ** -0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(n, t, c))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, c: int, heads: int, causal: bool, joint: bool = False):
        super().__init__()
        self.norm1 = nn.LayerNorm(c)
        self.attention = JointAttention(c, heads) if joint else SelfAttention(c, heads, causal)
        self.norm2 = nn.LayerNorm(c)
        self.mlp = nn.Sequential(nn.Linear(c, 4 * c), nn.GELU(), nn.Linear(4 * c, c))

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """Dosovitskiy et al. 2021."""

    def __init__(self, c: int, heads: int, depth: int, patch: int, size: int, joint: bool = False):
        super().__init__()
        self.patches = nn.Conv2d(3, c, patch, patch)
        self.token = nn.Parameter(torch.randn(1, 1, c))
        self.places = nn.Parameter(torch.randn(1, (size // patch) ** 2 + 1, c))
        self.blocks = nn.Sequential(*(Block(c, heads, False, joint) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(c), nn.Linear(c, 10)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.places
        return self.head(self.norm(self.blocks(x))[:, 0])


def vit(full: bool) -> nn.Module:
    """ViT-S/16."""
    return ViT(384, 6, 12, 16, 224) if full else ViT(16, 4, 2, 8, 32)


def deit(full: bool) -> nn.Module:
    """DeiT-Ti/16, as timm writes it."""
    return ViT(192, 3, 12, 16, 224, joint=True) if full else ViT(16, 4, 2, 8, 32, joint=True)


class Gpt(nn.Module):
    """Radford et al. 2019, with the embedding shared by the last layer."""

    def __init__(self, c: int, heads: int, depth: int, words: int, length: int):
        super().__init__()
        self.words, self.places = nn.Embedding(words, c), nn.Embedding(length, c)
        self.blocks = nn.Sequential(*(Block(c, heads, True) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(c), nn.Linear(c, words, bias=False)
        self.head.weight = self.words.weight

    def forward(self, tokens):
        x = self.words(tokens) + self.places(torch.arange(tokens.shape[1]))
        return self.head(self.norm(self.blocks(x)))


def gpt(full: bool) -> nn.Module:
    """Six layers of GPT-2 small."""
    return Gpt(768, 12, 6, 8192, 128) if full else Gpt(16, 4, 2, 50, 12)


class Encoder(nn.Module):
    """torch's own transformer over frames."""

    def __init__(self, c: int, heads: int, depth: int, features: int):
        super().__init__()
        self.front = nn.Linear(features, c)
        layer = nn.TransformerEncoderLayer(c, heads, 4 * c, batch_first=True, activation="gelu")
        self.layers = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.head = nn.Linear(c, 10)

    def forward(self, x):
        return self.head(self.layers(self.front(x)))


def encoder(full: bool) -> nn.Module:
    return Encoder(256, 8, 6, 80) if full else Encoder(16, 4, 2, 6)


class GroupedQueryBlock(nn.Module):
    """A block of Llama: RMS norm, grouped queries, gated feed-forward."""

    def __init__(self, c: int, heads: int, shared: int):
        super().__init__()
        self.heads, self.shared, self.width = heads, shared, c // heads
        self.scale1, self.scale2 = nn.Parameter(torch.rand(c) + 0.5), nn.Parameter(torch.rand(c) + 0.5)
        self.q, self.kv = nn.Linear(c, c, bias=False), nn.Linear(c, 2 * shared * self.width, bias=False)
        self.out = nn.Linear(c, c, bias=False)
        self.gate, self.up = nn.Linear(c, 3 * c, bias=False), nn.Linear(c, 3 * c, bias=False)
        self.down = nn.Linear(3 * c, c, bias=False)

    def forward(self, x):
        n, t, c = x.shape
        y = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.scale1
        q = self.q(y).view(n, t, self.heads, self.width).transpose(1, 2)
        k, v = (
            p.view(n, t, self.shared, self.width)
            .transpose(1, 2)
            .repeat_interleave(self.heads // self.shared, 1)
            for p in self.kv(y).chunk(2, 2)
        )
        scores = (q @ k.transpose(-2, -1) * self.width**-0.5).softmax(-1)
        x = x + self.out((scores @ v).transpose(1, 2).reshape(n, t, c))
        y = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.scale2
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Llama(nn.Module):
    def __init__(self, c: int, heads: int, shared: int, depth: int, words: int):
        super().__init__()
        self.words, self.head = nn.Embedding(words, c), nn.Linear(c, words, bias=False)
        self.blocks = nn.Sequential(*(GroupedQueryBlock(c, heads, shared) for _ in range(depth)))

    def forward(self, tokens):
        return self.head(self.blocks(self.words(tokens)))


def llama(full: bool) -> nn.Module:
    return Llama(768, 12, 4, 6, 8192) if full else Llama(24, 6, 3, 2, 50)


class Recurrent(nn.Module):
    """A bidirectional LSTM over frames and a GRU over its outputs."""

    def __init__(self, c: int, hidden: int):
        super().__init__()
        self.front = nn.Linear(c, hidden)
        self.lstm = nn.LSTM(hidden, hidden, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(2 * hidden, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 10)

    def forward(self, x):
        x, _ = self.lstm(torch.tanh(self.front(x)))
        return self.head(self.gru(x)[0])


def recurrent(full: bool) -> nn.Module:
    return Recurrent(80, 256) if full else Recurrent(6, 8)

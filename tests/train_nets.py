"""Small nets of the usual kinds, for the tests of the trainer."""

import torch
from torch import Tensor, nn

# Threads cost more than these nets do, and several processes share the machine.
torch.set_num_threads(1)


class Vgg(nn.Module):
    """Conv, BatchNorm, pooling, Flatten, Linear: every width of its own."""

    def __init__(self, width: int = 6):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
        )
        self.hidden = nn.Linear(8 * width, 10)
        self.output = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(torch.tanh(self.hidden(self.features(x).flatten(1))))


class Residual(nn.Module):
    """A sum couples the stem with the second convolution; the middle is free."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.first = nn.Conv2d(8, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 8, 3, padding=1)
        self.output = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.second(torch.relu(self.norm(self.first(x)))))
        return self.output(x.mean((2, 3)))


class Depthwise(nn.Module):
    """A channel runs through the depthwise layer: one gate for both."""

    def __init__(self):
        super().__init__()
        self.expand = nn.Conv2d(3, 8, 1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.project = nn.Conv2d(8, 6, 1)
        self.output = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.relu6(self.depthwise(nn.functional.relu6(self.expand(x))))
        return self.output(torch.sigmoid(self.project(x)).mean((2, 3)))


class Branches(nn.Module):
    """Two branches of a Concat: their channels have gates of their own."""

    def __init__(self):
        super().__init__()
        self.left = nn.Conv2d(3, 5, 3, padding=1)
        self.right = nn.Conv2d(3, 4, 1)
        self.join = nn.Conv2d(9, 6, 3, padding=1)
        self.output = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([torch.relu(self.left(x)), torch.tanh(self.right(x))], 1)
        return self.output(torch.relu(self.join(x)).amax((2, 3)))


class Tokens(nn.Module):
    """Linear layers on sequences, whose weights the exporter transposes and renames."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(8, 12)
        self.up = nn.Linear(12, 16)
        self.down = nn.Linear(16, 12)
        self.output = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x.mean(1).permute(0, 2, 1)
        x = self.embed(x)
        x = x + self.down(nn.functional.gelu(self.up(x)))
        return self.output(torch.relu(x)).mean(1)


NETS = {"vgg": Vgg, "residual": Residual, "depthwise": Depthwise, "branches": Branches, "tokens": Tokens}


def images(count: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def labels(count: int = 8, seed: int = 0) -> Tensor:
    return torch.randint(0, 4, (count,), generator=torch.Generator().manual_seed(seed))

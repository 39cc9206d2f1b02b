"""What is compared: the rows of every table, and its columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

STEPS = 100
SAMPLES = 512


@dataclass(frozen=True)
class Method:
    """A column.

    Attributes:
        title: its heading.
        options: of ``onnxmerge.optimize``.
        data: what it is given: ``nothing`` where weights alone decide, ``photographs`` of the package, or
            ``images`` of the training set, without labels.
        published: whether the channels are those of the row's criterion; else the method chooses them.
        own: whether it is one of ours, to be held against merging.
        norms: whether it does nothing for a net without BatchNorm.
    """

    title: str
    options: Mapping[str, Any]
    data: str = "nothing"
    published: bool = True
    own: bool = False
    norms: bool = False


# A compensation that is not there gets no column.
METHODS: dict[str, Method] = {
    "prune": Method("prune", {"compensation": "none"}),
    "merge": Method("merge", {"compensation": "merge"}),
    "lbyl": Method("lbyl", {"compensation": "lbyl"}),
    "folding": Method("folding", {"compensation": "folding", "criterion": "l1"}, published=False),
    "gaussian": Method("gaussian, no data", {"compensation": "gaussian"}, own=True, norms=True),
    "photographs": Method("lstsq, no data", {}, "photographs", published=False, own=True),
    "images": Method(f"lstsq, {SAMPLES} images", {}, "images", published=False, own=True),
    "recovered": Method("the same, recovered", {"recover": STEPS}, "images", published=False, own=True),
}


@dataclass(frozen=True)
class Row:
    """A net with a share of its channels removed.

    Attributes:
        net: a trained net, or ``shared/`` and the name of a published one.
        label: how the table calls it.
        removed: share of the channels of every group that is touched, 0..1.
        options: which groups are touched, and lambda.
        gain: points that merging gained over pruning as published, at full width; None: not known.
    """

    net: str
    label: str
    removed: float
    criterion: str = "l1"
    options: Mapping[str, Any] = field(default_factory=dict)
    gain: float | None = None

    def key(self, name: str) -> str:
        """Of the run that fills a cell; rows of several criteria share what none of them decides."""
        where = ",".join(self.options.get("only", [self.options.get("scope", "all")]))
        criterion = self.criterion if METHODS[name].published else "-"
        return f"{self.net} {where} {self.removed:g} {criterion} {name}"


@dataclass(frozen=True)
class Table:
    """A table with its heading, and what has to be known to read it."""

    name: str
    title: str
    text: str
    rows: tuple[Row, ...]


_ACTIVATIONS = {
    "relu": ("ReLU", None),
    "tanh": ("Tanh", 13.5),
    "softsign": ("SoftSign", 10.2),
    "elu": ("ELU", 12.0),
    "selu": ("SELU", 55.1),
    "leakyrelu": ("LeakyReLU", 1.4),
    "hardswish": ("HardSwish", 3.4),
}
_VGG_LAYERS = {"only": tuple(f"/features/conv{n}/Conv" for n in (1, 8, 9, 10, 11, 12, 13))}
_LAST = {"only": ("/features/conv13/Conv",)}
_WIDE = {"only": ("/*/conv1/Conv",), "trade_off": 0.8}


def _residual() -> Iterator[Row]:
    nets = (
        ("shared/resnet20_bn", "ResNet-20", {"scope": "chain"}),
        ("shared/resnet56_bn", "ResNet-56", {"scope": "chain"}),
        ("wrn_10_4", "WRN-10-4", _WIDE),
    )
    for (net, label, options), criterion, removed in product(nets, ("l1", "l2", "gm"), (0.1, 0.2, 0.3)):
        yield Row(net, f"{label}, {criterion}", removed, criterion, options)
    for criterion, removed in product(("l1", "l2", "gm"), (0.5, 0.6, 0.7)):
        yield Row("vgg16_relu", f"VGG-16, conv13, {criterion}", removed, criterion, _LAST)


def _lenets() -> Iterator[Row]:
    gains = {0.5: 0.29, 0.6: 1.75, 0.7: 11.49, 0.8: 13.26}
    for removed, gain in gains.items():
        yield Row("shared/lenet_300_100", "LeNet-300-100, published weights", removed, gain=gain)
    for (net, label), removed in product((("lenet_300_100", "LeNet-300-100"), ("lenet_5", "LeNet-5")), gains):
        yield Row(net, label, removed)


TABLES = (
    Table(
        "activations",
        "Activations",
        "VGG-16 with BatchNorm, CIFAR-10, at half the published width: half of the first convolution and of "
        "the last six.",
        tuple(
            Row(f"vgg16_{net}", label, 0.5, options=_VGG_LAYERS, gain=gain)
            for net, (label, gain) in _ACTIVATIONS.items()
        ),
    ),
    Table(
        "mobilenet",
        "Depthwise convolutions",
        "MobileNetV1, CIFAR-10, at half the published width: the same share of every layer. Published, at "
        "full width, of 87.90 at 40 / 50 / 60%: pruned 84.52 / 77.34 / 39.39, merged 85.84 / 80.74 / 55.88. "
        "The net here has seen a fraction of that training; the smaller shares are not among the published.",
        tuple(
            Row("mobilenetv1", "MobileNetV1", removed, gain=gain)
            for removed, gain in ((0.2, None), (0.3, None), (0.4, 1.32), (0.5, 3.40), (0.6, 16.49))
        ),
    ),
    Table(
        "residual",
        "Residual nets, and one layer",
        "CIFAR-10: all channels inside the blocks of residual nets, by three criteria (lambda 0.85, of the "
        "WideResNet 0.8), and the last convolution of VGG-16 (ReLU, half width). The two ResNets are "
        "published weights, the WideResNet is trained here, for a fraction of the published training.",
        tuple(_residual()),
    ),
    Table(
        "lenets",
        "LeNets",
        "Fashion-MNIST, 10,000 test images: the same share of every layer. The first net has the weights "
        "that the published figures are of; the others are trained here. They have no BatchNorm, which "
        "`gaussian` needs.",
        tuple(_lenets()),
    ),
)

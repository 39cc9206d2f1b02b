"""Architectures by name, and both exporters of torch."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import nets
import nets_tokens
import numpy as np
import onnx
import torch
from torch import nn


@dataclass(frozen=True)
class Architecture:
    """How to build a network, what it takes, and the least reach that is asked of the small version.

    Attributes:
        reach: the share of multiplications that goes when every group keeps one channel.
    """

    build: Callable[[bool], nn.Module]
    reach: float
    size: tuple[int, int] = (32, 224)
    words: int = 0
    features: tuple[int, int] = (0, 0)

    def sample(self, full: bool, batch: int = 2) -> np.ndarray:
        """Random input: an image [N, 3, S, S], tokens [N, S] or frames [N, S, features]."""
        rng = np.random.default_rng(1)
        size = self.size[full]
        if self.words:
            return rng.integers(0, self.words, (batch, size))
        if self.features[full]:
            return rng.standard_normal((batch, size, self.features[full])).astype(np.float32)
        return rng.standard_normal((batch, 3, size, size)).astype(np.float32)


ARCHITECTURES: dict[str, Architecture] = {
    "vgg": Architecture(nets.vgg, 0.95),
    "resnet": Architecture(nets.resnet, 0.9),
    "regnet": Architecture(nets.regnet, 0.85),
    "densenet": Architecture(nets.densenet, 0.85),
    "inception": Architecture(nets.inception, 0.9),
    "mobilenet_v1": Architecture(nets.mobilenet_v1, 0.9),
    "mobilenet_v2": Architecture(nets.mobilenet_v2, 0.9),
    "mobilenet_v3": Architecture(nets.mobilenet_v3, 0.9),
    "efficientnet": Architecture(nets.efficientnet, 0.9),
    "shufflenet": Architecture(nets.shufflenet, 0.85),
    "convnext": Architecture(nets_tokens.convnext, 0.45),
    "unet": Architecture(nets.unet, 0.95, size=(32, 128)),
    "yolo": Architecture(nets.yolo, 0.95, size=(64, 320)),
    "vit": Architecture(nets_tokens.vit, 0.6),
    "deit": Architecture(nets_tokens.deit, 0.6),
    "gpt": Architecture(nets_tokens.gpt, 0.75, size=(12, 128), words=50),
    "encoder": Architecture(nets_tokens.encoder, 0.8, size=(7, 100), features=(6, 80)),
    "llama": Architecture(nets_tokens.llama, 0.8, size=(12, 128), words=50),
    "recurrent": Architecture(nets_tokens.recurrent, 0.85, size=(7, 100), features=(6, 80)),
}


def export(name: str, dynamo: bool, *, full: bool = False) -> onnx.ModelProto:
    """The network of this name with random weights and statistics, its batch dynamic."""
    architecture = ARCHITECTURES[name]
    torch.manual_seed(0)
    net = architecture.build(full).eval()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.3, 0.3)
                module.running_mean.uniform_(-0.3, 0.3)
                module.running_var.uniform_(0.5, 1.5)
    sample = torch.from_numpy(architecture.sample(full))
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        if dynamo:
            batch = {0: torch.export.Dim("n", min=1, max=64)}
            program = torch.onnx.export(
                net, (sample,), dynamo=True, verbose=False, input_names=["x"], dynamic_shapes=(batch,)
            )
            return program.model_proto
        # The fused kernels of torch's own attention are not for this exporter.
        torch.backends.mha.set_fastpath_enabled(False)
        file = io.BytesIO()
        torch.onnx.export(
            net, (sample,), file, dynamo=False, opset_version=17, input_names=["x"], output_names=["y"],
            dynamic_axes={"x": {0: "n"}},
        )  # fmt: skip
    return onnx.load_model_from_string(file.getvalue())

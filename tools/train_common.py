"""What the training scripts share: data, nets, a run with its clock, and tables of results."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from onnxmerge.train import Batches, NoMasks, Processes, Trainer, accuracy, fit
from onnxmerge.train.masks import Masks


@dataclass(frozen=True, eq=False)
class Data:
    """Normalised images [N, C, H, W] and labels [N]."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def read(path: Path, samples: int | None = None, mean=None, std=None, crop: int = 0) -> Data:
    """Images and labels from an .npz (x_train, y_train, x_test, y_test; uint8, N first, channels last),
    or from a folder: of tiled images, train_*.webp, test_*.webp (32x32 each) and labels.npz; or of
    photographs of one size that are named by their class (0123.jpg), every second one of them for testing.

    Args:
        samples: only so many of the training images, from the first on.
        mean, std: of the normalisation after division by 255, per channel; None: of the training images.
        crop: the width and height of the middle part that is used; 0: all.
    """
    if path.is_dir() and not (path / "labels.npz").exists():
        parts = _photographs(path)
    elif path.is_dir():
        with np.load(path / "labels.npz") as labels:
            parts = {s: (_tiles(path, s), labels[s]) for s in ("train", "test")}
    else:
        with np.load(path) as stored:
            parts = {s: (stored[f"x_{s}"], stored[f"y_{s}"]) for s in ("train", "test")}
    if crop:
        parts = {split: (_middle(images, crop), labels) for split, (images, labels) in parts.items()}
    x = parts["train"][0]
    pixels = x.reshape(-1, x.shape[-1] if x.ndim == 4 else 1)
    mean = pixels.mean(0) / 255 if mean is None else np.array(mean)
    std = pixels.std(0) / 255 if std is None else np.array(std)
    ready = {name: _normalised(images, labels, mean, std) for name, (images, labels) in parts.items()}
    train = tuple(t[:samples] for t in ready["train"])
    return Data((train[0], train[1]), ready["test"])


def _tiles(folder: Path, split: str) -> np.ndarray:
    files = sorted(folder.glob(f"{split}_*.webp"))
    return np.concatenate([np.asarray(Image.open(f).convert("RGB")).reshape(-1, 32, 32, 3) for f in files])


def _photographs(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    files = sorted(folder.glob("*.jpg"))
    return {
        split: (
            np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files[first::2]]),
            np.array([int(file.stem) for file in files[first::2]]),
        )
        for split, first in (("train", 0), ("test", 1))
    }


def _middle(images: np.ndarray, size: int) -> np.ndarray:
    top, left = ((length - size) // 2 for length in images.shape[1:3])
    return images[:, top : top + size, left : left + size]


def _normalised(images: np.ndarray, labels: np.ndarray, mean, std) -> tuple[Tensor, Tensor]:
    if images.ndim == 3:
        images = images[..., None]
    values = ((images / np.float32(255) - mean) / std).astype(np.float32).transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(values)), torch.from_numpy(labels.astype(np.int64))


def arguments(description: str | None, **defaults) -> argparse.Namespace:
    """The options that all scripts have; ``defaults`` adds an option for each name."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, required=True, help="see train_common.read")
    parser.add_argument("--out", type=Path, help="a table (.md) that a row is added to")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--samples", type=int, help="train on so many images only")
    for name, default in defaults.items():
        kind = type(default) if default is not None else float
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=default)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    return options


def held_out(data: Data, count: int) -> tuple[Data, tuple[Tensor, Tensor]]:
    """Data without the last ``count`` training images, and those: settings are chosen on them."""
    x, y = data.train
    cut = len(x) - count
    return Data((x[:cut], y[:cut]), data.test), (x[cut:], y[cut:])


class Row:
    """One line of a table, appended to a Markdown file that gets its header when it is new."""

    def __init__(self, out: Path | None):
        self._out = out

    def write(self, cells: Mapping[str, object]) -> None:
        line = "| " + " | ".join(str(c) for c in cells.values()) + " |\n"
        print(line, end="", flush=True)
        if self._out is None:
            return
        self._out.parent.mkdir(parents=True, exist_ok=True)
        new = not self._out.exists()
        with self._out.open("a", encoding="utf-8") as file:
            if new:
                file.write("| " + " | ".join(cells) + " |\n" + "|---" * len(cells) + "|\n")
            file.write(line)


@dataclass
class Run:
    """A training run: SGD with momentum, cosine, cross-entropy; evaluated at the end, timed.

    Attributes:
        clip: the largest norm of the weights' gradient; None: any. Gates that close many at a time throw
            a net far off; its gradient grows by a factor of a hundred, and momentum carries it away.
        autocast: bfloat16 or float16 for the forward pass; None: float32.
        seconds: how long training took.
    """

    data: Data
    batches: Batches
    steps: int
    processes: Processes
    lr: float = 0.05
    decay: float = 5e-4
    clip: float | None = None
    autocast: torch.dtype | None = None
    seconds: float = field(default=0.0, init=False)

    def optimizer(self, module: nn.Module) -> torch.optim.SGD:
        optimizer = torch.optim.SGD(module.parameters(), lr=self.lr, momentum=0.9, weight_decay=self.decay)
        if self.clip:
            optimizer.register_step_pre_hook(lambda *_: _clip(optimizer, self.clip))
        return optimizer

    def learn(
        self,
        masks: Masks,
        after_step=None,
        mask_data: Batches | None = None,
        teacher: nn.Module | None = None,
        **options,
    ) -> Trainer:
        """Train a module behind masks for all steps, with a teacher's answers where one is given."""
        optimizer = self.optimizer(masks.module)
        trainer = Trainer(masks, optimizer, self.steps, **options)
        updates = self.steps if mask_data is None else round(self.steps * (1 + trainer.learning.settle) / 2)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
        start = time.perf_counter()
        fit(
            trainer,
            self.batches,
            nn.functional.cross_entropy if teacher is None else taught,
            mask_data=mask_data,
            teacher=teacher,
            scheduler=scheduler,
            processes=self.processes,
            autocast=self.autocast,
            after_step=after_step,
        )
        self.seconds = time.perf_counter() - start
        return trainer

    def plain(self, module: nn.Module, teacher: nn.Module | None = None) -> nn.Module:
        """Train a module without gates for all steps."""
        self.learn(NoMasks(module.to(self.processes.device)), teacher=teacher)
        return module

    def error(self, module: nn.Module) -> float:
        """Test error in percent."""
        return 100 * (1 - accuracy(module, *self.data.test))


def _clip(optimizer: torch.optim.Optimizer, largest: float) -> None:
    """Shorten the gradient of all weights of an optimizer; looked up late, for masks leave it first."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    nn.utils.clip_grad_norm_(weights, largest)


def taught(answers: Tensor, guide: Tensor, labels: Tensor, temperature: float = 4.0) -> Tensor:
    """Cross-entropy with labels and with softened answers (Hinton et al. 2015), half and half."""
    soft = nn.functional.kl_div(
        (answers / temperature).log_softmax(1),
        (guide / temperature).log_softmax(1),
        reduction="batchmean",
        log_target=True,
    )
    return (nn.functional.cross_entropy(answers, labels) + temperature**2 * soft) / 2


def device_name(processes: Processes) -> str:
    if processes.device.type == "cuda":
        return torch.cuda.get_device_name(processes.device)
    return f"CPU, {torch.get_num_threads()} thread(s)"

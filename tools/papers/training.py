"""Train the networks and write them as ONNX files; what is there already is kept."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch
from networks import RECIPES, Recipe
from torch import Tensor, nn
from train_common import read

from onnxmerge.graph.output import atomic_write
from onnxmerge.train import Batches, shift_and_flip, to_onnx

# Of every data set: where it is, the mean and the standard deviation after division by 255.
DATA = {
    "cifar10": ("cifar10", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "fashion_mnist": ("fashion_mnist.npz", (0.5,), (0.5,)),
}
_BATCH = 64
_DECAY = 5e-4


def train_all(
    folder: Path,
    shared: Path,
    names: list[str],
    device: str,
    width: float | None = None,
    epochs: int | None = None,
    scratch: bool = False,
    further: bool = False,
) -> Iterator[str]:
    """Train every network that ``folder`` lacks, each stored as soon as it is finished, and name it.

    Args:
        width, epochs: in the place of the recipes' own.
        scratch: whether all nets start from random weights, whatever their recipes say.
        further: train one more cycle the nets that are there, from their own weights, at their own width.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        target, recipe = folder / f"{name}.onnx", RECIPES[name]
        if target.exists() != further:
            print(f"{name}: is {'not ' if further else ''}there", flush=True)
            continue
        known = json.loads(target.with_suffix(".json").read_text("utf-8")) if further else {}
        wide, rounds = known.get("width") or width or recipe.width, epochs or recipe.epochs
        file, mean, std = DATA[recipe.data]
        images, labels = read(shared / "data" / file, mean=mean, std=std).train
        torch.manual_seed(0)
        net = recipe.build(wide)
        start = None if scratch else known.get("start", recipe.start)
        if further:
            _take(net, target)
        elif start is not None:
            net.load_state_dict(torch.load(folder / f"{start}.pt", weights_only=True))
        begin, cycle = time.process_time(), str(known.get("epochs", "")).count("+") + further
        fit(net, images, labels, recipe, rounds, device, name, seed=cycle)
        seconds = time.process_time() - begin + known.get("seconds", 0)
        model = to_onnx(net.cpu(), images[:2])
        torch.save(net.state_dict(), target.with_suffix(".pt"))
        facts = {
            "width": wide, "epochs": f"{known['epochs']} + {rounds}" if further else rounds,
            "images": len(images), "start": start, "device": device, "seconds": round(seconds),
        }  # fmt: skip
        target.with_suffix(".json").write_text(json.dumps(facts) + "\n")
        with atomic_write(target) as part:
            part.write_bytes(model.SerializeToString())
        print(f"{name}: done, {seconds:.0f} s of processor time", flush=True)
        yield name


def _take(net: nn.Module, path: Path) -> None:
    """The weights of a net as it was written, where they have the names that they have here."""
    stored = {t.name: onnx.numpy_helper.to_array(t).copy() for t in onnx.load(path).graph.initializer}
    state = {name: torch.from_numpy(values) for name, values in stored.items()}
    missing, unknown = net.load_state_dict(state, strict=False)
    lost = [name for name in missing if not name.endswith("num_batches_tracked")]
    if lost or unknown:
        raise ValueError(f"{path}: weights that do not fit: {', '.join([*lost, *unknown])}")


def fit(
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    epochs: int,
    device: str,
    name: str,
    seed: int,
) -> None:
    """One cycle of SGD with momentum; CIFAR's images are mirrored and moved by up to four pixels."""
    layout = torch.channels_last if images.shape[1] == 3 else torch.contiguous_format
    net.to(device, memory_format=layout).train()
    augment = shift_and_flip() if recipe.data == "cifar10" else None
    batches = Batches((images, labels), _BATCH, seed, augment)
    steps = epochs * len(batches)
    moving = {"momentum": 0.9, "nesterov": True, "weight_decay": _DECAY}
    optimizer = torch.optim.SGD(net.parameters(), lr=recipe.lr, fused=True, **moving)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=steps, pct_start=0.25)
    kind, half = torch.device(device).type, recipe.half or device != "cpu"
    total = right = 0.0
    for step in range(steps):
        x, y = (t.to(device) for t in batches.batch(step))
        with torch.autocast(kind, torch.bfloat16, enabled=half):
            answers = net(x.contiguous(memory_format=layout))
        loss = nn.functional.cross_entropy(answers.float(), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        total += loss.item()
        right += (answers.argmax(1) == y).float().mean().item()
        if (step + 1) % len(batches) == 0:
            mean, share = total / len(batches), right / len(batches)
            spent = time.process_time()
            print(
                f"{name} {(step + 1) // len(batches)}/{epochs}: {mean:.3f} {share:.1%} {spent:.0f} s",
                flush=True,
            )
            total = right = 0.0
    net.eval()

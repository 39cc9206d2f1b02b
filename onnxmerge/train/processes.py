"""One process or many: what ``torchrun`` started, which device is ours, and the module on all of them."""

from __future__ import annotations

import gc
import os
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from onnxmerge.errors import DeviceError


@dataclass(frozen=True)
class Processes:
    """The processes of a run.

    Attributes:
        rank: of this process, 0..world-1.
        world: how many there are.
        device: of this process.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def start(cls, device: str = "auto") -> Processes:
        """Join the processes that ``torchrun`` started (gloo on CPU, nccl on CUDA), or run alone.

        Args:
            device: auto, cpu or cuda.

        Raises:
            DeviceError: CUDA was asked for and is not there.
        """
        if device == "cuda" and not torch.cuda.is_available():
            raise DeviceError("CUDA was asked for and does not work here: this torch finds no CUDA device")
        cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
        local = int(os.environ.get("LOCAL_RANK", 0))
        if cuda:
            torch.cuda.set_device(local)
        world = int(os.environ.get("WORLD_SIZE", 1))
        if world > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if cuda else "gloo")
        chosen = torch.device("cuda", local) if cuda else torch.device("cpu")
        return cls(dist.get_rank() if world > 1 else 0, world, chosen)

    def spread(self, module: nn.Module) -> nn.Module:
        """The module with gradients averaged over all processes; alone, the module itself."""
        if self.world == 1:
            return module
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=devices)

    def close(self) -> None:
        """Leave together: who goes while another still exchanges gradients takes it down with an error."""
        if self.world > 1 and dist.is_initialized():
            dist.barrier()
            # Spread modules lie in reference cycles, and hold the group: its threads have to end before the
            # interpreter does, which else aborts now and then.
            gc.collect()
            dist.destroy_process_group()

"""One gate per channel: what is learned can be cut out of the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from onnxmerge.arguments import nearest
from onnxmerge.channels.cost import kept_lengths
from onnxmerge.channels.depth import Depth
from onnxmerge.errors import UsageError
from onnxmerge.plan import Selection
from onnxmerge.train.exporting import Example, Exporter, inputs_of, to_onnx
from onnxmerge.train.mapping import ChannelMap, map_channels
from onnxmerge.train.masks import Auxiliary, Masks
from onnxmerge.train.methods import HardStep, Method


class ChannelMasks(Masks):
    """The masks of a module's channels; make them with ``wrap``.

    Attributes:
        skipped: channels that have no gate, by the reason.
    """

    kinds = ("macs", "params")

    def __init__(self, module: nn.Module, found: ChannelMap, method: Method, seed: int, depth: bool = True):
        device = next(module.parameters()).device
        start = torch.full((len(found.component),), method.initial, device=device)
        auxiliary = Auxiliary(nn.Parameter(start), torch.from_numpy(found.group).to(device))
        gates = {name: (auxiliary, torch.from_numpy(index).to(device)) for name, index in found.index.items()}
        super().__init__(module, method, [auxiliary], gates, seed)
        self.skipped: Mapping[str, int] = found.skipped
        self._found = found
        self._may_go = _may_go(found) if depth else frozenset()
        self._known: tuple[bytes, dict[str, float], dict[str, list[Tensor]]] = (b"", {}, {})

    @property
    def widths(self) -> dict[str, tuple[int, int]]:
        """Open gates and all gates of every group that has any, by its name."""
        opened = self.opened[0].cpu().numpy()
        groups = self._found.channels.groups
        return {
            groups[n].name: (int(opened[self._found.group == n].sum()), int((self._found.group == n).sum()))
            for n in self._numbers
        }

    def share(self, kind: str, opened: Sequence[Tensor] | None = None) -> float:
        removed = self._removed(self.opened if opened is None else opened)
        if opened is not None:
            return self._share(kind, removed)
        shares = self._cached(removed)[1]
        if kind not in shares:
            shares[kind] = self._share(kind, removed)
        return shares[kind]

    def costs(self, kind: str) -> list[Tensor]:
        values = self.parameters[0]
        if kind == "none":
            return [torch.ones_like(values)]
        removed = self._removed(self.opened)
        costs = self._cached(removed)[2]
        if kind not in costs:
            each = self._found.analysis.cost.marginal(kind, removed)[self._found.component]
            costs[kind] = [torch.from_numpy(each / max(each.mean(), 1e-12)).to(values)]
        return costs[kind]

    @torch.no_grad()
    def strongest(self) -> list[Tensor]:
        groups = self._found.channels.groups
        gone = self._depth.most(sorted(self._may_go))
        return [self._strongest([n for n in self._numbers if groups[n].name not in gone])]

    @torch.no_grad()
    def keep_alive(self) -> None:
        opened = self.opened[0].cpu().numpy()
        groups = self._found.channels.groups
        alive = set(self._found.group[opened].tolist())
        empty = [n for n in self._numbers if n not in alive]
        if not empty:
            return
        gone = set(self._depth.most(groups[n].name for n in empty if groups[n].name in self._may_go))
        lost = self._strongest([n for n in empty if groups[n].name not in gone])
        self.parameters[0][lost] = self.method.threshold + 1e-3

    @property
    def _depth(self) -> Depth:
        return self._found.analysis.depth

    @cached_property
    def _numbers(self) -> list[int]:
        """The numbers of the groups that have gates."""
        return [int(number) for number in np.unique(self._found.group)]

    def _strongest(self, numbers: Sequence[int]) -> Tensor:
        """The strongest gate of each of some groups, bool [K]."""
        values = self.parameters[0]
        order = values.detach().cpu().argsort(descending=True, stable=True)
        found, first = np.unique(self._found.group[order.numpy()], return_index=True)
        needed = torch.zeros(len(values), dtype=torch.bool)
        needed[order[torch.from_numpy(first[np.isin(found, numbers)])]] = True
        return needed.to(values.device)

    @torch.no_grad()
    def fix_at(self, selection: Selection) -> None:
        """End the learning of the masks with the channels of a selection, found by other means.

        Args:
            selection: of the exported module, a plan's for example; groups that it does not name, and
                channels without a gate, stay whole. A group that it empties keeps its first channel where
                no layer may run empty.

        Raises:
            UsageError: it names a group or a channel that the module does not have.
        """
        values = self.parameters[0]
        closed = self._closed(selection).to(values.device)
        values.copy_(torch.where(closed, self.method.threshold - 1.0, self.method.initial))
        self.fix()

    @torch.no_grad()
    def start_in_order(self, selections: Sequence[Selection]) -> None:
        """Begin with an order of the channels, found by other means: what is worth least closes first.

        With all gates alike, a small ResNet that was trained already ended at twice the distance from
        channels that were fixed beforehand (``tools/results/train_recipes.md``).

        Args:
            selections: of the exported module, for ever smaller budgets, the largest first. A gate begins the
                nearer to its threshold the earlier they leave its channel out.

        Raises:
            UsageError: one names a group or a channel that the module does not have.
        """
        kept = sum((~self._closed(s) for s in selections), torch.zeros(len(self._found.component)))
        values, method = self.parameters[0], self.method
        far = 2 * (method.initial - method.threshold)
        values.copy_(method.threshold + far * (kept.to(values) + 0.5) / (len(selections) + 1))

    def _closed(self, selection: Selection) -> Tensor:
        """The gates whose channels a selection leaves out, bool [K]."""
        groups = {group.name: group for group in self._found.channels.groups}
        unknown = [name for name in selection.keep if name not in groups]
        if unknown:
            raise UsageError(f"the module has no group '{unknown[0]}'{nearest(unknown[0], groups)}")
        for name, kept in selection.keep.items():
            last = len(groups[name]) - 1
            if len(kept) and not 0 <= min(kept) <= max(kept) <= last:
                raise UsageError(f"the group '{name}' has the channels 0 to {last}, not {max(kept)}")
        return torch.from_numpy(self._found.analysis.removed(selection)[self._found.component])

    def _removed(self, opened: Sequence[Tensor]) -> np.ndarray:
        removed = np.zeros(self._found.channels.count, dtype=bool)
        removed[self._found.component] = ~opened[0].cpu().numpy()
        return removed

    def _share(self, kind: str, removed: np.ndarray) -> float:
        return self._found.analysis.share(kind, kept_lengths(self._found.channels, removed))

    def _cached(self, removed: np.ndarray) -> tuple[bytes, dict[str, float], dict[str, list[Tensor]]]:
        """What was worked out for these gates; gates change rarely, and are asked for at every step."""
        key = removed.tobytes()
        if self._known[0] != key:
            self._known = (key, {}, {})
        return self._known


def wrap(
    module: nn.Module,
    example: Example,
    *,
    method: Method | None = None,
    exporter: Exporter = to_onnx,
    seed: int = 0,
    depth: bool = True,
) -> ChannelMasks:
    """Put one gate before every channel of a module; its code and its parameters stay as they are.

    The channels are those of the core's analysis of the exported module: one that runs through a
    residual sum or a depthwise layer has one gate for all its positions.

    Args:
        module: any module that can be exported; float32 weights are gated.
        example: one input tensor, or a tuple of them, with a batch axis.
        method: how gates are learned; None: ``HardStep()``.
        exporter: makes an ONNX model of (module, example).
        seed: of the noise of random gates.
        depth: whether all gates of a branch may close, so that its layers leave the file; the groups are
            those that the core may leave without a channel.

    Raises:
        ModelError: the module cannot be exported, or has no channel that could be removed.
    """
    device = next(module.parameters()).device
    example = tuple(x.to(device) for x in inputs_of(example))
    return ChannelMasks(module, map_channels(module, example, exporter), method or HardStep(), seed, depth)


def _may_go(found: ChannelMap) -> frozenset[str]:
    """The groups that may go altogether: every channel has a gate, and what reads them can do without."""
    gates = np.bincount(found.group, minlength=len(found.channels.groups))
    whole = {g.name for n, g in enumerate(found.channels.groups) if gates[n] == len(g)}
    return frozenset(name for name in found.analysis.depth.names if name in whole)

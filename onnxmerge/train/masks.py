"""Masks: a module's auxiliary parameters, and the gates that they put in front of its weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from onnxmerge.train.methods import Method, spread


@dataclass(eq=False)
class Auxiliary:
    """One tensor of auxiliary parameters.

    Attributes:
        values: float, one per gate.
        width: int64, which width each gate belongs to; None: all to one.
        noise: of the current forward pass, or None.
    """

    values: nn.Parameter
    width: Tensor | None = None
    noise: Tensor | None = None


class Gate(nn.Module):
    """The parametrization that turns a weight w into t = w * h(m); m is shared by all gates of a channel."""

    index: Tensor | None

    def __init__(self, auxiliary: Auxiliary, method: Method, index: Tensor | None):
        super().__init__()
        # Registered, so that the module's device, its state and DistributedDataParallel know it.
        self.mask = auxiliary.values
        self.auxiliary = auxiliary
        self.method = method
        self.register_buffer("index", index, persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        return self.method.gate(weight, self.mask, self.index, self.auxiliary.noise)

    def closed(self) -> Tensor:
        """Which elements of the weight are behind a closed gate, bool, broadcasts against the weight."""
        return ~spread(self.mask.detach() > self.method.threshold, self.index)


@dataclass(frozen=True, eq=False)
class Place:
    """An attribute of a part of the module that holds a gated weight; ``name`` is the parameter's."""

    name: str
    part: nn.Module
    attribute: str
    gate: Gate

    @property
    def weight(self) -> nn.Parameter:
        """The weight behind the gate; closed gates leave its values alone."""
        weight = getattr(self.part.parametrizations, self.attribute).original
        assert isinstance(weight, nn.Parameter)
        return weight


class Masks(ABC):
    """A module under gates.

    Attributes:
        module: the user's module; its weights are gated in place.
        method: how parameters become gates.
        auxiliaries: the auxiliary parameters.
        places: where the gates are.
        fixed: whether learning the masks is over; gates are deterministic from then on.
        kinds: what a share can be measured in.
    """

    kinds: tuple[str, ...]

    def __init__(
        self,
        module: nn.Module,
        method: Method,
        auxiliaries: Sequence[Auxiliary],
        gates: Mapping[str, tuple[Auxiliary, Tensor | None]],
        seed: int,
    ):
        self.module = module
        self.method = method
        self.auxiliaries = tuple(auxiliaries)
        self.fixed = False
        self.places = tuple(_gated_places(module, method, gates))
        self.generator = torch.Generator().manual_seed(seed)
        # Before the root's forward, so that all consumers of a channel see the same noise.
        module.register_forward_pre_hook(lambda *_: self.draw())

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The auxiliary parameters, for an optimizer of their own."""
        return [auxiliary.values for auxiliary in self.auxiliaries]

    @property
    def opened(self) -> list[Tensor]:
        """Which gates are open, bool, one tensor for each of ``parameters``."""
        return [values.detach() > self.method.threshold for values in self.parameters]

    def draw(self) -> None:
        """New noise for the methods that want it, while the module trains and the masks are learned."""
        wanted = self.method.random and self.module.training and not self.fixed
        for auxiliary in self.auxiliaries:
            auxiliary.noise = None
            if wanted:
                noise = torch.rand(auxiliary.values.shape, generator=self.generator)
                auxiliary.noise = noise.clamp(1e-6, 1 - 1e-6).to(auxiliary.values.device)

    @abstractmethod
    def share(self, kind: str, opened: Sequence[Tensor] | None = None) -> float:
        """What open gates (now, or ``opened``) leave of the module, as a share of its ``kind``."""

    @abstractmethod
    def costs(self, kind: str) -> list[Tensor]:
        """What each gate costs at the current widths, of mean 1; ``kind`` none: 1 for all."""

    def strongest(self) -> list[Tensor]:
        """The gates that must not all be closed: the strongest of every group, bool; none by default."""
        return [torch.zeros_like(values, dtype=torch.bool) for values in self.parameters]

    def keep_alive(self) -> None:  # noqa: B027 - single weights have no group that could run empty
        """Open the strongest gate of every group that has none open: no layer may run empty."""

    @property
    def smallest(self) -> dict[str, float]:
        """The smallest share that can be met, by kind."""
        return {kind: self.share(kind, self.strongest()) for kind in self.kinds}

    def fix(self, kind: str | None = None, target: float | None = None) -> None:
        """End the learning of the masks; with a target, first meet it in the order of m.

        The weakest open gates are closed until the share is at most ``target``, or the strongest
        closed ones opened while it stays so.
        """
        if kind is not None and target is not None:
            self._meet(kind, target)
        self.keep_alive()
        self.fixed = True
        self.draw()

    @torch.no_grad()
    def _meet(self, kind: str, target: float) -> None:
        flat = torch.cat([values.flatten() for values in self.parameters])
        order = flat.argsort(descending=True, stable=True)
        places = torch.empty_like(order)
        places[order] = torch.arange(len(order), device=order.device)
        sizes = [values.numel() for values in self.parameters]
        ranks = [r.view_as(v) for r, v in zip(places.split(sizes), self.parameters, strict=True)]
        needed = self.strongest()

        def chosen(count: int) -> list[Tensor]:
            return [(rank < count) | must for rank, must in zip(ranks, needed, strict=True)]

        low, high = 0, len(order)
        while low < high:
            middle = (low + high + 1) // 2
            fits = self.share(kind, chosen(middle)) <= target
            low, high = (middle, high) if fits else (low, middle - 1)
        threshold = self.method.threshold
        for values, opened in zip(self.parameters, chosen(low), strict=True):
            values[opened & (values <= threshold)] = threshold + 1e-3
            values[~opened & (values > threshold)] = threshold - 1e-3

    @contextmanager
    def folded(self) -> Iterator[nn.Module]:
        """The module as a plain one, gates multiplied into its weights; they are put back at exit."""
        kept: dict[int, tuple[nn.Parameter, Tensor]] = {}
        noise = [auxiliary.noise for auxiliary in self.auxiliaries]
        for auxiliary in self.auxiliaries:
            auxiliary.noise = None
        with torch.no_grad():
            folded = [getattr(place.part, place.attribute).clone() for place in self.places]
        for place, values in zip(self.places, folded, strict=True):
            weight = place.weight
            parametrize.remove_parametrizations(place.part, place.attribute, leave_parametrized=False)
            kept.setdefault(id(weight), (weight, weight.data))
            weight.data = values
        try:
            yield self.module
        finally:
            for weight, values in kept.values():
                weight.data = values
            for place in self.places:
                parametrize.register_parametrization(place.part, place.attribute, place.gate, unsafe=True)
            for auxiliary, values in zip(self.auxiliaries, noise, strict=True):
                auxiliary.noise = values


def _gated_places(
    module: nn.Module, method: Method, gates: Mapping[str, tuple[Auxiliary, Tensor | None]]
) -> Iterator[Place]:
    """Put the gates in: parameters that several parts share get one in each of them."""
    by_parameter = {id(p): name for name, p in module.named_parameters() if name in gates}
    found = [
        (by_parameter[id(p)], part, attribute)
        for part in list(module.modules())
        for attribute, p in list(part.named_parameters(recurse=False))
        if id(p) in by_parameter
    ]
    for name, part, attribute in found:
        auxiliary, index = gates[name]
        gate = Gate(auxiliary, method, index)
        # unsafe: the shape and type cannot change, and the check would draw from the gate.
        parametrize.register_parametrization(part, attribute, gate, unsafe=True)
        yield Place(name, part, attribute, gate)

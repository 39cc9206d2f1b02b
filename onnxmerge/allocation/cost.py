"""What the widths of all groups cost together, for many changes of one group at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxmerge.allocation.budget import Budget
from onnxmerge.channels import Channels

Rungs = dict[str, int]
Ladders = Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Cost:
    """A share of the input model as a function of the rung of every group's ladder.

    The lengths of the axes are sums over the groups, so that changing one group is cheap.

    Attributes:
        share: lengths [..., axes] -> share [...].
        rest: the positions that no group owns, int64 [axes].
        axes: per group the axes on which its channels lie.
        lengths: per group what it adds to these axes, int64 [rungs, axes].
    """

    share: Callable[[np.ndarray], np.ndarray]
    rest: np.ndarray
    axes: Mapping[str, np.ndarray]
    lengths: Mapping[str, np.ndarray]

    @staticmethod
    def of_axes(
        channels: Channels, order: Mapping[str, np.ndarray], ladders: Ladders, budget: Budget
    ) -> Cost:
        """What a budget counts.

        Args:
            order: per group its channels, the first to stay first.
        """
        assert budget.share is not None, "a ratio counts channels, and nothing else"
        class_of = channels.classes.class_of(np.arange(channels.classes.total))
        owner = channels.group_of[channels.label]
        axes, lengths = {}, {}
        for number, group in enumerate(channels.groups):
            place = np.zeros(channels.count, dtype=np.int64)
            place[group.channels[order[group.name]]] = np.arange(len(group))
            own = np.flatnonzero(owner == number)
            axes[group.name], column = np.unique(class_of[own], return_inverse=True)
            counts = np.zeros((len(group), len(axes[group.name])), dtype=np.int64)
            np.add.at(counts, (place[channels.label[own]], column), 1)
            kept = np.concatenate([np.zeros((1, counts.shape[1]), np.int64), counts.cumsum(axis=0)])
            lengths[group.name] = kept[ladders[group.name]]
        rest = np.bincount(class_of[owner < 0], minlength=len(channels.classes.size))
        return Cost(budget.share, rest, axes, lengths)

    @staticmethod
    def of_channels(ladders: Ladders) -> Cost:
        """The share of all channels."""
        total = max(sum(int(ladder[-1]) for ladder in ladders.values()), 1)
        axes = {name: np.array([number]) for number, name in enumerate(ladders)}
        lengths = {name: ladder[:, None] for name, ladder in ladders.items()}
        return Cost(
            lambda counts: counts.sum(axis=-1) / total, np.zeros(len(ladders), np.int64), axes, lengths
        )

    def __call__(self, rung: Rungs) -> float:
        """The share at a rung of every group."""
        return float(self.share(self._at(rung)))

    def each(self, rung: Rungs, changes: Sequence[tuple[str, int]]) -> np.ndarray:
        """The share after each change of one group to another rung alone, float64 [changes]."""
        lengths = np.repeat(self._at(rung)[None], len(changes), axis=0)
        for row, (name, to) in zip(lengths, changes, strict=True):
            row[self.axes[name]] += self.lengths[name][to] - self.lengths[name][rung[name]]
        return self.share(lengths)

    def _at(self, rung: Rungs) -> np.ndarray:
        lengths = self.rest.copy()
        for name, r in rung.items():
            lengths[self.axes[name]] += self.lengths[name][r]
        return lengths

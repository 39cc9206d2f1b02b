"""Which reading of a node to take where its rule offers several.

A Reshape that splits an axis can keep whole blocks (attention heads) or one place in every block
(channel shuffle); a grouped convolution whole groups or the same channels of every group. The
first reading that leaves enough free channels is taken, in topological order, with everything
undecided left open. Where that ends in readings that exclude each other (values by the places within
their heads, queries by heads), those are taken anew, and any channels are enough.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from onnxmerge.channels.units import AxisClasses, axis_classes, by_axes, connect, edges, frozen_positions
from onnxmerge.graph.view import Axis
from onnxmerge.operators.relations import Choice, Option, Relation, Statement

# Fewer channels than this are too coarse to choose among, if another reading has more.
ENOUGH_CHANNELS = 4


def decide(axes: Iterable[Axis], statements: Iterable[Statement]) -> list[Statement]:
    """The statements without choices: each replaced by those of the option taken."""
    statements = list(statements)
    fixed = [s for s in statements if not isinstance(s.relation, Choice)]
    makers, choices = [], []
    for statement in statements:
        if isinstance(statement.relation, Choice):
            makers.append(statement.node)
            choices.append(statement.relation)
    if not choices:
        return fixed
    relations = [s.relation for s in fixed]
    start = _State.of(axis_classes(axes, relations), relations)
    taken, lost, culprits = _taken(start, choices, [ENOUGH_CHANNELS] * len(choices))
    if lost:
        enough = [1 if i in lost | culprits else ENOUGH_CHANNELS for i in range(len(choices))]
        again, still_lost, _ = _taken(start, choices, enough)
        taken = again if len(still_lost) < len(lost) else taken
    found = [
        Statement(node, relation)
        for node, option in zip(makers, taken, strict=True)
        for relation in option.relations
    ]
    return [*fixed, *found]


class _State:
    """Positions as connected so far."""

    def __init__(self, classes: AxisClasses, label: np.ndarray, frozen: np.ndarray):
        self.classes, self.label, self.frozen = classes, label, frozen

    @staticmethod
    def of(classes: AxisClasses, relations: list[Relation]) -> _State:
        label = connect(classes.total, edges(classes, relations))
        return _State(classes, label, np.zeros(classes.total, dtype=bool))._freezing(relations)

    def adding(self, option: Option) -> _State:
        """With the relations of an option."""
        return _State(self.classes, self._merged(option), self.frozen)._freezing(option.relations)

    def _freezing(self, relations: Iterable[Relation]) -> _State:
        frozen = self.frozen.copy()
        frozen[frozen_positions(self.classes, relations)] = True
        frozen_labels = np.zeros(self.label.max(initial=0) + 1, dtype=bool)
        frozen_labels[self.label[frozen]] = True
        return _State(self.classes, self.label, frozen_labels[self.label])

    def _merged(self, option: Option) -> np.ndarray:
        new = [(self.label[a], self.label[b]) for a, b in edges(self.classes, option.relations, whole=True)]
        return connect(int(self.label.max(initial=0)) + 1, new)[self.label]

    def free_channels(self, option: Option) -> int:
        """How many free channels the option would leave on the axis that carries them.

        Only those count that have others beside them on the same axes: what is alone in its kind, like each
        of the three parts of a joint projection to queries, keys and values, is no choice.
        """
        owner = self.classes.ids(option.owner)
        if self.frozen[owner].all():
            return 0
        label = self._merged(option)
        frozen = self.frozen.copy()
        frozen[frozen_positions(self.classes, option.relations)] = True
        free = np.zeros(label.max(initial=0) + 1, dtype=bool)
        free[label[owner]] = True
        free[label[frozen]] = False
        kinds = by_axes(self.classes, label, np.flatnonzero(free[label]))
        return sum(len(channels) for channels in kinds.values() if len(channels) > 1)


def _taken(
    state: _State, choices: Sequence[Choice], enough: Sequence[int]
) -> tuple[list[Option], set[int], set[int]]:
    """An option for every choice, the numbers of those that are lost, and of those that froze them.

    Lost are the choices that had free channels when they were made, and have none in the end.
    """
    taken, promising = [], []
    for choice, least in zip(choices, enough, strict=True):
        option, count = _take(state, choice, least)
        state = state.adding(option)
        taken.append(option)
        promising.append(count > 0)
    lost = {i for i, option in enumerate(taken) if promising[i] and not state.free_channels(option)}
    touched = np.zeros(state.label.max(initial=0) + 1, dtype=bool)
    for i in lost:
        touched[state.label[state.classes.ids(taken[i].owner)]] = True
    culprits = {
        i
        for i, option in enumerate(taken)
        if touched[state.label[frozen_positions(state.classes, option.relations)]].any()
    }
    return taken, lost, culprits


def _take(state: _State, choice: Choice, enough: int) -> tuple[Option, int]:
    """The first option that leaves enough free channels, else the one that leaves most; and how many."""
    best, most = choice.options[0], 0
    for option in choice.options:
        count = state.free_channels(option)
        if count >= enough:
            return option, count
        if count > most:
            best, most = option, count
    return best, most

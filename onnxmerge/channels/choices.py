"""Which reading of a node to take where its rule offers several.

A Reshape that splits an axis can keep whole blocks (attention heads) or one place in every block
(channel shuffle); a grouped convolution whole groups or the same channels of every group. The
first reading that leaves enough free channels is taken, in topological order, with everything
undecided left open.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from onnxmerge.channels.units import AxisClasses, Edge, axis_classes, connect, edges, frozen_positions
from onnxmerge.graph.view import Axis
from onnxmerge.operators.relations import Choice, Option, Relation

# Fewer channels than this are too coarse to choose among, if another reading has more.
ENOUGH_CHANNELS = 3


def decide(axes: Iterable[Axis], relations: Iterable[Relation]) -> list[Relation]:
    """The relations without choices: each replaced by those of the option taken."""
    relations = list(relations)
    fixed: list[Relation] = [r for r in relations if not isinstance(r, Choice)]
    choices = [r for r in relations if isinstance(r, Choice)]
    if not choices:
        return fixed
    state = _State(axis_classes(axes, fixed), fixed)
    for choice in choices:
        option = _take(state, choice)
        state.add(option.relations)
        fixed += option.relations
    return fixed


class _State:
    """Positions as connected so far."""

    def __init__(self, classes: AxisClasses, relations: list[Relation]):
        self.classes = classes
        self.pairs: list[Edge] = edges(classes, relations)
        self.label = connect(classes.total, self.pairs)
        self.frozen = np.zeros(classes.total, dtype=bool)
        self.add(relations, connected=True)

    def add(self, relations: Iterable[Relation], *, connected: bool = False) -> None:
        relations = list(relations)
        if not connected:
            self.label = self._merged(relations)
        self.frozen[frozen_positions(self.classes, relations)] = True
        frozen_labels = np.zeros(self.label.max(initial=0) + 1, dtype=bool)
        frozen_labels[self.label[self.frozen]] = True
        self.frozen = frozen_labels[self.label]

    def _merged(self, relations: list[Relation]) -> np.ndarray:
        new = [(self.label[a], self.label[b]) for a, b in edges(self.classes, relations, whole=True)]
        return connect(int(self.label.max(initial=0)) + 1, new)[self.label]

    def free_channels(self, option: Option) -> int:
        """How many free channels the option would leave on the axis that carries them."""
        owner = self.classes.ids(option.owner)
        if self.frozen[owner].all():
            return 0
        label = self._merged(list(option.relations))
        frozen = self.frozen.copy()
        frozen[frozen_positions(self.classes, option.relations)] = True
        free = np.ones(label.max(initial=0) + 1, dtype=bool)
        free[label[frozen]] = False
        return int(free[np.unique(label[owner])].sum())


def _take(state: _State, choice: Choice) -> Option:
    best, most = choice.options[0], 0
    for option in choice.options:
        count = state.free_channels(option)
        if count >= ENOUGH_CHANNELS:
            return option
        if count > most:
            best, most = option, count
    return best

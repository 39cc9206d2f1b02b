"""Axis positions and what connects them.

Axes that are tied as a whole, position by position, form an *axis class*; classes are few, so the
positions that remain to be connected one by one (Concat, Flatten, channel shuffle) are few too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from onnxmerge.graph.view import Axis, Positions
from onnxmerge.operators.relations import Contract, Freeze, Mix, Relation, Tie

Edge = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class AxisClasses:
    """Axes grouped by whole ties. Positions of class k are numbered from ``offset[k]``."""

    number: Mapping[Axis, int]
    offset: np.ndarray
    size: np.ndarray

    @property
    def total(self) -> int:
        return int(self.offset[-1] + self.size[-1]) if len(self.size) else 0

    def ids(self, where: Axis | Positions) -> np.ndarray:
        """Global position numbers (int64) of an axis, or of some of its positions."""
        axis = where if isinstance(where, Axis) else where.axis
        start = self.offset[self.number[axis]]
        return start + (np.arange(axis.size) if isinstance(where, Axis) else where.index)

    def class_of(self, ids: np.ndarray) -> np.ndarray:
        """The class number of every position."""
        return np.searchsorted(self.offset, ids, side="right") - 1


def axis_classes(axes: Iterable[Axis], relations: Iterable[Relation]) -> AxisClasses:
    """Classes of the given axes under the whole ties among the relations."""
    parent: dict[Axis, Axis] = {axis: axis for axis in axes}

    def root(axis: Axis) -> Axis:
        while parent[axis] is not axis:
            parent[axis] = parent[parent[axis]]
            axis = parent[axis]
        return axis

    for pair in map(whole_tie, relations):
        if pair is not None:
            a, b = root(pair[0]), root(pair[1])
            if a is not b:
                parent[b] = a
    roots: dict[Axis, int] = {}
    number = {axis: roots.setdefault(root(axis), len(roots)) for axis in parent}
    size = np.array([axis.size for axis in roots], dtype=np.int64)
    return AxisClasses(number, np.concatenate([[0], np.cumsum(size)[:-1]]).astype(np.int64), size)


def whole_tie(relation: Relation) -> tuple[Axis, Axis] | None:
    """The two axes that a relation ties position by position, if it does."""
    match relation:
        case Tie(a=a, b=b):
            pass
        case Contract(data=a, weight=b) if b is not None:
            pass
        case _:
            return None
    first, second = (w if isinstance(w, Axis) else w.axis if w.whole else None for w in (a, b))
    return None if first is None or second is None else (first, second)


def edges(classes: AxisClasses, relations: Iterable[Relation], *, whole: bool = False) -> list[Edge]:
    """Pairs of global positions that the relations tie; whole ties only where asked for."""
    found = []
    for relation in relations:
        if whole_tie(relation) is not None and not whole:
            continue
        match relation:
            case Tie(a=a, b=b):
                found.append((classes.ids(a), classes.ids(b)))
            case Contract(data=data, weight=weight) if weight is not None:
                found.append((classes.ids(data), classes.ids(weight)))
    return found


def frozen_positions(classes: AxisClasses, relations: Iterable[Relation]) -> np.ndarray:
    """Global positions that some relation freezes or mixes."""
    parts = [classes.ids(frozen_where(r)) for r in relations if isinstance(r, Mix | Freeze)]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def frozen_where(relation: Mix | Freeze) -> Axis | Positions:
    return relation.axis if isinstance(relation, Mix) else relation.where


def connect(total: int, pairs: list[Edge]) -> np.ndarray:
    """The component number (int64) of each of ``total`` positions."""
    if not pairs:
        return np.arange(total)
    a = np.concatenate([p[0] for p in pairs])
    b = np.concatenate([p[1] for p in pairs])
    graph = coo_array((np.ones(len(a), dtype=np.int8), (a, b)), shape=(total, total))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def by_axes(classes: AxisClasses, label: np.ndarray, ids: np.ndarray) -> dict[tuple[int, ...], list[int]]:
    """The components of some positions, by the axis classes that they lie on, in order of components.

    ``ids`` must hold every position of each component that has one among them.
    """
    if not len(ids):
        return {}
    pairs = np.unique(np.stack([label[ids], classes.class_of(ids)]), axis=1)
    starts = np.flatnonzero(np.diff(pairs[0], prepend=-1))
    members: dict[tuple[int, ...], list[int]] = {}
    for component, part in zip(pairs[0][starts], np.split(pairs[1], starts[1:]), strict=True):
        members.setdefault(tuple(part.tolist()), []).append(int(component))
    return members

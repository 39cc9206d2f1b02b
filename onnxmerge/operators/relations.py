"""The words in which an operator says what it knows about axis positions.

tie, contract, size, mix and freeze do nearly all of the work; ``Index`` is a size whose numbers
are positions, ``Normalise`` says that statistics are those of what remains, and ``Choice`` offers readings
of a node that exclude one another.

A rule maps a node to relations. It never sees channels, selections or other nodes: connected
positions become channels elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

from onnxmerge.graph.view import Axis, NodeView, Positions

Where = Axis | Positions


def positions(where: Where) -> Positions:
    """An axis stands for all of its positions."""
    return where.all if isinstance(where, Axis) else where


@dataclass(frozen=True, eq=False)
class Tie:
    """These positions are the same channel, pair by pair.

    ``joins`` marks where different producers meet in one channel or one axis (a sum, a concat).
    """

    a: Where
    b: Where
    joins: bool = False

    def __str__(self) -> str:
        return f"tie {self.a} ~ {self.b}"


@dataclass(frozen=True, eq=False)
class Contract:
    """Positions of ``data`` that are summed over, pair by pair against those of ``weight``.

    This is where a mask is exact, and a fold site where ``weight`` is a stored constant.
    ``operand`` is the number of the node's input that carries the data. ``blocks`` > 1 says that the
    sum runs within that many equal blocks of the data axis (a grouped convolution). ``average`` says
    that it is divided by the number of positions: a mean is one of those that remain.
    """

    data: Axis
    weight: Where | None
    operand: int = 0
    blocks: int = 1
    average: bool = False

    def mask(self, kept: np.ndarray) -> np.ndarray:
        """What the data are multiplied with in the place of a cut: float64, from bool [data.size]."""
        return kept * (len(kept) / max(kept.sum(), 1) if self.average else 1.0)

    def __str__(self) -> str:
        weight = "1" if self.weight is None else self.weight
        return f"contract {self.data} . {f'1/{self.data.size}' if self.average else weight}"


@dataclass(frozen=True)
class Slot:
    """Where a node states a length: an attribute (name) or an input (number), and the element in it."""

    place: str | int
    element: int | None = None

    def __str__(self) -> str:
        where = self.place if isinstance(self.place, str) else f"input {self.place}"
        return where if self.element is None else f"{where}[{self.element}]"


@dataclass(frozen=True, eq=False)
class Size:
    """The number in ``slot`` is ``scale`` times the count of positions that remain among ``of``."""

    slot: Slot
    of: Where
    scale: int = 1

    def __str__(self) -> str:
        times = "" if self.scale == 1 else f"{self.scale} * "
        return f"size {self.slot} = {times}|{self.of}|"


@dataclass(frozen=True)
class Index:
    """The numbers in the constant input ``slot`` are positions of ``axis``: they move when some go."""

    slot: Slot
    axis: Axis

    def __str__(self) -> str:
        return f"index {self.slot} into {self.axis}"


@dataclass(frozen=True)
class Mix:
    """Removing one position of this axis would change the others."""

    axis: Axis
    why: str

    def __str__(self) -> str:
        return f"mix {self.axis}: {self.why}"


@dataclass(frozen=True, eq=False)
class Normalise:
    """Positions that are normalised together: those that remain have statistics of their own.

    In the place of a cut, removed positions of ``data`` hold the mean of those that stay, or zero where the
    node does not centre. The variance over n positions of which k stay is then k/n of theirs: with n/k times
    the epsilon and sqrt(n/k) times the scale the node computes over k what it computed over n.

    Attributes:
        data: the axis, in each of the operands whose sum is normalised.
        operands: the numbers of these inputs.
        scale: the number of the input that holds the scale, stored.
        epsilon: what is added to the variance; an attribute of this name.
        centred: whether the mean is subtracted.
    """

    data: tuple[Axis, ...]
    operands: tuple[int, ...]
    scale: int
    epsilon: float
    centred: bool

    def __str__(self) -> str:
        return f"normalise {' + '.join(map(str, self.data))}"


class Telling(IntEnum):
    """How much a reason tells a person who asks why something stays; lower is more."""

    UNPRUNABLE = 0
    BORDER = 1
    RULE = 2
    OTHER_AXIS = 3
    UNMENTIONED = 4


@dataclass(frozen=True, eq=False)
class Freeze:
    """Never touch these positions, with the reason.

    Attributes:
        telling: of several reasons the most telling one is given.
    """

    where: Where
    why: str
    telling: Telling = Telling.RULE

    def __str__(self) -> str:
        return f"freeze {self.where}: {self.why}"


@dataclass(frozen=True)
class Choice:
    """Alternative readings of one node; the first that leaves enough free channels is taken."""

    options: tuple[Option, ...]

    def __str__(self) -> str:
        return "choose " + " | ".join(str(option) for option in self.options)


@dataclass(frozen=True)
class Option:
    """One reading: its relations, and the axis whose positions would be the channels."""

    owner: Axis
    relations: tuple[Relation, ...] = field(default=())

    def __str__(self) -> str:
        return f"({self.owner}: {'; '.join(str(r) for r in self.relations)})"


Relation = Tie | Contract | Size | Index | Normalise | Mix | Freeze | Choice


@dataclass(frozen=True)
class Statement:
    """A relation, and the node whose rule states it; None for the borders of the graph."""

    node: NodeView | None
    relation: Relation


def axes_of(relation: Relation) -> set[Axis]:
    """Every axis that a relation mentions; a size mentions none, for it only follows."""
    match relation:
        case Tie(a=a, b=b):
            return {_axis(a), _axis(b)}
        case Contract(data=data, weight=weight):
            return {data} if weight is None else {data, _axis(weight)}
        case Mix(axis=axis):
            return {axis}
        case Normalise(data=data):
            return set(data)
        case Freeze(where=where):
            return {_axis(where)}
        case Choice(options=options):
            return {axis for option in options for r in option.relations for axis in axes_of(r)}
    return set()


def check(relation: Relation) -> None:
    """Raise ValueError where a relation pairs lists of unequal length, or names positions out of range."""
    match relation:
        case Tie(a=a, b=b):
            _check_pair(a, b)
        case Contract(data=data, weight=weight) if weight is not None:
            _check_pair(data, weight)
        case Choice(options=options):
            for option in options:
                for inner in option.relations:
                    check(inner)


def _check_pair(a: Where, b: Where) -> None:
    if _count(a) != _count(b):
        raise ValueError(f"{a} has {_count(a)} positions, {b} has {_count(b)}")
    for where in (a, b):
        out = (
            not isinstance(where, Axis)
            and len(where)
            and not 0 <= where.index.min() <= where.index.max() < where.axis.size
        )
        if out:
            raise ValueError(f"{where} is out of range")


def _count(where: Where) -> int:
    return where.size if isinstance(where, Axis) else len(where)


def _axis(where: Where) -> Axis:
    return where if isinstance(where, Axis) else where.axis

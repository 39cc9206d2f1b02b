"""What can be removed and what cannot, for people: groups with their shares, frozen channels with reasons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from onnxmerge.channels.cost import CostModel, removed_channels
from onnxmerge.channels.depth import Depth
from onnxmerge.channels.groups import Channels
from onnxmerge.graph.view import Axis, GraphView, NodeView
from onnxmerge.operators.relations import Freeze, Mix, Statement, Telling
from onnxmerge.operators.table import is_contraction, lookup
from onnxmerge.operators.unprunable import made_axis

# How many axes and nodes are named as examples of one reason.
MOST_EXAMPLES = 5
# Why channels stay that nothing freezes.
_LEFT_WHOLE = "its group is left whole, as asked"
_ALONE = "it is the only channel of its kind"


@dataclass(frozen=True)
class GroupEntry:
    """One group of channels.

    Attributes:
        macs_share: share (0..1) of the model's multiplications that goes with one channel, all others kept.
        params_share: the same for parameters.
        may_go: whether all of them may go, and the layers that make and read them with them.
        nodes: names of the nodes that the channels pass through, in order.
    """

    name: str
    channels: int
    macs_share: float
    params_share: float
    may_go: bool
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class FrozenEntry:
    """Channels made by linear operators that stay, all for one reason.

    Attributes:
        count: how many.
        examples: some of the operators that make them.
        axes: examples of their axes, as tensor[axis].
        causes: examples of the nodes that keep them; empty where it is the model's border.
    """

    reason: str
    count: int
    examples: tuple[str, ...]
    axes: tuple[str, ...]
    causes: tuple[str, ...]


@dataclass(frozen=True)
class Explanation:
    """The result of channel analysis in plain types; ``dataclasses.asdict`` makes it JSON.

    Attributes:
        reach: share (0..1) of the multiplications that goes when every group keeps one channel.
        unprunable: the reasons in ``frozen`` that are operators whose channels cannot be removed.
        branches: the operators with layers in their subgraphs (If, Loop, ...), which are not analysed.
    """

    groups: tuple[GroupEntry, ...]
    frozen: tuple[FrozenEntry, ...]
    macs: int
    params: int
    reach: float
    unprunable: tuple[str, ...]
    branches: tuple[str, ...] = ()

    @property
    def not_analysed(self) -> str | None:
        """What is to be said where layers are in subgraphs."""
        if not self.branches:
            return None
        inside = f"what is inside of {' and '.join(self.branches)} is not analysed"
        return f"{inside}: export the model without branches"


def explain(channels: Channels, cost: CostModel) -> Explanation:
    """Describe the groups and the frozen output channels of linear operators, most channels first."""
    least = removed_channels(channels, {group.name: np.array([0]) for group in channels.groups})
    frozen, unprunable = _frozen(channels)
    return Explanation(
        groups=tuple(_groups(channels, cost)),
        frozen=tuple(sorted(frozen, key=lambda entry: -entry.count)),
        macs=cost.macs,
        params=cost.params,
        reach=1 - cost.macs_kept(least) / cost.macs if cost.macs else 0.0,
        unprunable=tuple(entry.reason for entry in frozen if entry.reason in unprunable),
        branches=tuple(sorted({node.op for node in channels.view if _nests_layers(node)})),
    )


def _nests_layers(node: NodeView) -> bool:
    bodies = node.source.subgraphs(recursive=True)
    return any(is_contraction(inner.op) for body in bodies for inner in body.nodes)


def _groups(channels: Channels, cost: CostModel) -> Iterator[GroupEntry]:
    may_go = set(Depth(channels).names)
    for group in channels.groups:
        removed = np.zeros(channels.count, dtype=bool)
        removed[group.channels[0]] = True
        yield GroupEntry(
            name=group.name,
            channels=len(group),
            macs_share=1 - cost.macs_kept(removed) / max(cost.macs, 1),
            params_share=1 - cost.params_kept(removed) / max(cost.params, 1),
            may_go=group.name in may_go,
            nodes=group.nodes,
        )


def _frozen(channels: Channels) -> tuple[list[FrozenEntry], set[str]]:
    """What stays, by its reason; and the reasons that are operators whose channels cannot be removed."""
    causes = _causes(channels)
    kinds = Counter(_kind(node) for node in channels.view)
    asked = np.zeros(channels.count, dtype=bool)
    for group in channels.left_whole:
        asked[group.channels] = True
    found: dict[str, tuple[set[int], dict[str, None], dict[str, None], dict[str, None]]] = {}
    unprunable: set[str] = set()
    for node, axis in _made_axes(channels):
        made = np.unique(channels.of(axis))
        outside = made[channels.group_of[made] < 0]
        for channel in outside:
            statement = channels.frozen[causes[channel]][0] if causes[channel] >= 0 else None
            unfrozen = _LEFT_WHOLE if asked[channel] else _ALONE
            reason = _in_words(statement, kinds) if statement else unfrozen
            members, makers, axes, keepers = found.setdefault(reason, (set(), {}, {}, {}))
            members.add(int(channel))
            axes[str(axis)] = makers[node.name] = None
            if statement is not None and statement.node is not None:
                keepers[statement.node.name] = None
                if _telling(statement) is Telling.UNPRUNABLE:
                    unprunable.add(reason)
    entries = [
        FrozenEntry(reason, len(members), *(tuple(names)[:MOST_EXAMPLES] for names in several))
        for reason, (members, *several) in found.items()
    ]
    return entries, unprunable


def _kind(node: NodeView) -> tuple[str, str]:
    """What a node is, and what it stands for."""
    operator = lookup(node)
    return (
        f"{node.domain}:{node.op}",
        node.op if operator is None or operator.instead_of is None else operator.instead_of,
    )


def _in_words(statement: Statement, kinds: Counter[tuple[str, str]]) -> str:
    """The reason; of an operator that cannot be pruned with how many there are of it."""
    why = statement.relation.why if isinstance(statement.relation, Mix | Freeze) else str(statement.relation)
    operator = None if statement.node is None else lookup(statement.node)
    if statement.node is None or operator is None or operator.instead_of is None:
        return why
    kind = _kind(statement.node)
    alike = sum(count for (_, meant), count in kinds.items() if meant == kind[1])
    return f"{kinds[kind]} of {alike} {kind[1]} are {why}"


def _made_axes(channels: Channels) -> Iterator[tuple[NodeView, Axis]]:
    """The output axes that linear operators, recurrent layers included, fill from stored weights."""
    number = channels.classes.number
    summing = {node.index for node, contract in channels.contracts() if contract.weight is not None}
    stored = _stored(channels.view)
    for node in channels.view:
        operator = lookup(node)
        if operator is not None and operator.instead_of is not None and node.y[0] is not None:
            yield node, made_axis(node)
            continue
        linear = node.index in summing or (operator is not None and operator.linear is not None)
        if not linear or not node.y or node.y[0] is None:
            continue
        outputs = {number[axis]: axis for axis in node.y[0].axes if axis.size > 1}
        for weight in node.x[:3]:
            if weight is not None and weight.name in stored:
                yield from ((node, outputs[number[a]]) for a in weight.axes if number[a] in outputs)


def _stored(view: GraphView) -> set[str]:
    """The tensors that are constants, or computed from constants alone (dequantised weights)."""
    stored: set[str] = set()
    for node in view:
        inputs = [x for x in node.x if x is not None]
        stored |= {x.name for x in inputs if x.is_constant}
        if all(x.name in stored for x in inputs):
            stored |= {y.name for y in node.y if y is not None}
    return stored


def _causes(channels: Channels) -> np.ndarray:
    """For every channel the number in ``channels.frozen`` of what keeps it, -1 where nothing does.

    Of several the most telling one, and of equals the first in the graph.
    """
    cause = np.full(channels.count, -1, dtype=np.int64)
    best = np.full(channels.count, np.iinfo(np.int64).max)
    for number, (statement, members) in enumerate(channels.frozen):
        rank = _telling(statement)
        chosen = members[best[members] > rank]
        best[chosen], cause[chosen] = rank, number
    return cause


def _telling(statement: Statement) -> Telling:
    return statement.relation.telling if isinstance(statement.relation, Freeze) else Telling.RULE

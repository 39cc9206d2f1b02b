"""What a person wants to know of an analysis: the groups and their weight, and what stays and why."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from onnxmerge.channels.cost import CostModel
from onnxmerge.channels.groups import Channels
from onnxmerge.graph.view import Axis
from onnxmerge.operators.relations import Mix
from onnxmerge.operators.table import lookup


@dataclass(frozen=True)
class GroupFacts:
    """One group: how many channels, and the share of the model that each of them carries."""

    name: str
    channels: int
    macs_share: float
    params_share: float
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class FrozenFacts:
    """Channels that stay for one reason; ``examples`` are axes, with the node that says so."""

    reason: str
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Explanation:
    """The groups, what is frozen among the outputs of linear operators, and the reach of pruning.

    ``reach`` is 1 - MACs(all groups at their smallest widths) / MACs.
    """

    groups: tuple[GroupFacts, ...]
    frozen: tuple[FrozenFacts, ...]
    reach: float


def explain(channels: Channels, cost: CostModel) -> Explanation:
    """The facts of an analysis."""
    everything = np.zeros(channels.count, dtype=bool)
    groups = []
    for group in channels.groups:
        one = np.zeros(channels.count, dtype=bool)
        one[group.channels[0]] = True
        everything[group.channels[1:]] = True
        groups.append(
            GroupFacts(
                group.name,
                len(group),
                1 - cost.macs_kept(one) / max(cost.macs, 1),
                1 - cost.params_kept(one) / max(cost.params, 1),
                group.nodes,
            )
        )
    reach = 1 - cost.macs_kept(everything) / cost.macs if cost.macs else 0.0
    return Explanation(tuple(groups), _frozen(channels), reach)


def _frozen(channels: Channels) -> tuple[FrozenFacts, ...]:
    """Frozen output channels of linear operators, each under the first reason that froze it."""
    reason: dict[int, str] = {}
    for said, components in channels.frozen:
        why = said.relation.why
        where = f" at {said.node}" if said.node is not None and isinstance(said.relation, Mix) else ""
        for component in components.tolist():
            reason.setdefault(component, why + where)
    counts: dict[str, int] = defaultdict(int)
    examples: dict[str, list[str]] = defaultdict(list)
    for axis, node in _output_channels(channels):
        for component in np.unique(channels.of(axis)).tolist():
            if component in reason and channels.group_of[component] < 0:
                why = reason[component]
                counts[why] += 1
                text = f"{node} {axis}"
                if text not in examples[why] and len(examples[why]) < 3:
                    examples[why].append(text)
    return tuple(FrozenFacts(why, counts[why], tuple(examples[why])) for why in counts)


def _output_channels(channels: Channels) -> list[tuple[Axis, str]]:
    found = []
    for node in channels.view:
        operator = lookup(node)
        if operator is None or operator.linear is None or node.y[0] is None or node.y[0].rank < 2:
            continue
        axis = 1 if node.op in ("Conv", "ConvTranspose", "FusedConv") else -1
        found.append((node.y[0][axis], node.name))
    return found

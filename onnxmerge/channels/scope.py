"""Which groups the user wants touched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import numpy as np

from onnxmerge.arguments import nearest
from onnxmerge.channels.groups import Channels
from onnxmerge.errors import UsageError


def in_scope(
    channels: Channels, scope: str = "all", skip: Sequence[str] = (), only: Sequence[str] = ()
) -> Channels:
    """The same analysis with fewer groups.

    Args:
        scope: ``all``, or ``chain`` for groups that no sum and no concat couples.
        skip: globs of node or tensor names; a group that touches a match stays whole.
        only: globs of node or tensor names; a group that touches no match stays whole.

    Raises:
        UsageError: a glob that matches no node and no tensor of the model.
    """
    names = _names(channels)
    everything = {name for group in names for name in group} | {node.name for node in channels.view}
    for pattern in (*skip, *only):
        if not any(_matches(name, pattern) for name in everything):
            close = nearest(pattern, sorted(everything))
            raise UsageError(f"'{pattern}' matches no node and no tensor that carries channels{close}")
    kept = tuple(
        group
        for group, touched in zip(channels.groups, names, strict=True)
        if (scope != "chain" or group.chain)
        and not any(_matches(name, p) for p in skip for name in touched)
        and (not only or any(_matches(name, p) for p in only for name in touched))
    )
    others = tuple(group for group in channels.groups if group not in kept)
    return replace(channels, groups=kept, left_whole=channels.left_whole + others)


def _matches(name: str, pattern: str) -> bool:
    """Whether a glob matches; a name matches itself, also where it holds brackets."""
    return name == pattern or fnmatchcase(name, pattern)


def without_statistics(channels: Channels) -> Channels:
    """The same analysis without the groups whose channels are normalised or averaged together.

    Without some of them the others are scaled and shifted anew, which only a refit takes up.
    """
    together = [axis for _, normalised in channels.normalised() for axis in normalised.data]
    together += [contract.data for _, contract in channels.contracts() if contract.average]
    numbers = {int(n) for axis in together for n in np.unique(channels.group_of[channels.of(axis)])}
    kept = tuple(group for number, group in enumerate(channels.groups) if number not in numbers)
    return replace(channels, groups=kept)


def _names(channels: Channels) -> list[set[str]]:
    """Per group the names of all nodes and tensors that it touches."""
    names = [set(group.nodes) for group in channels.groups]
    classes = channels.classes
    for axis, number in classes.number.items():
        start = classes.offset[number]
        for group in np.unique(channels.group_of[channels.label[start : start + classes.size[number]]]):
            if group >= 0:
                names[group].add(axis.tensor)
    return names

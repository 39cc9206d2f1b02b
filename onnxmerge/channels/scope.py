"""Which groups the user wants touched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import numpy as np

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
        if not any(fnmatchcase(name, pattern) for name in everything):
            raise UsageError(f"'{pattern}' matches no node and no tensor that carries channels")
    kept = tuple(
        group
        for group, touched in zip(channels.groups, names, strict=True)
        if (scope != "chain" or group.chain)
        and not any(fnmatchcase(name, p) for p in skip for name in touched)
        and (not only or any(fnmatchcase(name, p) for p in only for name in touched))
    )
    others = tuple(group for group in channels.groups if group not in kept)
    return replace(channels, groups=kept, left_whole=channels.left_whole + others)


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

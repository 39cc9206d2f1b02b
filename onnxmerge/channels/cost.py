"""What widths cost: multiplications and parameters as functions of how many channels stay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np

from onnxmerge.channels.groups import Channels
from onnxmerge.graph.view import Axis, NodeView
from onnxmerge.operators.relations import Contract
from onnxmerge.operators.table import lookup


@dataclass(frozen=True, eq=False)
class Term:
    """A number that is proportional to the lengths of some axes, and the node that it belongs to."""

    value: int
    axes: tuple[Axis, ...]
    node: NodeView


@dataclass(frozen=True, eq=False)
class _Table:
    """Terms for fast totals: float64 [T], and the axis classes of each, int64 [T, most axes]."""

    values: np.ndarray
    classes: np.ndarray


@dataclass(frozen=True, eq=False)
class CostModel:
    """MACs (Conv, ConvTranspose, Gemm, MatMul; batch 1) and parameters of a model at any widths."""

    channels: Channels

    @cached_property
    def macs(self) -> int:
        """Multiplications of the untouched model."""
        return sum(term.value for term in self._macs)

    @cached_property
    def params(self) -> int:
        """Elements of all floating-point and quantised constants of the untouched model."""
        return sum(term.value for term in self._params)

    @property
    def layers(self) -> list[Term]:
        """The multiplications of every linear node of the untouched model."""
        return self._macs

    def macs_kept(self, removed: np.ndarray) -> float:
        """Multiplications that remain when the channels in bool [channels.count] go."""
        return self._total(self._macs_table, removed)

    def params_kept(self, removed: np.ndarray) -> float:
        """Parameters that remain when the channels in bool [channels.count] go."""
        return self._total(self._params_table, removed)

    def marginal(self, kind: str, removed: np.ndarray) -> np.ndarray:
        """What each channel costs at the widths that remain, float64 [channels.count].

        The derivative of the total of ``kind`` ("macs" or "params") with respect to the channel's
        presence; also for channels that are removed.
        """
        terms = self._macs if kind == "macs" else self._params
        share = self._shares(removed)
        slope = np.zeros(len(share))
        for term in terms:
            numbers = [self.channels.classes.number[axis] for axis in term.axes]
            for i, number in enumerate(numbers):
                slope[number] += term.value * prod(share[n] for n in numbers[:i] + numbers[i + 1 :])
        per_position = slope / np.maximum(self.channels.classes.size, 1)
        weights = np.repeat(per_position, self.channels.classes.size)
        return np.bincount(self.channels.label, weights=weights, minlength=self.channels.count)

    def _total(self, table: _Table, removed: np.ndarray) -> float:
        share = np.append(self._shares(removed), 1.0)
        return float(share[table.classes].prod(axis=1) @ table.values)

    def _table(self, terms: list[Term]) -> _Table:
        """The terms as arrays; rows with fewer axes end in the number of an axis that never shrinks."""
        number = self.channels.classes.number
        classes = np.full(
            (len(terms), max((len(t.axes) for t in terms), default=0)), len(self.channels.classes.size)
        )
        for row, term in zip(classes, terms, strict=True):
            row[: len(term.axes)] = [number[axis] for axis in term.axes]
        return _Table(np.array([term.value for term in terms], dtype=np.float64), classes)

    @cached_property
    def _macs_table(self) -> _Table:
        return self._table(self._macs)

    @cached_property
    def _params_table(self) -> _Table:
        return self._table(self._params)

    def _shares(self, removed: np.ndarray) -> np.ndarray:
        """The share of positions that remains in each axis class, float64."""
        kept_positions = ~removed[self.channels.label]
        lengths = np.add.reduceat(kept_positions, self.channels.classes.offset) if len(kept_positions) else []
        return lengths / np.maximum(self.channels.classes.size, 1)

    @cached_property
    def _macs(self) -> list[Term]:
        contracted = {(node.index): c for node, c in self.channels.contracts()}
        return [
            Term(operator.linear.macs(node), tuple(_macs_axes(node, contracted.get(node.index))), node)
            for node in self.channels.view
            if (operator := lookup(node)) is not None and operator.linear is not None
        ]

    @cached_property
    def _params(self) -> list[Term]:
        seen: dict[str, Term] = {}
        for node in self.channels.view:
            for tensor in node.x:
                if tensor is not None and tensor.is_constant and tensor.rank and _is_weight(tensor):
                    seen[tensor.name] = Term(prod(tensor.shape), tuple(tensor.axes), node)
        return list(seen.values())


def _is_weight(tensor) -> bool:
    stored = tensor.source if hasattr(tensor.source, "values") else tensor.source.inputs[0].attrs["value"]
    return np.dtype(stored.dtype).kind not in "iuSOUb" or np.dtype(stored.dtype).itemsize == 1


def _macs_axes(node: NodeView, contract: Contract | None) -> list[Axis]:
    """The axes whose product the multiplications are: those of the output, and what is summed over."""
    if node.op == "ConvTranspose":
        return [*node.x[0].axes, node.x[1][1]]
    axes = list(node.y[0].axes)
    if node.op in ("Conv", "FusedConv"):
        return [*axes, node.x[1][1]]
    return [*axes, contract.data] if contract is not None else axes


def share_of(cost: CostModel, kind: str):
    """A function from a selection to the share of ``kind`` ("macs" or "params") that it keeps."""
    total = max(getattr(cost, kind), 1)
    kept = getattr(cost, f"{kind}_kept")

    def share(selection) -> float:
        return kept(removed_channels(cost.channels, selection.keep)) / total

    return share


def removed_channels(channels: Channels, keep: Mapping[str, np.ndarray]) -> np.ndarray:
    """bool [channels.count] from kept indices per group name; groups that are not named stay."""
    removed = np.zeros(channels.count, dtype=bool)
    for group in channels.groups:
        if group.name in keep:
            removed[group.channels] = True
            removed[group.channels[keep[group.name]]] = False
    return removed

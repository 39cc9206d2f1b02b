"""What widths cost: multiplications and parameters as functions of how many channels stay."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np

from onnxmerge.channels.groups import Channels
from onnxmerge.graph.view import Axis, NodeView, TensorView
from onnxmerge.operators.table import lookup


@dataclass(frozen=True, eq=False)
class Term:
    """A number that is proportional to the lengths of some axes, and the node that it belongs to.

    ``summed`` is the one of the axes that a linear operator sums over.
    """

    value: int
    axes: tuple[Axis, ...]
    node: NodeView
    summed: Axis | None = None


@dataclass(frozen=True, eq=False)
class Table:
    """Terms as arrays, for totals at many widths at once.

    Attributes:
        values: float64 [T].
        classes: the axis classes of each term, int64 [T, most axes]; rows with fewer axes end in the
            number of an axis that never shrinks.
    """

    values: np.ndarray
    classes: np.ndarray

    @staticmethod
    def of(terms: Sequence[Term], channels: Channels) -> Table:
        number = channels.classes.number
        most = max((len(term.axes) for term in terms), default=0)
        classes = np.full((len(terms), most), len(channels.classes.size))
        for row, term in zip(classes, terms, strict=True):
            row[: len(term.axes)] = [number[axis] for axis in term.axes]
        return Table(np.array([term.value for term in terms], dtype=np.float64), classes)

    def products(self, factors: np.ndarray) -> np.ndarray:
        """Per term the product of a factor per axis class: [..., classes] -> float64 [..., T]."""
        ones = np.ones((*factors.shape[:-1], 1))
        return np.concatenate([factors, ones], axis=-1)[..., self.classes].prod(axis=-1)


@dataclass(frozen=True, eq=False)
class CostModel:
    """MACs and parameters of a model at any widths.

    MACs are the multiplications of linear operators, of what stands for them, of Einsum, fused attention and
    recurrent layers, at batch 1.
    """

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
        return [
            term for term in self._macs if (op := lookup(term.node)) is not None and op.linear is not None
        ]

    def macs_kept(self, removed: np.ndarray) -> float:
        """Multiplications that remain when the channels in bool [channels.count] go."""
        return float(self._total(self._macs_table, kept_lengths(self.channels, removed)))

    def params_kept(self, removed: np.ndarray) -> float:
        """Parameters that remain when the channels in bool [channels.count] go."""
        return float(self._total(self._params_table, kept_lengths(self.channels, removed)))

    def kept(self, kind: str, lengths: np.ndarray, live: Collection[int] | None = None) -> float:
        """What remains of ``kind`` ("macs" or "params") at axis lengths [classes].

        Args:
            live: the numbers of the nodes that are still there; None: all.
        """
        terms = self._macs if kind == "macs" else self._params
        table = self._macs_table if kind == "macs" else self._params_table
        there = np.array([live is None or term.node.index in live for term in terms], dtype=bool)
        products = table.products(lengths / np.maximum(self.channels.classes.size, 1))
        return float((table.values * products)[there].sum())

    def marginal(self, kind: str, removed: np.ndarray) -> np.ndarray:
        """What each channel costs at the widths that remain, float64 [channels.count].

        The derivative of the total of ``kind`` ("macs" or "params") with respect to the channel's
        presence; also for channels that are removed.
        """
        terms = self._macs if kind == "macs" else self._params
        share = kept_lengths(self.channels, removed) / np.maximum(self.channels.classes.size, 1)
        slope = np.zeros(len(share))
        for term in terms:
            numbers = [self.channels.classes.number[axis] for axis in term.axes]
            for i, number in enumerate(numbers):
                slope[number] += term.value * prod(share[n] for n in numbers[:i] + numbers[i + 1 :])
        per_position = slope / np.maximum(self.channels.classes.size, 1)
        weights = np.repeat(per_position, self.channels.classes.size)
        return np.bincount(self.channels.label, weights=weights, minlength=self.channels.count)

    def share(self, kind: str, lengths: np.ndarray) -> np.ndarray:
        """The share of ``kind`` ("macs" or "params") that remains at axis lengths [..., classes].

        Returns:
            float64 [...].
        """
        table, total = (self._macs_table, self.macs) if kind == "macs" else (self._params_table, self.params)
        return self._total(table, lengths) / max(total, 1)

    def _total(self, table: Table, lengths: np.ndarray) -> np.ndarray:
        return table.products(lengths / np.maximum(self.channels.classes.size, 1)) @ table.values

    @cached_property
    def _macs_table(self) -> Table:
        return Table.of(self._macs, self.channels)

    @cached_property
    def _params_table(self) -> Table:
        return Table.of(self._params, self.channels)

    @cached_property
    def _macs(self) -> list[Term]:
        contracted = {node.index: contract for node, contract in self.channels.contracts()}
        terms = []
        for node in self.channels.view:
            operator = lookup(node)
            if operator is not None and operator.linear is not None:
                axes, summed = operator.linear.macs_axes(node, contracted.get(node.index))
                terms.append(Term(operator.linear.macs(node), axes, node, summed))
            elif operator is not None and operator.products is not None:
                terms += [Term(count, axes, node) for count, axes in operator.products(node)]
        return terms

    @cached_property
    def _params(self) -> list[Term]:
        seen: dict[str, Term] = {}
        for node in self.channels.view:
            for tensor in node.x:
                if tensor is not None and tensor.is_constant and tensor.rank and _is_weight(tensor):
                    seen[tensor.name] = Term(prod(tensor.shape), tuple(tensor.axes), node)
        return list(seen.values())


def _is_weight(tensor: TensorView) -> bool:
    stored = tensor.source if hasattr(tensor.source, "values") else tensor.source.inputs[0].attrs["value"]
    return np.dtype(stored.dtype).kind not in "iuSOUb" or np.dtype(stored.dtype).itemsize == 1


def removed_channels(channels: Channels, keep: Mapping[str, np.ndarray]) -> np.ndarray:
    """bool [channels.count] from kept indices per group name; groups that are not named stay."""
    removed = np.zeros(channels.count, dtype=bool)
    for group in channels.groups:
        if group.name in keep:
            removed[group.channels] = True
            removed[group.channels[keep[group.name]]] = False
    return removed


def kept_lengths(channels: Channels, removed: np.ndarray) -> np.ndarray:
    """The positions that remain of every axis class when the channels in bool [count] go; int64 [classes]."""
    kept = ~removed[channels.label]
    return np.add.reduceat(kept, channels.classes.offset) if len(kept) else np.zeros(0, dtype=np.int64)

"""Where compensation can act: fold sites (consumers) and the producers of a group's channels."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from onnxmerge.channels.groups import Channels, Group
from onnxmerge.graph.view import Axis, NodeView, TensorView
from onnxmerge.operators.grid import Grid, grid_of, stored_values
from onnxmerge.operators.parameters import channel_norm
from onnxmerge.operators.relations import Contract, Where
from onnxmerge.operators.table import linear_of

# Weights of so many elements are not worked with in float64: each copy would be a multiple of the file.
MOST_DOUBLE = 1 << 24


@dataclass(frozen=True, eq=False)
class FoldSite:
    """A contraction of channels against a stored weight: a change can be folded in here.

    Attributes:
        channels: the analysis that the site belongs to.
        node: the consumer.
        contract: the relation; ``contract.operand`` is the data input, ``contract.blocks`` its groups.
        data: the contracted axis of the data operand.
        weight: the stored weight tensor, float [...].
        grid: what its values are rounded to, where they are stored as integers.
        axis: the contracted axis of the weight.
        columns: for every data position, the position on the weight's axis, int64 [data.size].
        channel: the channel at every position of the weight's axis, int64.
        rows: the weight's axis of output channels, or None where there is none (a matrix-vector product).
        output: the output's axis of these channels.
    """

    channels: Channels
    node: NodeView
    contract: Contract
    weight: TensorView
    grid: Grid | None
    axis: int
    columns: np.ndarray
    channel: np.ndarray
    rows: int | None
    output: Axis | None

    @property
    def data(self) -> Axis:
        return self.contract.data

    @property
    def values(self) -> np.ndarray:
        """The stored weight in the precision it is worked with: float64, of the largest ones float32."""
        stored = stored_values(self.channels.view, self.weight)
        assert stored is not None, "fold sites have stored weights"
        wide = np.float32 if stored.size >= MOST_DOUBLE and stored.dtype.itemsize <= 4 else np.float64
        return np.asarray(stored, dtype=wide)

    @property
    def bias(self) -> TensorView | None:
        """The consumer's own bias input, if it has one."""
        linear = linear_of(self.node)
        return self.node.input(linear.bias) if linear and linear.bias is not None else None

    def on_grid(self, weight: np.ndarray) -> np.ndarray:
        """A new weight as it will be read from the file, in its type: rounded where it is quantised."""
        if self.grid is None:
            return weight.astype(np.asarray(self.weight.constant).dtype, copy=False)
        growth = self.grid.growth(weight)
        rounded = self.grid.values(self.grid.rounded(weight, growth), growth)
        return rounded.astype(self.weight.source.dtype or np.float32)


@dataclass(frozen=True, eq=False)
class BatchNorm:
    """Inference parameters of a BatchNormalization, float64 [C] each; ``variance`` is the running one."""

    node: NodeView
    gamma: np.ndarray
    beta: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    epsilon: float


@dataclass(frozen=True, eq=False)
class Producer:
    """A linear operator whose outputs are channels of a group.

    Attributes:
        filters: what makes each channel, float64 [C, n]: its rows or kernels, flattened.
        bias: float64 [C, m], m the rows of a channel, or None.
        batch_norm: of the BatchNormalization that is the only consumer, in channel order.
        depthwise: whether every channel sees only itself.
    """

    node: NodeView
    filters: np.ndarray
    bias: np.ndarray | None
    batch_norm: BatchNorm | None
    depthwise: bool

    @property
    def is_convolution(self) -> bool:
        return self.node.x[1] is not None and self.node.x[1].rank > 2


def fold_sites(channels: Channels) -> list[FoldSite]:
    """All sites with a stored weight, in topological order; a quantised one is nobody else's."""
    sites = []
    for node, contract in channels.contracts():
        if contract.weight is None or linear_of(node) is None:
            continue
        axis = contract.weight if isinstance(contract.weight, Axis) else contract.weight.axis
        weight = next((t for t in node.x if t is not None and t.name == axis.tensor), None)
        if weight is None:
            continue
        grid = None if weight.is_constant else grid_of(channels.view, weight)
        if not weight.is_constant and (grid is None or not grid.alone):
            continue
        columns = np.arange(axis.size) if isinstance(contract.weight, Axis) else contract.weight.index
        rows, output = _rows(channels, node, weight, axis.axis)
        sites.append(
            FoldSite(
                channels,
                node,
                contract,
                weight,
                grid,
                axis.axis,
                columns,
                channels.of(weight[axis.axis]),
                rows,
                output,
            )
        )
    return sites


def _rows(
    channels: Channels, node: NodeView, weight: TensorView, contracted: int
) -> tuple[int | None, Axis | None]:
    """The weight's axis that becomes an axis of the output, and that axis."""
    y = node.y[0]
    for axis in y.axes if y is not None else ():
        for i in range(weight.rank):
            same = channels.classes.number[weight[i]] == channels.classes.number[axis]
            if i != contracted and weight[i].size == axis.size and same:
                return i, axis
    return None, None


def producers(channels: Channels, group: Group) -> list[Producer]:
    """The linear operators with stored weights that make a group's channels, in topological order.

    Quantised weights count as stored: their filters are the dequantised ones.
    """
    found = []
    rank = _rank_in(channels, group)
    contracted = {
        (node.index, _tensor_of(c.weight)): _axis_of(c.weight) for node, c in channels.contracts() if c.weight
    }
    passed = set(group.nodes)
    for node in channels.view:
        linear = linear_of(node)
        if linear is None or node.name not in passed:
            continue
        for weight in node.x[:2]:
            if weight is None or weight.rank < 2 or stored_values(channels.view, weight) is None:
                continue
            axis = _output_axis(channels, node, weight, contracted.get((node.index, weight.name)), rank)
            if axis is not None:
                found.append(_producer(channels, group, node, weight, axis, rank, linear.bias))
    return found


def _tensor_of(where: Where) -> str:
    return where.tensor if isinstance(where, Axis) else where.axis.tensor


def _axis_of(where: Where) -> int:
    return where.axis if isinstance(where, Axis) else where.axis.axis


def _rank_in(channels: Channels, group: Group) -> np.ndarray:
    """For every channel its place in the group, or -1."""
    rank = np.full(channels.count, -1, dtype=np.int64)
    rank[group.channels] = np.arange(len(group))
    return rank


def _output_axis(
    channels: Channels, node: NodeView, weight: TensorView, contracted: int | None, rank: np.ndarray
) -> int | None:
    outputs = {channels.classes.number[axis] for axis in node.y[0].axes}
    for i in range(weight.rank):
        tied = channels.classes.number[weight[i]] in outputs
        if i != contracted and tied and (rank[channels.of(weight[i])] >= 0).any():
            return i
    return None


def _producer(
    channels: Channels,
    group: Group,
    node: NodeView,
    weight: TensorView,
    axis: int,
    rank: np.ndarray,
    bias_input: int | None,
) -> Producer:
    values = np.moveaxis(np.asarray(stored_values(channels.view, weight), dtype=np.float64), axis, 0)
    place = rank[channels.of(weight[axis])]
    bias = node.input(bias_input) if bias_input is not None else None
    stored = stored_values(channels.view, bias) if bias is not None else None
    bias_values = None
    if bias is not None and stored is not None and bias.rank and bias[-1].size == len(place):
        bias_values = by_channel(np.asarray(stored, dtype=np.float64).reshape(-1, 1), place, len(group))
    depthwise = node.attr("group", 1) > 1 and prod(weight.shape[1:2]) == 1
    filters = by_channel(values.reshape(len(place), -1), place, len(group))
    return Producer(node, filters, bias_values, _batch_norm(channels, node, rank, len(group)), depthwise)


def by_channel(rows: np.ndarray, place: np.ndarray, count: int) -> np.ndarray:
    """Rows of one channel side by side: [positions, n] -> [count, m*n], zero where a channel has none."""
    chosen = np.flatnonzero(place >= 0)
    order = chosen[np.argsort(place[chosen], kind="stable")]
    per_channel = np.bincount(place[chosen], minlength=count)
    most = int(per_channel.max(initial=1))
    result = np.zeros((count, most, rows.shape[1]))
    within = np.arange(len(order)) - np.repeat(np.cumsum(per_channel) - per_channel, per_channel)
    result[place[order], within] = rows[order]
    return result.reshape(count, -1)


def _batch_norm(channels: Channels, node: NodeView, rank: np.ndarray, count: int) -> BatchNorm | None:
    users = channels.view.consumers(node.y[0].name)
    if len(users) != 1 or node.y[0].name in channels.view.outputs:
        return None
    norm, stored = users[0], channel_norm(users[0])
    if stored is None:
        return None
    place = rank[channels.of(norm.x[1][0])]
    gamma, beta, mean, variance = (
        by_channel(values.reshape(-1, 1), place, count)[:, 0]
        for values in (stored.gamma, stored.beta, stored.mean, stored.variance)
    )
    return BatchNorm(norm, gamma, beta, mean, variance, stored.epsilon)

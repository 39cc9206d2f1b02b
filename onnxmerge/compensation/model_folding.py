"""Model folding: similar channels become one, their mean, and whoever reads them adds up its weights.

Source: Wang, Sikic, Thiele, Saukh, Forget the Data and Fine-Tuning! Just Fold the Network to Compress (ICLR
2025), and its public implementation. K-means groups what makes the channels of a layer; a cluster's rows,
biases and BatchNorm scales and shifts are averaged, and the columns of who reads them summed. The mean of
channels that are not quite alike varies less than they do: behind a BatchNorm, in units of whose running
deviation everything is taken there, the scale grows by sqrt(n / (1 + (n - 1) c)), c being the mean cosine of
the cluster's rows ("Fold-AR"). What needs data, made up or real, is left out ("Fold-DIR", "Fold-R").

Channels are compared by what makes them and by the columns of who reads them, as there; behind a BatchNorm
every such number is scaled by its quartiles, as there, too. Two things differ. Clusters start from Ward's
method in the place of random ones, so that the same model gives the same bytes; and channels that are made
exactly alike count as read alike, for they fold exactly whoever reads them.

As many clusters are made as channels would stay: the allocation says how many. Whatever the criterion says, a
cluster takes the place of the one of its channels that is nearest to its mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import numpy as np

from onnxmerge.channels import Channels, Group
from onnxmerge.channels.blends import Blend, Maker, Making, makings
from onnxmerge.channels.sites import FoldSite, Producer, by_channel, fold_sites, producers
from onnxmerge.compensation.folding import onto_partners
from onnxmerge.compensation.merge import Matches, Merge
from onnxmerge.operators.parameters import channel_norm
from onnxmerge.operators.table import normalization_of
from onnxmerge.plan import Selection

# Rounds of k-means after Ward's method: as many as in the public implementation.
_ROUNDS = 10
# Ward's method needs the distances of all pairs.
_MOST = 1 << 13
# Channels nearer than this, relative to the largest of every number, differ by rounding to single precision.
_ROUNDING = 1e-5
_TINY = 1e-6


@dataclass(frozen=True)
class ModelFolding(Merge):
    """Folds the channels of each cluster into one; groups that cannot be are merged one to one.

    A group can be where all that makes its channels is stored in floating point, each for one reader, and all
    that sums over them is a weight that can be changed.
    """

    _compared: WeakKeyDictionary[Channels, dict[str, np.ndarray | str]] = field(
        default_factory=WeakKeyDictionary, init=False, compare=False, repr=False
    )
    _known: WeakKeyDictionary[Channels, tuple[list[Making], list[FoldSite]]] = field(
        default_factory=WeakKeyDictionary, init=False, compare=False, repr=False
    )

    _found: WeakKeyDictionary[Channels, dict[tuple[str, int], np.ndarray]] = field(
        default_factory=WeakKeyDictionary, init=False, compare=False, repr=False
    )

    def choose(self, channels: Channels, selection: Selection) -> Selection:
        """One channel of every cluster stays, as many as the selection says."""
        keep = dict(selection.keep)
        for group in channels.groups:
            width = len(keep.get(group.name, group.channels))
            if not 0 < width < len(group):
                continue
            features = self._features_of(channels, group)
            if not isinstance(features, str):
                keep[group.name] = np.unique(self._representatives(channels, group, features, width))
        return Selection(keep)

    def blends(self, channels: Channels, kept: np.ndarray) -> Iterator[Blend]:
        """What makes the channels that stay: the means of their clusters."""
        for number, group in enumerate(channels.groups):
            partner, _ = self.matches(channels, group, kept[group.channels])
            if np.any(partner >= 0) and not isinstance(self._features_of(channels, group), str):
                yield from _averaged(channels, self._analysed(channels)[0][number], group, partner)

    def notes(self, channels: Channels, kept: np.ndarray) -> Iterator[str]:
        """Which groups were merged one to one, and why."""
        for group in channels.groups:
            if not 0 < kept[group.channels].sum() < len(group):
                continue
            features = self._features_of(channels, group)
            if isinstance(features, str):
                yield f"the channels of '{group.name}' were merged one to one, not folded: {features}"

    def matches(self, channels: Channels, group: Group, stays: np.ndarray) -> Matches:
        if stays.all() or not stays.any():
            return np.full(len(stays), -1, dtype=np.int64), np.zeros(len(stays))
        features = self._features_of(channels, group)
        if isinstance(features, str):
            return super().matches(channels, group, stays)
        found = self._representatives(channels, group, features, int(stays.sum()))
        if not np.array_equal(np.unique(found), np.flatnonzero(stays)):  # a plan was edited
            found = nearest(features, np.flatnonzero(stays))
        return np.where(stays, -1, found), np.ones(len(stays))

    def _representatives(
        self, channels: Channels, group: Group, features: np.ndarray, width: int
    ) -> np.ndarray:
        """Found once: of a thousand channels it takes seconds, and every reader asks."""
        known = self._found.setdefault(channels, {})
        if (group.name, width) not in known:
            known[group.name, width] = representatives(features, width)
        return known[group.name, width]

    def _analysed(self, channels: Channels) -> tuple[list[Making], list[FoldSite]]:
        if channels not in self._known:
            self._known[channels] = makings(channels), fold_sites(channels)
        return self._known[channels]

    def _features_of(self, channels: Channels, group: Group) -> np.ndarray | str:
        """As ``_compared_by``; a reason, too, where what makes the channels cannot be blended."""
        known = self._compared.setdefault(channels, {})
        if group.name not in known:
            made, sites = self._analysed(channels)
            making = made[channels.groups.index(group)]
            known[group.name] = making.why_not or _compared_by(channels, group, sites)
        return known[group.name]


def _compared_by(channels: Channels, group: Group, sites: list[FoldSite]) -> np.ndarray | str:
    """What the channels of a group are compared by, float64 [C, n], or why they are not compared."""
    made = producers(channels, group)
    if not made:
        return "no layer with stored weights makes them"
    if len(group) > _MOST:
        return f"there are more than {_MOST} of them"
    making = np.concatenate([_features(one) for one in made], axis=1)
    read = [_columns(site, group) for site in sites if np.isin(site.channel, group.channels).any()]
    if not all(np.isfinite(numbers).all() for numbers in (making, *read)):
        return "some of their weights are not finite"
    return _made_and_read(making, read, normed=any(one.batch_norm is not None for one in made))


def _made_and_read(making: np.ndarray, read: list[np.ndarray], *, normed: bool) -> np.ndarray:
    """What makes the channels of a group and what reads them, as far as distances between them go.

    Args:
        making: float64 [C, n], finite.
        read: of everyone who reads them the columns of every channel, float64 [C, n], finite.
        normed: whether a BatchNorm is behind any of what makes them.

    Returns:
        float64 [C, m].
    """
    alike = _alike(making)
    sums = [np.zeros_like(columns) for columns in read]
    for total, columns in zip(sums, read, strict=True):
        np.add.at(total, alike, columns)
    features = np.concatenate([making, *(t[alike] / np.bincount(alike)[alike, None] for t in sums)], axis=1)
    if normed:
        low, middle, high = np.percentile(features, (25, 50, 75), axis=0)
        features = (features - middle) / np.where(high > low, high - low, 1.0)
    if features.shape[1] > len(features):  # the same distances in fewer numbers
        left, values, _ = np.linalg.svd(features, full_matrices=False)
        features = left * values
    return features


def _features(one: Producer) -> np.ndarray:
    """Rows and bias of a producer, and scale and shift of its BatchNorm, in units of the deviation."""
    norm, bias = one.batch_norm, one.bias
    if norm is None:
        return one.filters if bias is None else np.concatenate([one.filters, bias], axis=1)
    deviation = np.sqrt(norm.variance + norm.epsilon)[:, None]
    mean = norm.mean[:, None] if bias is None else norm.mean[:, None] - bias
    more = [norm.gamma[:, None], norm.beta[:, None]]
    return np.concatenate([one.filters / deviation, -mean / deviation, *more], axis=1)


def _alike(making: np.ndarray) -> np.ndarray:
    """A number for every channel, int64 [C], the same for those that are made alike but for rounding."""
    from scipy.cluster.hierarchy import fcluster, ward  # imported late, as below: no other method needs it

    size = np.abs(making).max(axis=0, initial=0)
    relative = making / np.where(size > 0, size, 1.0)
    return np.asarray(fcluster(ward(relative), _ROUNDING, "distance"), dtype=np.int64) - 1


def _columns(site: FoldSite, group: Group) -> np.ndarray:
    """The columns that read each channel of a group, float64 [C, n]."""
    place = np.full(site.channels.count, -1, dtype=np.int64)
    place[group.channels] = np.arange(len(group))
    values = np.moveaxis(site.values, site.axis, 0)
    return by_channel(values.reshape(len(values), -1), place[site.channel], len(group))


def representatives(features: np.ndarray, count: int) -> np.ndarray:
    """Of every channel the one that its cluster takes the place of, int64 [C].

    Args:
        features: float64 [C, n].
        count: of clusters.
    """
    labels = _clusters(features, count)
    found = np.zeros(len(features), dtype=np.int64)
    for label in range(count):
        members = np.flatnonzero(labels == label)
        distances = np.sum((features[members] - features[members].mean(axis=0)) ** 2, axis=1)
        found[members] = members[np.argmin(distances)]
    return found


def _clusters(features: np.ndarray, count: int) -> np.ndarray:
    """The cluster of every channel, int64 [C]; no cluster is empty."""
    from scipy.cluster.hierarchy import cut_tree, ward
    from scipy.cluster.vq import ClusterError, kmeans2

    labels = cut_tree(ward(features), n_clusters=count)[:, 0]
    means = np.stack([features[labels == label].mean(axis=0) for label in range(count)])
    try:
        _, better = kmeans2(features, means, iter=_ROUNDS, minit="matrix", missing="raise")
    except ClusterError:  # one would have become empty
        return labels
    return better if len(np.unique(better)) == count else labels


def nearest(features: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Of every channel the nearest of some chosen ones, of those themselves, int64 [C]."""
    from scipy.spatial.distance import cdist

    found = chosen[np.argmin(cdist(features, features[chosen]), axis=1)]
    found[chosen] = chosen
    return found


def _averaged(channels: Channels, making: Making, group: Group, partner: np.ndarray) -> Iterator[Blend]:
    """The means of clusters, of all that makes the channels of a group.

    Args:
        partner: of every channel of the group the one that it goes into, int64 [C], -1 for itself.
    """
    taker = np.where(partner >= 0, partner, np.arange(len(group)))
    size = np.bincount(taker, minlength=len(group))[taker]
    onto, members = (np.full(channels.count, -1, dtype=np.int64) for _ in range(2))
    onto[group.channels] = np.where(size > 1, group.channels[taker], -1)
    members[group.channels] = size
    scales = _scales(channels, making, onto)
    for maker in making.makers:
        scale = scales.get((maker.node.index, maker.place), np.ones(maker.axis.size))
        if scale is not None:
            of_axis = channels.of(maker.axis)
            yield Blend(maker.axis, onto_partners(of_axis, onto), scale / np.abs(members[of_axis]))


def _scales(channels: Channels, making: Making, onto: np.ndarray) -> dict[tuple[int, int], np.ndarray | None]:
    """What the numbers of layers before a BatchNorm, and its own, are multiplied by before they are averaged.

    Returns:
        By node and input float64 [positions]; None where numbers stay as they are. Others count as they are.
    """
    scales: dict[tuple[int, int], np.ndarray | None] = {}
    by_node: dict[int, list[Maker]] = {}
    for maker in making.makers:
        by_node.setdefault(maker.node.index, []).append(maker)
    for own in by_node.values():
        slots, norm = normalization_of(own[0].node), channel_norm(own[0].node)
        layer = channels.view.producer(own[0].node.x[0].name)
        before = by_node.get(layer.index, []) if layer is not None else []
        weight = next((m for m in before if m.tensor.rank > 1 and m.axis.size == own[0].axis.size), None)
        if slots is None or norm is None or weight is None or layer is None:
            continue
        read_once = len(channels.view.consumers(layer.y[0].name)) == 1
        if not read_once or any(m.axis.size != weight.axis.size for m in before):
            continue
        into = onto_partners(channels.of(own[0].axis), onto)
        deviation = np.sqrt(norm.variance + norm.epsilon)
        to_taker = np.where(into >= 0, deviation[into] / deviation, 1.0)
        scales |= {(m.node.index, m.place): to_taker for m in before}
        number = own[0].node.index
        scales[number, slots.mean], scales[number, slots.variance] = to_taker, None
        scales[number, slots.scale] = _repair(weight, into)
    return scales


def _repair(weight: Maker, into: np.ndarray) -> np.ndarray:
    """What makes up for the smaller variance of a mean of channels, float64 [positions]."""
    values = weight.tensor.constant
    assert values is not None, "makers are stored"
    rows = np.moveaxis(values, weight.axis.axis, 0).reshape(len(into), -1).astype(np.float64)
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    factor = np.ones(len(into))
    for place in np.unique(into[into >= 0]):
        members = np.flatnonzero(into == place)
        # The mean of unit rows has the square length (1 + (n - 1) c) / n.
        length = float(np.linalg.norm(unit[members].mean(axis=0)))
        factor[members] = 1 / length if length > _TINY else 1.0
    return factor

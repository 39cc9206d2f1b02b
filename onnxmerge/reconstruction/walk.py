"""The walk along the graph: paired statistics -> choose channels -> refit this consumer -> advance.

The new model is run at full size with zero columns for removed channels, which gives every kept
position the value that it has in the smaller model.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace

import numpy as np
import onnx

from onnxmerge.channels import Channels
from onnxmerge.channels.cost import removed_channels
from onnxmerge.channels.demand import demand
from onnxmerge.channels.sites import fold_sites
from onnxmerge.data.dataset import Dataset
from onnxmerge.graph import external_weights
from onnxmerge.graph.external_weights import Scratch
from onnxmerge.plan import Selection
from onnxmerge.progress import Progress
from onnxmerge.reconstruction.execution import TwoModels
from onnxmerge.reconstruction.paired import Paired, Split, pool
from onnxmerge.reconstruction.refit import choose_channels, mixed, rebias, refit
from onnxmerge.reconstruction.requests import Fit, Request, requests
from onnxmerge.rewrite import Fold
from onnxmerge.runtime import Runtime
from onnxmerge.runtime.threads import one_blas_thread

# Channels are chosen again only where there are so many rows per feature, and so few features.
ROWS_TO_CHOOSE = 8
FEATURES_TO_CHOOSE = 2560
# Sites that lost nothing are refitted up to so many weights: the covariance of targets and features, in
# float64 and several times, is of the same size.
MOST_DOWNSTREAM = 1 << 22


@dataclass(frozen=True)
class Options:
    """How consumers are refitted.

    Attributes:
        patches: rows per site, spread over the samples.
        reselect: whether the channels of groups with one consumer are chosen again, at the same widths.
        replay: whether that choice was made before, and is what the selection holds: statistics are the
            same as when it was made, so that the same weights come of them to the last bit.
        residual: whether the last site before a residual sum also repairs the sum's other operand.
        downstream: whether sites that lost no channel are refitted too, once something before them changed.
        seed: of the choice of rows.
    """

    patches: int = 20_000
    reselect: bool = True
    replay: bool = False
    residual: bool = True
    downstream: bool = True
    seed: int = 0


@one_blas_thread
def reconstruct(
    channels: Channels,
    model: onnx.ModelProto,
    selection: Selection,
    dataset: Dataset,
    runtime: Runtime,
    options: Options | None = None,
    progress: Progress | None = None,
    scratch: Scratch | None = None,
) -> tuple[Selection, list[Fold]]:
    """Refit every consumer of removed channels, in topological order.

    Args:
        model: the canonical model that ``channels`` belongs to.
        selection: the widths, and the channels where they are not chosen again.
        scratch: where big new weights go; None: they stay in memory.

    Returns:
        What is kept in the end, and the new weights and biases of the consumers.

    Raises:
        ModelError: the model does not run on the data.
    """
    walk = _Walk(channels, model, selection, dataset, runtime, options or Options(), scratch)
    for number, request in enumerate(walk.requests):
        if progress is not None:
            progress("reconstruct", number, len(walk.requests))
        walk.visit(request)
        external_weights.release()
        external_weights.trim()
    return Selection(walk.keep), walk.folds


class _Walk:
    """The state of a walk: what is decided so far, and both models under execution."""

    def __init__(
        self,
        channels: Channels,
        model,
        selection: Selection,
        dataset,
        runtime,
        options: Options,
        scratch: Scratch | None,
    ):
        self._channels, self._options, self._scratch = channels, options, scratch
        self.keep = {name: np.sort(np.asarray(index)) for name, index in selection.keep.items()}
        self.folds: list[Fold] = []
        self._kept = np.ones(channels.count, dtype=bool)
        # What is likely to stay of groups that are still to be chosen from.
        self._likely = ~removed_channels(channels, self.keep)
        sites = fold_sites(channels)
        self._demanded = demand(channels, sites)
        all_requests = requests(sites, residual=options.residual)
        self._open = self._to_choose(all_requests)
        for number, group in enumerate(channels.groups):
            if group.name in self.keep and number not in self._open:
                self._cut(number)
        self.requests = self._to_visit(all_requests)
        self._sharing: dict[str, list[Request]] = defaultdict(list)
        for request in self.requests:
            self._sharing[request.site.weight.name].append(request)
        self._fixed: dict[str, np.ndarray] = {}
        self._models = TwoModels(channels, model, dataset, runtime, self.requests, options.patches, scratch)
        self._mask_products(all_requests)

    def visit(self, request: Request) -> None:
        """Refit one site and let the new model go on with it."""
        own = self._gather(request)
        name = request.site.weight.name
        if name in self._fixed:
            self._advance(request, own, self._fixed[name])
            return
        others = [r for r in self._sharing[name] if r is not request]
        paired = self._with_others(own, others) if others and own.fit is not None else own
        for number in np.unique(self._channels.group_of[request.site.channel]):
            if number in self._open:
                self._choose(paired, int(number))
        weight = mixed(request.site, paired, self._kept)
        if paired.fit is not None:
            weight = refit(paired.fit.form, paired, self._kept, weight)
        if others:
            self._fixed[name] = weight
        self._advance(request, own, weight)

    def _gather(self, request: Request, dense: bool = False) -> Paired:
        open_channels = np.isin(self._channels.group_of, list(self._open))
        return self._models.gather(request, self._kept, open_channels, self._options.seed, dense=dense)

    def _with_others(self, paired: Paired, others: list[Request]) -> Paired:
        """Statistics pooled over all sites that share a weight.

        The later sites are not reached yet: theirs come from the untouched model.
        """
        blocks = [paired.blocks]
        for request in others:
            if request.fit is None:
                continue
            found = self._gather(Request(request.site, replace(request.fit, other=None)), dense=True)
            if found.fit is not None and _poolable(paired, found):
                blocks.append(found.blocks)
        if len(blocks) == 1:
            return paired
        return replace(paired, blocks=tuple(pool(b) for b in zip(*blocks, strict=True)))

    def _choose(self, paired: Paired, number: int) -> None:
        """Decide which channels of a group stay."""
        group = self._channels.groups[number]
        width = len(self.keep[group.name])
        moments = [block.all for block in paired.blocks if isinstance(block, Split)]
        # With few rows the choice would follow their noise: the one made on exact targets is better.
        fit = paired.fit
        enough = fit is not None and moments and moments[0].rows >= ROWS_TO_CHOOSE * fit.form.features
        if fit is not None and enough and not self._options.replay:
            self.keep[group.name] = choose_channels(
                fit, moments, paired.present, self._kept, self._likely, self._demanded, group.channels, width
            )
        self._open.discard(number)
        self._cut(number)

    def _cut(self, number: int) -> None:
        group = self._channels.groups[number]
        self._kept[group.channels] = False
        self._kept[group.channels[self.keep[group.name]]] = True
        self._likely[group.channels] = self._kept[group.channels]

    def _advance(self, request: Request, own: Paired, weight: np.ndarray) -> None:
        site = request.site
        bias = rebias(own.fit, own, weight) if own.fit is not None else None
        fold = Fold.of(site, weight, bias, self._scratch)
        self.folds.append(fold)
        assert fold.weight is not None
        self._models.new.set_constant(site.weight.name, fold.weight)
        if bias is not None and own.fit is not None:
            axis = own.fit.form.output
            shape = [1] * len(self._channels.view.shapes[axis.tensor])
            shape[axis.axis] = -1
            self._models.new.add_to_output(site.node.index, bias.astype(fold.weight.dtype).reshape(shape))

    def _to_choose(self, everything: list[Request]) -> set[int]:
        """The groups whose channels are chosen on the way: they have one consumer, with a regression."""
        if not self._options.reselect:
            return set()
        channels = self._channels
        users: dict[int, list[int]] = defaultdict(list)
        for node, contract in channels.contracts():
            for number in np.unique(channels.group_of[channels.of(contract.data)]):
                users[int(number)].append(node.index)
        regressed = {
            r.site.node.index
            for r in everything
            if r.fit is not None and r.fit.form.features <= FEATURES_TO_CHOOSE
        }
        return {
            number
            for number, group in enumerate(channels.groups)
            if len(self.keep.get(group.name, group.channels)) < len(group)
            and len(self.keep[group.name])
            and len(users[number]) == 1
            and users[number][0] in regressed
        }

    def _to_visit(self, everything: list[Request]) -> list[Request]:
        """The sites that lost channels, and those after them that can take up what changed."""
        shared = Counter(r.site.weight.name for r in everything)
        found, begun = [], False
        for request in everything:
            if self._is_unread(request):
                continue
            channel = request.site.channel
            loses = (
                not self._kept[channel].all()
                or np.isin(self._channels.group_of[channel], list(self._open)).any()
            )
            fit = request.fit
            later = (
                begun and self._options.downstream and fit is not None and _weights(fit) <= MOST_DOWNSTREAM
            )
            if loses or (later and shared[request.site.weight.name] == 1):
                found.append(request)
                begun = True
        # Sites that share the weight of one that changes change with it.
        names = {r.site.weight.name for r in found}
        return [r for r in everything if r in found or r.site.weight.name in names]

    def _is_unread(self, request: Request) -> bool:
        """Whether nothing is left that a site computes."""
        output = request.site.output
        return output is not None and not self._likely[self._channels.of(output)].any()

    def _mask_products(self, everything: list[Request]) -> None:
        """Contractions without a weight that could be refitted read zeros for removed channels."""
        sites = {r.site.node.index for r in everything}
        for node, contract in self._channels.contracts():
            kept = self._kept[self._channels.of(contract.data)]
            if node.index not in sites and not kept.all():
                data = node.x[contract.operand]
                shape = [1] * data.rank
                shape[contract.data.axis] = -1
                dtype = data.source.dtype or np.float32
                self._models.new.scale_input(node.index, contract.operand, kept.astype(dtype).reshape(shape))


def _weights(fit: Fit) -> int:
    return fit.form.blocks * fit.form.outputs * fit.form.features


def _poolable(one: Paired, other: Paired) -> bool:
    """Whether two sites that share a weight are regressions of the same shape."""
    pairs = list(zip(one.blocks, other.blocks, strict=False))
    return len(one.blocks) == len(other.blocks) and all(
        isinstance(a, Split) and isinstance(b, Split) and a.all.cross.shape == b.all.cross.shape
        for a, b in pairs
    )

"""The walk along the graph: paired statistics -> choose channels -> refit this consumer -> advance.

The new model is run at full size with zero columns for removed channels, which gives every kept
position the value that it has in the smaller model.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx

from onnxmerge.channels import Channels
from onnxmerge.channels.cost import removed_channels
from onnxmerge.channels.sites import FoldSite
from onnxmerge.compensation import PairedCompensation
from onnxmerge.criteria import ChooseAgain, OpenGroup
from onnxmerge.data.dataset import Dataset
from onnxmerge.graph import external_weights
from onnxmerge.graph.external_weights import Scratch
from onnxmerge.plan import Selection
from onnxmerge.progress import Progress
from onnxmerge.reconstruction.execution import TwoModels
from onnxmerge.rewrite import Fold
from onnxmerge.runtime import Runtime
from onnxmerge.runtime.threads import one_blas_thread
from onnxmerge.statistics.emphasis import CountPlaces
from onnxmerge.statistics.paired import Fit, Paired, Request, SplitMoments, pool, requests

# Channels are chosen again only where the consumer has at most so many features per block.
FEATURES_TO_CHOOSE = 2560
# Sites that lost no channel are refitted only if they have at most so many weights: several float64 arrays of
# that size are needed.
MOST_DOWNSTREAM = 1 << 22


@one_blas_thread
def reconstruct(
    channels: Channels,
    sites: Sequence[FoldSite],
    model: onnx.ModelProto,
    selection: Selection,
    dataset: Dataset,
    runtime: Runtime,
    compensation: PairedCompensation,
    choose_again: ChooseAgain | None = None,
    progress: Progress | None = None,
    scratch: Scratch | None = None,
    places: CountPlaces | None = None,
    *,
    replay: bool = False,
    residual: bool = True,
    downstream: bool = True,
) -> tuple[Selection, list[Fold]]:
    """Refit every consumer of removed channels, in topological order.

    Args:
        channels: the analysis of the untouched model.
        sites: all of its fold sites, in topological order.
        model: the canonical model that ``channels`` belongs to.
        selection: the widths, and the channels where they are not chosen again.
        dataset: what the consumers are fitted on.
        compensation: what gives a consumer its new weight and bias.
        choose_again: which channels of a group with one consumer stay, at the same width; None: those of
            the selection.
        progress: told of every site.
        scratch: where big new weights go; None: they stay in memory.
        places: what the places of samples count; None: all count alike.
        replay: whether ``choose_again`` was asked before and the selection holds its answers: statistics are
            the same as then, so that the same weights come of them to the last bit.
        residual: whether the last site before a residual sum also repairs the sum's other operand.
        downstream: whether sites that lost no channel are refitted too, once something before them changed.

    Returns:
        What is kept in the end, and the new weights and biases of the consumers.

    Raises:
        ModelError: the model does not run on the data.
    """
    walk = _Walk(channels, selection, compensation, choose_again, scratch, replay=replay)
    walk.begin(requests(sites, residual=residual), model, dataset, runtime, places, downstream=downstream)
    for number, request in enumerate(walk.requests):
        if progress is not None:
            progress("reconstruct", number, len(walk.requests))
        walk.visit(request)
        external_weights.release()
        external_weights.trim(seldom=True)
    return Selection(walk.keep), walk.folds


class _Walk:
    """The state of a walk: what is decided so far, and both models under execution.

    Attributes:
        keep: the places of the channels that stay, int64 per group name.
        folds: of the consumers that are done.
        requests: of the sites that are visited, in this order.
    """

    requests: list[Request]
    _models: TwoModels

    def __init__(
        self,
        channels: Channels,
        selection: Selection,
        compensation: PairedCompensation,
        choose_again: ChooseAgain | None,
        scratch: Scratch | None,
        *,
        replay: bool,
    ):
        self._channels, self._compensation, self._choose_again = channels, compensation, choose_again
        self._scratch, self._replay = scratch, replay
        self.keep = {name: np.sort(np.asarray(index)) for name, index in selection.keep.items()}
        self.folds: list[Fold] = []
        self._kept = np.ones(channels.count, dtype=bool)
        # What is likely to stay of groups that are still to be chosen from.
        self._likely = ~removed_channels(channels, self.keep)
        # The numbers of these groups.
        self._open: set[int] = set()
        # By the name of a weight: the sites that share it, and what it has become.
        self._sharing: dict[str, list[Request]] = defaultdict(list)
        self._shared: dict[str, np.ndarray] = {}

    def begin(
        self,
        everything: list[Request],
        model: onnx.ModelProto,
        dataset: Dataset,
        runtime: Runtime,
        places: CountPlaces | None,
        *,
        downstream: bool,
    ) -> None:
        """Cut the groups that are not chosen from again, and get both models ready for the sites to visit."""
        channels = self._channels
        if self._choose_again is not None:
            self._open = self._to_choose(everything)
        for number, group in enumerate(channels.groups):
            if group.name in self.keep and number not in self._open:
                self._cut(number)
        self.requests = self._to_visit(everything, downstream)
        for request in self.requests:
            self._sharing[request.site.weight.name].append(request)
        patches = self._compensation.patches
        self._models = TwoModels(
            channels, model, dataset, runtime, self.requests, patches, self._scratch, places
        )
        self._mask_products(everything)
        self._fill_normalised()

    def visit(self, request: Request) -> None:
        """Refit one site and let the new model go on with it."""
        own = self._gather(request)
        name = request.site.weight.name
        if name in self._shared:
            weight = self._shared[name]
            self._advance(request.site, weight, self._compensation.bias_of(own, weight))
            return
        others = [r for r in self._sharing[name] if r is not request]
        paired = self._with_others(own, others) if others and own.fit is not None else own
        for number in np.unique(self._channels.group_of[request.site.channel]):
            if number in self._open:
                self._choose(paired, int(number))
        weight, bias = self._compensation(request.site, self._kept, paired)
        if others:
            self._shared[name] = weight
        self._advance(request.site, weight, bias)

    def _gather(self, request: Request, dense: bool = False) -> Paired:
        """Statistics of a site; ``dense`` ones compare the untouched model with itself."""
        open_channels = np.isin(self._channels.group_of, list(self._open))
        return self._models.gather(request, self._kept, open_channels, self._compensation.seed, dense=dense)

    def _with_others(self, paired: Paired, others: list[Request]) -> Paired:
        """Statistics pooled over all sites that share a weight; means stay those of the first.

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
        if self._choose_again is not None and not self._replay:
            width = len(self.keep[group.name])
            chosen = self._choose_again(paired, OpenGroup(group.channels, width, self._kept, self._likely))
            if chosen is not None:
                self.keep[group.name] = chosen
        self._open.discard(number)
        self._cut(number)

    def _cut(self, number: int) -> None:
        """Take the channels of a group out that are not kept."""
        group = self._channels.groups[number]
        self._kept[group.channels] = False
        self._kept[group.channels[self.keep[group.name]]] = True
        self._likely[group.channels] = self._kept[group.channels]

    def _advance(self, site: FoldSite, weight: np.ndarray, bias: np.ndarray | None) -> None:
        """Write the new weight and bias into the new model."""
        fold = Fold.of(site, weight, bias, self._scratch)
        self.folds.append(fold)
        assert fold.weight is not None
        self._models.new.set_constant(site.weight.name, fold.weight)
        if bias is not None and (axis := site.output) is not None:
            shape = [1] * len(self._channels.view.shapes[axis.tensor])
            shape[axis.axis] = -1
            self._models.new.add_to_output(site.node.index, bias.astype(fold.weight.dtype).reshape(shape))

    def _to_choose(self, everything: list[Request]) -> set[int]:
        """The groups whose channels are chosen on the way: they have one consumer, with a regression."""
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
        normalised = {
            int(number)
            for _, n in channels.normalised()
            for axis in n.data
            for number in np.unique(channels.group_of[channels.of(axis)])
        }
        return {
            number
            for number, group in enumerate(channels.groups)
            if number not in normalised
            and len(self.keep.get(group.name, group.channels)) < len(group)
            and len(self.keep[group.name])
            and len(users[number]) == 1
            and users[number][0] in regressed
        }

    def _to_visit(self, everything: list[Request], downstream: bool) -> list[Request]:
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
            later = begun and downstream and fit is not None and _weights(fit) <= MOST_DOWNSTREAM
            if loses or (later and shared[request.site.weight.name] == 1):
                found.append(request)
                begun = True
        # Sites that share the weight of one that changes change with it.
        names = {r.site.weight.name for r in found}
        return [r for r in everything if r in found or r.site.weight.name in names]

    def _is_unread(self, request: Request) -> bool:
        """Whether all outputs of a site are removed."""
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
                scale = contract.mask(kept).astype(dtype).reshape(shape)
                self._models.new.scale_input(node.index, contract.operand, scale)

    def _fill_normalised(self) -> None:
        """Normalisations take their statistics of what stays."""
        for node, normalised in self._channels.normalised():
            for number, axis in zip(normalised.operands, normalised.data, strict=True):
                kept = self._kept[self._channels.of(axis)]
                if not kept.all():
                    dtype = node.x[number].source.dtype or np.float32
                    self._models.new.fill_input(node.index, number, kept, dtype, mean=normalised.centred)


def _weights(fit: Fit) -> int:
    return fit.form.blocks * fit.form.outputs * fit.form.features


def _poolable(one: Paired, other: Paired) -> bool:
    """Whether two sites that share a weight are regressions of the same shape."""
    pairs = list(zip(one.blocks, other.blocks, strict=False))
    return len(one.blocks) == len(other.blocks) and all(
        isinstance(a, SplitMoments) and isinstance(b, SplitMoments) and a.all.cross.shape == b.all.cross.shape
        for a, b in pairs
    )

"""What has to be known of both models before a consumer can be refitted: decided before the walk begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxmerge.channels.residual import Feeds, feeds
from onnxmerge.channels.sites import FoldSite
from onnxmerge.graph.view import GraphView
from onnxmerge.operators.parameters import stored_bias
from onnxmerge.statistics.regression import LinearForm, linear_form

# A per-channel scale below this share of the largest one is not divided by.
_SMALL_SCALE = 1e-6


@dataclass(frozen=True, eq=False)
class Fit:
    """How a site is refitted.

    Attributes:
        form: its regression.
        output: the tensor that it computes.
        fed: where that goes.
        other: the other operand of the sum behind the site, where the target is what that sum lacks;
            None where the target is the untouched site's output.
        bias: what the untouched site adds to its product, float64 [rows].
    """

    form: LinearForm
    output: str
    fed: Feeds
    other: str | None
    bias: np.ndarray

    @property
    def target_name(self) -> str:
        """The tensor of the untouched model that the target is made from."""
        return self.output if self.other is None else self.fed.total

    def targets(
        self, old: Mapping[str, np.ndarray], new: Mapping[str, np.ndarray], chosen: np.ndarray
    ) -> np.ndarray:
        """What the site should compute in the chosen rows of a batch, float32 [blocks, rows, outputs]."""
        total, form = old[self.target_name], self.form
        found = form.targets(total, chosen)
        if self.other is None:
            return found
        other = form.targets(np.broadcast_to(new[self.other], total.shape), chosen)
        scale, shift = (
            v.astype(np.float32).reshape(form.blocks, 1, form.outputs)
            for v in (self.fed.scale, self.fed.shift)
        )
        return (found - other - shift) / scale


@dataclass(frozen=True, eq=False)
class Request:
    """One site of the walk; ``fit`` is None where its output is no plain linear map of its data."""

    site: FoldSite
    fit: Fit | None

    @property
    def old_names(self) -> list[str]:
        """What is read from the untouched model."""
        return [self.site.data.tensor, *([self.fit.target_name] if self.fit else [])]

    @property
    def new_names(self) -> list[str]:
        """What is read from the new model."""
        other = self.fit.other if self.fit else None
        return [self.site.data.tensor, *([other] if other is not None else [])]


def requests(sites: Sequence[FoldSite], *, residual: bool) -> list[Request]:
    """One request per site, in the order of the walk (that of ``sites``).

    A sum is repaired by the last of the sites that feed it directly: when that one is refitted, all
    that its other operand depends on has been rewritten.
    """
    made, open_nodes = [], {site.node.index for site in sites}
    varying = _varying(sites[0].channels.view) if sites else set()
    for site in sites:
        # What is the same for every sample is as long as one sample, and no sum with others is.
        repairs = residual and site.data.tensor in varying
        made.append(Request(site, _fit(site, open_nodes, repairs)))
        open_nodes.discard(site.node.index)
    return made


def _fit(site: FoldSite, open_nodes: set[int], residual: bool) -> Fit | None:
    form, output = linear_form(site), site.node.y[0]
    if form is None or output is None or site.output is None:
        return None
    bias = stored_bias(site.node, site.output.size)
    if bias is None:
        return None
    fed = feeds(site)
    scale = np.abs(fed.scale)
    repairs = (
        residual
        and fed.other is not None
        and bool(np.all(scale > _SMALL_SCALE * scale.max()))
        and not _depends_on(site.channels.view, fed.other, open_nodes)
    )
    return Fit(form, output.name, fed, fed.other if repairs else None, bias)


def _varying(view: GraphView) -> set[str]:
    """The tensors that depend on the input of the model, as far as operators tell."""
    varying = set(view.inputs)
    for node in view:
        within = bool(list(node.source.subgraphs()))
        if within or any(x is not None and x.name in varying for x in node.x):
            varying |= {y.name for y in node.y if y is not None}
    return varying


def _depends_on(view: GraphView, name: str, nodes: set[int]) -> bool:
    seen: set[int] = set()
    names = [name]
    while names:
        node = view.producer(names.pop())
        if node is None or node.index in seen:
            continue
        if node.index in nodes:
            return True
        seen.add(node.index)
        names += [x.name for x in node.x if x is not None and not x.is_constant]
    return False

"""Paired statistics of one site: features from the new model, targets from the untouched one.

A ``Request`` says what has to be read of both models before a consumer can be refitted; all of them are made
before the walk begins. ``Paired`` is what a pass of the data found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxmerge.channels.residual import Destination, destination
from onnxmerge.channels.sites import FoldSite
from onnxmerge.graph.view import GraphView
from onnxmerge.operators.parameters import stored_bias
from onnxmerge.statistics.moments import Moments, pooled
from onnxmerge.statistics.regression import LinearForm, linear_form

# A per-channel scale below this share of the largest one is not divided by.
_SMALL_SCALE = 1e-6


@dataclass(frozen=True, eq=False)
class Fit:
    """What a site is refitted to.

    Attributes:
        form: its regression.
        output: the tensor that it computes.
        destination: where that goes.
        other: the other operand of the sum behind the site, where the target is what that sum lacks;
            None where the target is the untouched site's output.
        bias: what the untouched site adds to its product, float64 [rows].
    """

    form: LinearForm
    output: str
    destination: Destination
    other: str | None
    bias: np.ndarray

    @property
    def target_name(self) -> str:
        """The tensor of the untouched model that the target is made from."""
        return self.output if self.other is None else self.destination.total

    def targets(
        self, old: Mapping[str, np.ndarray], new: Mapping[str, np.ndarray], chosen: np.ndarray
    ) -> np.ndarray:
        """What the site should compute in the chosen rows of a batch.

        Args:
            old: values of the untouched model by name, those of ``target_name`` among them.
            new: values of the new model, those of ``other`` among them.
            chosen: int64 [rows].

        Returns:
            float32 [blocks, rows, outputs].
        """
        total, form = old[self.target_name], self.form
        found = form.targets(total, chosen)
        if self.other is None:
            return found
        other = form.targets(np.broadcast_to(new[self.other], total.shape), chosen)
        scale, shift = (
            v.astype(np.float32).reshape(form.blocks, 1, form.outputs)
            for v in (self.destination.scale, self.destination.shift)
        )
        lacking: np.ndarray = (found - other - shift) / scale
        return lacking


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


@dataclass(frozen=True, eq=False)
class Rows:
    """Features and targets themselves, where there are more features than a covariance is worth.

    Attributes:
        features: centred, float32 [n, F].
        targets: centred, float32 [n, O].
        feature_mean: float64 [F].
        target_mean: float64 [O].
    """

    features: np.ndarray
    targets: np.ndarray
    feature_mean: np.ndarray
    target_mean: np.ndarray


@dataclass(frozen=True, eq=False)
class SplitMoments:
    """Moments of a regression, apart for the samples that a strength is chosen on.

    Attributes:
        fit: of three quarters of the samples.
        held_out: of the others; None where there are too few samples.
        all: of all samples.
    """

    fit: Moments
    held_out: Moments | None
    all: Moments

    def of_targets(self, part: slice) -> SplitMoments:
        """The same features with some of the targets, as views."""
        held_out = None if self.held_out is None else self.held_out.of_targets(part)
        return SplitMoments(self.fit.of_targets(part), held_out, self.all.of_targets(part))


@dataclass(frozen=True, eq=False)
class PositionMoments:
    """How data positions that may go depend on those that may stay, in one block of a site.

    Attributes:
        moments: positions of the new model that may stay are the features, positions of the untouched
            model that may go the targets.
        stay: places of the former in the block, int64.
        go: places of the latter, int64.
    """

    moments: SplitMoments
    stay: np.ndarray
    go: np.ndarray


@dataclass(frozen=True, eq=False)
class Paired:
    """Statistics of one site from one pass of the data.

    Attributes:
        present: the features of a block that may stay, int64, places in ``form.channel``.
        blocks: per block the moments of these features (new model) and targets (untouched model), or their
            rows where there are too many features.
        positions: per block what predicts positions that go; empty where none may, or there are too many.
        fit: the site's, or None where the untouched model's values do not confirm the regression.
    """

    present: np.ndarray
    blocks: tuple[SplitMoments | Rows, ...]
    positions: tuple[PositionMoments, ...]
    fit: Fit | None


def pool(splits: Sequence[SplitMoments]) -> SplitMoments:
    """One regression over the rows of several sites that share a weight; means are those of the first."""
    held = [s.held_out for s in splits]
    return SplitMoments(
        pooled([s.fit for s in splits]),
        None if any(h is None for h in held) else pooled([h for h in held if h is not None]),
        pooled([s.all for s in splits]),
    )


def requests(sites: Sequence[FoldSite], *, residual: bool) -> list[Request]:
    """One request per site, in the order of the walk.

    A sum is repaired by the last of the sites that feed it directly: when that one is refitted, all
    that its other operand depends on has been rewritten.

    Args:
        sites: in topological order.
        residual: whether sums are repaired.
    """
    made, open_nodes = [], {site.node.index for site in sites}
    varying = _varying(sites[0].channels.view) if sites else set()
    for site in sites:
        # A value that does not depend on the input is as long as one sample, a sum with others as the batch.
        repairs = residual and site.data.tensor in varying
        made.append(Request(site, _fit(site, open_nodes, repairs)))
        open_nodes.discard(site.node.index)
    return made


def _fit(site: FoldSite, open_nodes: set[int], residual: bool) -> Fit | None:
    form, output = linear_form(site), site.node.y[0]
    if form is None or output is None or site.output is None:
        return None
    bias = stored_bias(site.channels.view, site.node, site.output.size)
    if bias is None:
        return None
    to = destination(site)
    scale = np.abs(to.scale)
    repairs = (
        residual
        and to.other is not None
        and bool(np.all(scale > _SMALL_SCALE * scale.max()))
        and not _depends_on(site.channels.view, to.other, open_nodes)
    )
    return Fit(form, output.name, to, to.other if repairs else None, bias)


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

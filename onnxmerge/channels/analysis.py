"""A model under analysis: what was read, its canonical graph, and what is known of its channels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxmerge.channels.cost import CostModel, kept_lengths, removed_channels
from onnxmerge.channels.depth import Depth
from onnxmerge.channels.groups import Channels, find_channels
from onnxmerge.channels.sensitivity import output_sensitivity
from onnxmerge.channels.sites import FoldSite, fold_sites
from onnxmerge.graph import GraphView, LoadedModel, canonicalize, export_model, external_weights
from onnxmerge.operators.layer_parameters import flush_denormals, needlessly_inputs
from onnxmerge.plan import Selection

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Analysis:
    """A model with its channels; every candidate is made from here, and nothing is written back.

    Attributes:
        loaded: the model as it was read.
        canonical: the working graph that rules and rewriting start from.
        proto: the canonical graph as a model.
        channels: channels, groups, and what is frozen.
        denormals: numbers of the file's weights that were denormal, and are zero in ``canonical``.
        freed: stored tensors that were inputs of the file's graph, too, and are none in ``proto``.
    """

    loaded: LoadedModel
    canonical: gs.Graph
    proto: onnx.ModelProto
    channels: Channels
    denormals: int = 0
    freed: frozenset[str] = frozenset()

    @staticmethod
    def of(loaded: LoadedModel, trace: Callable[[onnx.ModelProto], Shapes]) -> Analysis:
        """Find the channels of a model.

        Args:
            trace: gives the shapes of all tensors of a model for one sample, by their names.
        """
        graph = canonicalize(loaded.proto, loaded.scratch)
        denormals = flush_denormals(graph, loaded.scratch)
        freed = needlessly_inputs(loaded.proto, graph)
        proto = export_model(graph, loaded.proto, freed)
        shapes = trace(proto)
        external_weights.release()
        external_weights.trim()
        return Analysis(loaded, graph, proto, find_channels(GraphView(graph, shapes)), denormals, freed)

    @property
    def lighter(self) -> bool:
        """Whether the file is slower than it has to be, and ``proto`` is not."""
        return self.denormals > 0 or bool(self.freed)

    @cached_property
    def cost(self) -> CostModel:
        """Multiplications and parameters at any widths."""
        return CostModel(self.channels)

    @cached_property
    def depth(self) -> Depth:
        """Which groups may be left without a channel."""
        return Depth(self.channels)

    @cached_property
    def sites(self) -> list[FoldSite]:
        """The contractions with stored weights, in topological order."""
        return fold_sites(self.channels)

    @cached_property
    def sensitivity(self) -> np.ndarray:
        """How sensitive the output is to errors in every channel, float64 [channels.count]."""
        return output_sensitivity(self.channels, self.sites)

    def with_channels(self, channels: Channels) -> Analysis:
        """The same model with other groups to choose from."""
        return replace(self, channels=channels)

    def removed(self, selection: Selection) -> np.ndarray:
        """bool [channels], True where a channel goes."""
        return removed_channels(self.channels, selection.keep)

    def kept(self, kind: str, selection: Selection) -> float:
        """The multiplications (``macs``) or parameters (``params``) of the model that a selection leaves.

        Layers that nobody reads any more, because what they fed is gone, are not in it, however wide.
        """
        return self._kept(kind, kept_lengths(self.channels, self.removed(selection)))

    def share(self, kind: str, lengths: np.ndarray) -> float:
        """The share (0..1) of the multiplications (``macs``) or parameters (``params``) that is left.

        Args:
            lengths: of all axis classes, int64 [classes]; see ``kept`` for layers that nobody reads.
        """
        total = self.cost.macs if kind == "macs" else self.cost.params
        return self._kept(kind, lengths) / max(total, 1)

    def _kept(self, kind: str, lengths: np.ndarray) -> float:
        gone = np.flatnonzero((lengths == 0) & (self.channels.classes.size > 0))
        live = self.depth.without(gone).live if len(gone) else None
        return self.cost.kept(kind, lengths, live)

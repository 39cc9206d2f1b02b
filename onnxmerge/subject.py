"""The model under optimisation: what was read, its canonical graph, and what is known of its channels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxmerge.channels import Channels, analyse
from onnxmerge.channels.cost import CostModel, removed_channels
from onnxmerge.channels.depth import Depth
from onnxmerge.channels.sites import FoldSite, fold_sites
from onnxmerge.graph import GraphView, LoadedModel, canonicalize, export_model, external_weights
from onnxmerge.graph.edit import Editor
from onnxmerge.graph.external_weights import Scratch
from onnxmerge.plan import Selection
from onnxmerge.rewrite import Fold, apply_folds, mask, resize, vanish
from onnxmerge.runtime import Runtime


@dataclass(frozen=True, eq=False)
class Subject:
    """A model with its analysis; every candidate is made from here, and nothing is written back.

    Attributes:
        loaded: the model as it was read.
        canonical: the working graph that rules and rewriting start from.
        proto: the canonical graph as a model.
    """

    loaded: LoadedModel
    canonical: gs.Graph
    proto: onnx.ModelProto
    channels: Channels

    @staticmethod
    def of(loaded: LoadedModel, feed: Mapping[str, np.ndarray], runtime: Runtime) -> Subject:
        """Analyse a model for the concrete shapes of one feed (batch 1)."""
        graph = canonicalize(loaded.proto, loaded.scratch)
        proto = export_model(graph, loaded.proto)
        shapes = runtime.trace(proto, feed)
        external_weights.release()
        channels = analyse(GraphView(graph, shapes))
        return Subject(loaded, graph, proto, channels)

    def with_channels(self, channels: Channels) -> Subject:
        return replace(self, channels=channels)

    @cached_property
    def cost(self) -> CostModel:
        return CostModel(self.channels)

    @cached_property
    def depth(self) -> Depth:
        """Which groups may be left without a channel."""
        return Depth(self.channels)

    @cached_property
    def sites(self) -> list[FoldSite]:
        return fold_sites(self.channels)

    def removed(self, selection: Selection) -> np.ndarray:
        """bool [channels], True where a channel goes."""
        return removed_channels(self.channels, selection.keep)

    def scratch(self) -> Scratch | None:
        """A new folder for weights of a large model, None for others; it must outlive the models in it."""
        return None if self.loaded.scratch is None else self.loaded.scratch.inner()

    def pruned(
        self, selection: Selection, folds: Iterable[Fold], scratch: Scratch | None = None
    ) -> onnx.ModelProto:
        """The model with the folds applied and the removed channels cut out, new weights in ``scratch``."""
        editor = Editor(self.canonical, scratch)
        apply_folds(editor, folds)
        removed = self.removed(selection)
        resize(editor, self.channels, removed)
        vanish(editor, self.depth, removed)
        return export_model(editor.graph, self.loaded.proto)

    def masked(self, selection: Selection, folds: Iterable[Fold]) -> onnx.ModelProto:
        """The reference: the folds applied, and a mask before every contraction instead of the cut."""
        editor = Editor(self.canonical)
        apply_folds(editor, folds)
        mask(editor, self.channels, self.removed(selection))
        return export_model(editor.graph, self.loaded.proto)

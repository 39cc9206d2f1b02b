"""From a selection and its folds to a new model; or to the masked one that it has to equal."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from onnxmerge.channels.analysis import Analysis
from onnxmerge.graph import export_model, external_weights
from onnxmerge.graph.edit import Editor
from onnxmerge.graph.external_weights import Scratch
from onnxmerge.graph.files import read_references
from onnxmerge.operators.layer_parameters import flush_denormals
from onnxmerge.plan import Selection
from onnxmerge.rewrite.fold import Change, apply_folds
from onnxmerge.rewrite.mask import mask
from onnxmerge.rewrite.resize import resize
from onnxmerge.rewrite.scales import merge_scales
from onnxmerge.rewrite.vanish import vanish


def pruned(
    analysis: Analysis, selection: Selection, folds: Iterable[Change] = (), scratch: Scratch | None = None
) -> onnx.ModelProto:
    """The model with the folds applied and the removed channels cut out.

    Args:
        scratch: where big new weights go; None: they stay in memory.

    Returns:
        The model; of a large one the weights are references.
    """
    editor = Editor(analysis.canonical, scratch)
    apply_folds(editor, folds)
    removed = analysis.removed(selection)
    resize(editor, analysis.channels, removed)
    vanish(editor, analysis.depth, removed)
    merge_scales(editor, analysis.channels.view.shapes)
    flush_denormals(editor.graph, scratch, editor.captured)
    model = export_model(editor.graph, analysis.loaded.proto, analysis.freed)
    if not analysis.loaded.large:
        read_references(model)
    external_weights.release()
    return model


def masked(analysis: Analysis, selection: Selection, folds: Iterable[Change] = ()) -> onnx.ModelProto:
    """The reference for ``pruned``: a mask before every contraction in the place of the cut."""
    editor = Editor(analysis.canonical)
    apply_folds(editor, folds)
    mask(editor, analysis.channels, analysis.removed(selection))
    return export_model(editor.graph, analysis.loaded.proto, analysis.freed)

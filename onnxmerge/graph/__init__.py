"""The model as a file, as a working graph, and as the read-only view that rules look at."""

from onnxmerge.graph.canonicalize import canonicalize
from onnxmerge.graph.files import LoadedModel, load
from onnxmerge.graph.output import save, serialize
from onnxmerge.graph.view import Axis, GraphView, NodeView, Positions, TensorView
from onnxmerge.graph.working_graph import export_model, import_model

__all__ = [
    "Axis",
    "GraphView",
    "LoadedModel",
    "NodeView",
    "Positions",
    "TensorView",
    "canonicalize",
    "export_model",
    "import_model",
    "load",
    "save",
    "serialize",
]

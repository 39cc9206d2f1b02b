"""Between the file format and the working graph of onnx-graphsurgeon, and all that undoes its losses.

The working graph knows nodes, attributes, constants and variables. What it does not know is taken from the
original when the graph is exported, so that a file keeps whatever was not changed:

* who made the model, versions, documentation and metadata of the model, its graph and its nodes;
* attributes of the kinds that it skips (types, sparse tensors), and their order and documentation;
* the signature: types of inputs and outputs, names of lengths, stored tensors that are inputs too;
* stated types and shapes of tensors between;
* stored tensors that only subgraphs use, sparse ones, and weights that stay in files.

Stored tensors that nothing uses are left out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter
from onnx_graphsurgeon.ir.tensor import LazyValues, SparseValues
from onnx_graphsurgeon.logger import G_LOGGER

from onnxmerge.graph import external_weights
from onnxmerge.graph.extract import reads

G_LOGGER.severity = G_LOGGER.ERROR


def import_model(proto: onnx.ModelProto) -> gs.Graph:
    """The working graph of a model; initializers that are also graph inputs become constants.

    The values of references are mapped.
    """
    graph = gs.import_onnx(proto)
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Constant) and isinstance(tensor._values, LazyValues):
            stored = tensor._values.tensor
            if isinstance(stored, onnx.TensorProto) and external_weights.is_reference(stored):
                tensor.values, tensor.data_location = external_weights.values_of(stored), None
    return graph


# Before this version of the file format every initializer had to be a graph input, too.
FREE_INITIALIZERS = 4


def export_model(graph: gs.Graph, original: onnx.ModelProto, freed: Collection[str] = ()) -> onnx.ModelProto:
    """The model of a working graph, with everything that was not changed as ``original`` has it.

    Args:
        freed: stored tensors that are inputs of the original, too, and shall be none any more.
    """
    model = onnx.ModelProto()
    for field, value in original.ListFields():
        if field.name in ("graph", "functions"):
            continue
        if field.is_repeated:
            getattr(model, field.name).extend(value)
        else:
            setattr(model, field.name, value)
    _add_missing_domains(model, graph)
    source, target = original.graph, model.graph
    for field, value in source.ListFields():
        if field.name in ("node", "initializer", "sparse_initializer", "value_info", "input", "output"):
            continue
        if field.is_repeated:
            getattr(target, field.name).extend(value)
        else:
            setattr(target, field.name, value)
    target.node.extend(_export_nodes(graph, source))
    constants, sparse = _export_constants(graph, source)
    target.initializer.extend(constants)
    target.sparse_initializer.extend(sparse)
    _drop_copies(target)
    by_name = {tensor.name: tensor for tensor in constants}
    stored = {tensor.name for tensor in source.initializer}
    for value in source.input:
        if value.name in stored and (value.name not in by_name or value.name in freed):
            continue
        kept = target.input.add()
        kept.CopyFrom(value)
        if value.name in by_name:
            _set_shape(kept, by_name[value.name].dims)
    if original.ir_version < FREE_INITIALIZERS:
        listed = {value.name for value in target.input}
        target.input.extend(
            onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            for tensor in constants
            if tensor.name not in listed
        )
    target.output.extend(source.output)
    _export_value_info(graph, source, target)
    return model


def export_node(node: gs.Node) -> onnx.NodeProto:
    """A node as the file format has it."""
    exported: onnx.NodeProto = OnnxExporter.export_node(node)
    return exported


def _add_missing_domains(model: onnx.ModelProto, graph: gs.Graph) -> None:
    known = {opset.domain for opset in model.opset_import}
    for opset in graph.import_domains or ():
        if opset.domain not in known:
            model.opset_import.append(opset)


def _export_nodes(graph: gs.Graph, source: onnx.GraphProto) -> list[onnx.NodeProto]:
    originals = {_first(node.output): node for node in source.node if _first(node.output)}
    nodes = []
    for node in graph.nodes:
        exported = export_node(node)
        original = originals.get(_first(exported.output))
        if original is not None and original.op_type == exported.op_type:
            exported = _restore(exported, original)
        nodes.append(exported)
    return nodes


def _restore(exported: onnx.NodeProto, original: onnx.NodeProto) -> onnx.NodeProto:
    """``original`` with the inputs of ``exported`` and those attributes that differ in it."""
    node = onnx.NodeProto()
    node.CopyFrom(original)
    del node.input[:]
    node.input.extend(exported.input)
    new = {attribute.name: attribute for attribute in exported.attribute}
    old = {attribute.name: attribute for attribute in original.attribute}
    del node.attribute[:]
    for name, attribute in old.items():
        if name in new and new[name].SerializeToString() != attribute.SerializeToString():
            changed = node.attribute.add()
            changed.CopyFrom(new[name])
            changed.doc_string = attribute.doc_string
        elif name in new or attribute.type not in _KNOWN_ATTRIBUTES:
            node.attribute.append(attribute)
    node.attribute.extend(attribute for name, attribute in new.items() if name not in old)
    return node


_KNOWN_ATTRIBUTES = {
    onnx.AttributeProto.FLOAT,
    onnx.AttributeProto.INT,
    onnx.AttributeProto.STRING,
    onnx.AttributeProto.TENSOR,
    onnx.AttributeProto.GRAPH,
    onnx.AttributeProto.FLOATS,
    onnx.AttributeProto.INTS,
    onnx.AttributeProto.STRINGS,
}


def _first(names: Iterable[str]) -> str:
    return next((name for name in names if name), "")


def _export_constants(
    graph: gs.Graph, source: onnx.GraphProto
) -> tuple[list[onnx.TensorProto], list[onnx.SparseTensorProto]]:
    dense, sparse = [], []
    tensors = graph.tensors()
    for tensor in tensors.values():
        if not isinstance(tensor, gs.Constant):
            continue
        if isinstance(tensor._values, SparseValues):
            sparse.append(OnnxExporter.export_sparse_tensor_proto(tensor))
        elif isinstance(tensor._values, np.ndarray) and external_weights.is_mapped(tensor._values):
            dense.append(external_weights.tensor_of(tensor.name, tensor._values))
        else:
            dense.append(OnnxExporter.export_tensor_proto(tensor))
    # What no node of the main graph ever used stays where a subgraph reads it, or as a part of the signature.
    used = {name for node in source.node for name in node.input} | tensors.keys()
    wanted = {name for node in source.node for name in reads(node)}
    wanted |= {value.name for value in (*source.input, *source.output)}
    wanted |= {
        pair.value for one in source.quantization_annotation for pair in one.quant_parameter_tensor_names
    }
    dense += [tensor for tensor in source.initializer if tensor.name in wanted - used]
    return dense, sparse


def _drop_copies(graph: onnx.GraphProto) -> None:
    """Subgraphs read the stored tensors around them; the exporter gives each of them a copy of its own."""
    stored = {tensor.name for tensor in graph.initializer}
    inside = [(subgraph, stored) for subgraph in _subgraphs(graph)]
    for subgraph, outside in inside:  # grows while it is walked
        own = [tensor for tensor in subgraph.initializer if tensor.name not in outside]
        if len(own) < len(subgraph.initializer):
            del subgraph.initializer[:]
            subgraph.initializer.extend(own)
        inside += [(inner, outside | {tensor.name for tensor in own}) for inner in _subgraphs(subgraph)]


def _subgraphs(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    """Those of a graph's own nodes."""
    found = []
    for node in graph.node:
        for attribute in node.attribute:
            found += [attribute.g] if attribute.HasField("g") else list(attribute.graphs)
    return found


def _export_value_info(graph: gs.Graph, source: onnx.GraphProto, target: onnx.GraphProto) -> None:
    tensors = graph.tensors()
    for value in source.value_info:
        tensor = tensors.get(value.name)
        if tensor is None:
            continue
        kept = target.value_info.add()
        kept.CopyFrom(value)
        if value.type.HasField("tensor_type") and tensor.shape is not None:
            _set_shape(kept, tensor.shape)


def _set_shape(value: onnx.ValueInfoProto, shape: Sequence[int | str | None]) -> None:
    """Replace the lengths that changed; names of dynamic dimensions stay, unless the length has none now."""
    dims = value.type.tensor_type.shape.dim
    if len(dims) != len(shape):
        return
    for dim, length in zip(dims, shape, strict=True):
        if dim.HasField("dim_value") and isinstance(length, int):
            dim.dim_value = length
        elif length is None:
            dim.Clear()

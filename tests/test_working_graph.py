"""What onnx-graphsurgeon does not carry through a model comes out as it went in."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import support
from onnx import TensorProto, helper, numpy_helper

from onnxmerge.graph import export_model, import_model

TEXT = """g (float[N,4] x) => (float[N,2] y) <float[4,3] w, float[3,2] v> {
    h = MatMul(x, w)  r = Relu(h)  y = MatMul(r, v) }"""


def round_trip(proto: onnx.ModelProto) -> onnx.ModelProto:
    return export_model(import_model(proto), proto)


def test_an_untouched_model_is_the_same():
    proto = support.model(TEXT)
    assert round_trip(proto) == proto


def test_who_made_it_and_what_it_says_of_itself():
    proto = support.model(TEXT)
    proto.metadata_props.add(key="author", value="somebody")
    proto.model_version, proto.domain, proto.doc_string = 7, "com.example", "a model"
    proto.producer_name, proto.producer_version = "exporter", "1.2"
    proto.graph.doc_string = "a graph"
    proto.graph.metadata_props.add(key="of", value="the graph")
    assert round_trip(proto) == proto


def test_what_nodes_say_of_themselves():
    proto = support.model(TEXT)
    node = proto.graph.node[1]
    node.doc_string, node.name = "an activation", "relu"
    node.metadata_props.add(key="of", value="a node")
    assert round_trip(proto) == proto


def test_attributes_of_kinds_that_it_skips():
    proto = support.model(TEXT)
    kind = helper.make_tensor_type_proto(TensorProto.FLOAT, [1])
    node = helper.make_node("Thing", ["x"], ["t"], domain="custom", kind=kind, alpha=2.0)
    node.attribute[0].doc_string = "what it is"
    proto.graph.node.append(node)
    proto.opset_import.append(helper.make_opsetid("custom", 1))
    kept = round_trip(proto).graph.node[-1]
    assert kept == node


def test_a_changed_attribute_keeps_its_comment_and_the_others_their_values():
    proto = support.model("g (float[N,4] x) => (float[N,4] y) { y = LeakyRelu<alpha = 0.5>(x) }")
    proto.graph.node[0].attribute[0].doc_string = "the slope"
    graph = import_model(proto)
    graph.nodes[0].attrs["alpha"] = 0.25
    (attribute,) = export_model(graph, proto).graph.node[0].attribute
    assert (attribute.f, attribute.doc_string) == (0.25, "the slope")


def test_shapes_in_the_file_follow_and_names_of_lengths_stay():
    proto = support.model(TEXT)
    proto.graph.value_info.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, ["N", 3]))
    graph = import_model(proto)
    graph.tensors()["h"].shape = ["N", 2]
    (value,) = export_model(graph, proto).graph.value_info
    assert [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] == ["N", 2]


@pytest.mark.parametrize("version", [3, 10])
def test_stored_tensors_that_are_inputs_too(version: int):
    proto = support.model(TEXT)
    proto.ir_version = version
    proto.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 3]))
    if version == 3:
        proto.graph.input.append(helper.make_tensor_value_info("v", TensorProto.FLOAT, [3, 2]))
    assert round_trip(proto) == proto


def test_tensors_that_no_node_of_the_main_graph_uses():
    proto = support.model(TEXT)
    stored = ("of_nobody", "of_a_default", "of_an_annotation")
    proto.graph.initializer.extend(numpy_helper.from_array(np.ones(3, np.float32), name) for name in stored)
    proto.graph.input.append(helper.make_tensor_value_info("of_a_default", TensorProto.FLOAT, [3]))
    annotation = proto.graph.quantization_annotation.add(tensor_name="w")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="of_an_annotation")
    kept = [tensor.name for tensor in round_trip(proto).graph.initializer]
    assert kept == ["w", "v", "of_a_default", "of_an_annotation"]


def test_domains_of_new_operators_are_imported():
    proto = support.model(TEXT)
    graph = import_model(proto)
    graph.import_domains = [*proto.opset_import, helper.make_opsetid("custom", 3)]
    assert [(o.domain, o.version) for o in export_model(graph, proto).opset_import][-1] == ("custom", 3)


def test_a_weight_of_several_branches_is_stored_once():
    text = """g (float[N,4] x, bool c) => (float[N,4] y) <float[4,4] w, float[4,4] v> {
        h = MatMul(x, w)
        y = If(c)<
            then_branch = t () => (float[N,4] a) { a = MatMul(h, v) },
            else_branch = e () => (float[N,4] b) { k = MatMul(h, u)  b = MatMul(k, v) }
        > }"""
    proto = support.model(text)
    own = numpy_helper.from_array(np.eye(4, dtype=np.float32), "u")
    proto.graph.node[-1].attribute[1].g.initializer.append(own)
    result = round_trip(proto)
    branches = [attribute.g for attribute in result.graph.node[-1].attribute]
    assert {t.name for t in result.graph.initializer} == {"w", "v"}
    assert [[t.name for t in branch.initializer] for branch in branches] == [[], ["u"]]
    feed = {"x": np.ones((2, 4), np.float32), "c": np.array(True)}
    expected, found = (support.RUNTIME.session(m).run(feed)["y"] for m in (proto, result))
    np.testing.assert_array_equal(expected, found)

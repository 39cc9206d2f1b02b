"""External data of models that somebody else made: read beside the model, and from nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxmerge
from onnxmerge import limits
from onnxmerge.cli import main
from onnxmerge.errors import ModelError, UsageError
from onnxmerge.graph import external_weights, load
from onnxmerge.runtime import Runtime

RUNTIME = Runtime.create("cpu", 1)
SHAPE = (16, 16)
SECRET = np.full(SHAPE, 0.125, np.float32)


def stored(values: np.ndarray, name: str) -> TensorProto:
    return numpy_helper.from_array(values, name)


def network() -> onnx.ModelProto:
    """Tensors in initializers, dense and sparse, in a Constant node, in an If, in a function."""
    rng = np.random.default_rng(0)
    branches = {
        side: helper.make_graph(
            [helper.make_node("MatMul", ["h", f"{side}_w"], [f"{side}_y"])],
            side,
            [],
            [helper.make_tensor_value_info(f"{side}_y", TensorProto.FLOAT, None)],
            [stored(rng.standard_normal(SHAPE, dtype=np.float32), f"{side}_w")],
        )
        for side in ("then", "else")
    }
    function = helper.make_function(
        "local",
        "Shifted",
        ["a"],
        ["b"],
        [
            helper.make_node("Constant", [], ["c"], value=stored(np.ones(SHAPE, np.float32), "c")),
            helper.make_node("Add", ["a", "c"], ["b"]),
        ],
        [helper.make_opsetid("", 17)],
    )
    sparse = helper.make_sparse_tensor(
        stored(np.ones(256, np.float32), "sparse"), stored(np.arange(256), "sparse_indices"), SHAPE
    )
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "w"], ["g"], name="first"),
            helper.make_node("Relu", ["g"], ["r"]),
            helper.make_node("Gemm", ["r", "v"], ["h"], name="second"),
            helper.make_node("Constant", [], ["flag"], value=stored(np.array(True), "flag")),
            helper.make_node("Constant", [], ["c"], value=stored(np.zeros(SHAPE, np.float32), "c")),
            helper.make_node(
                "If", ["flag"], ["i"], then_branch=branches["then"], else_branch=branches["else"]
            ),
            helper.make_node("Add", ["i", "c"], ["j"]),
            helper.make_node("Add", ["j", "sparse"], ["k"]),
            helper.make_node("Shifted", ["k"], ["y"], domain="local"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, SHAPE)],
        [stored(rng.standard_normal(SHAPE, dtype=np.float32), name) for name in ("w", "v")],
    )
    graph.sparse_initializer.append(sparse)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=[function])


def _constant(nodes, output: str) -> TensorProto:
    return next(n for n in nodes if n.output[0] == output).attribute[0].t


def _branch(model: onnx.ModelProto) -> TensorProto:
    return next(n for n in model.graph.node if n.op_type == "If").attribute[0].g.initializer[0]


def _listed(model: onnx.ModelProto) -> TensorProto:
    """A tensor in an attribute that holds a list of them, and does not say so in its type."""
    attribute = onnx.AttributeProto(name="listed", type=onnx.AttributeProto.FLOAT)
    attribute.tensors.append(stored(SECRET, "listed"))
    model.graph.node[1].attribute.append(attribute)
    return model.graph.node[1].attribute[-1].tensors[0]


PLACES: dict[str, Callable[[onnx.ModelProto], TensorProto]] = {
    "initializer": lambda m: m.graph.initializer[0],
    "attribute": lambda m: _constant(m.graph.node, "c"),
    "list in an attribute": _listed,
    "subgraph": _branch,
    "sparse initializer": lambda m: m.graph.sparse_initializer[0].values,
    "function": lambda m: _constant(m.functions[0].node, "c"),
}


def move(tensor: TensorProto, location: str, **entries: str) -> None:
    """Make a tensor external data at a location, as a file would have it."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)


@pytest.fixture(params=["small", "large"])
def path(request, monkeypatch, tmp_path) -> Path:
    """Where a model goes; a folder outside of its own holds what it must not read."""
    if request.param == "large":
        monkeypatch.setattr(limits, "LIMITS", limits.Limits(large_model=1, mapped_tensor=256))
    (tmp_path / "inside").mkdir()
    SECRET.tofile(tmp_path / "secret.bin")
    return tmp_path / "inside" / "in.onnx"


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("where", ["absolute", "absolute inside", "above", "symbolic link"])
def test_nothing_outside_of_the_folder_is_read(where, place, path):
    secret = path.parents[1] / "secret.bin"
    if where == "absolute inside":
        secret = secret.rename(path.with_name("secret.bin"))
    elif where == "symbolic link":
        path.with_name("link.bin").symlink_to(secret)
    model = network()
    location = {"above": "../secret.bin", "symbolic link": "link.bin"}.get(where, str(secret))
    move(PLACES[place](model), location)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"points outside of the model's folder .*move the data beside"):
        load(path)


@pytest.mark.parametrize("place", PLACES)
def test_data_beside_the_model_is_read_wherever_it_belongs(place, path):
    model = network()
    SECRET.tofile(path.with_name("beside.bin"))
    move(PLACES[place](model), "beside.bin")
    path.write_bytes(model.SerializeToString())
    tensor = PLACES[place](load(path).proto) if place != "list in an attribute" else None
    if tensor is not None:
        assert np.array_equal(external_weights.values_of(tensor).reshape(SHAPE), SECRET)


def test_a_mark_cannot_be_copied_to_another_path(path):
    """What a hostile file knows of an earlier run does not open other files to it, nor the same one."""
    earlier = path.with_name("earlier.onnx")
    onnx.save(network(), earlier, save_as_external_data=True, location="earlier.bin", size_threshold=512)
    held = load(earlier)
    secret = path.parents[1] / "secret.bin"
    reference = TensorProto(name="w", dims=SHAPE, data_type=TensorProto.FLOAT)
    external_weights.refer(reference, str(path.with_name("earlier.bin").resolve()), 0, SECRET.nbytes)
    assert external_weights.is_reference(reference)
    entries = {entry.key: entry.value for entry in reference.external_data}
    for location in (str(secret), entries["location"]):
        model = network()
        move(model.graph.initializer[0], **{**entries, "location": location})
        path.write_bytes(model.SerializeToString())
        with pytest.raises(ModelError, match="points outside"):
            load(path)
    # Of entries that are repeated the last one counts, for the mark as for the reading.
    reference.external_data.add(key="location", value=str(secret))
    assert not external_weights.is_reference(reference)
    assert held.proto.graph.node


@pytest.mark.parametrize("place", PLACES)
def test_a_model_in_memory_is_no_way_around(place, path):
    model = network()
    move(PLACES[place](model), str(path.parents[1] / "secret.bin"))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"is not loaded.*give the model's path"):
        load(onnx.load(path, load_external_data=False))


@pytest.mark.parametrize(
    "entries",
    [
        {"location": "beside.bin", "offset": "-4"},
        {"location": "beside.bin", "offset": "many"},
        {"location": "beside.bin", "length": "-1"},
        {"location": "beside.bin", "offset": "4"},
        {"location": "beside\0.bin"},
        {"location": "b" * 5000},
        {"location": "circle.bin"},
        {"location": "."},
        {"location": ""},
        {},
    ],
    ids=str,
)
def test_entries_that_make_no_sense_are_a_sentence(entries, path):
    SECRET.tofile(path.with_name("beside.bin"))
    path.with_name("circle.bin").symlink_to(path.with_name("circle.bin"))
    model = network()
    move(model.graph.initializer[0], **{"location": "", **entries})
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="'w'"):
        load(path)


def test_a_path_that_is_not_text_is_a_sentence(path):
    model = network()
    move(model.graph.initializer[0], "abcdef")
    path.write_bytes(model.SerializeToString().replace(b"abcdef", b"\xff\xfe/etc"))
    with pytest.raises(ModelError, match="not UTF-8"):
        load(path)


def test_the_command_refuses_and_writes_nothing(path, capsys):
    model = network()
    move(model.graph.initializer[0], str(path.parents[1] / "secret.bin"))
    path.write_bytes(model.SerializeToString())
    out = path.with_name("out.onnx")
    assert main([str(path), str(out), "--ratio", "0.5"]) == 3
    assert "points outside of the model's folder" in capsys.readouterr().err
    assert not out.exists()


def dense() -> onnx.ModelProto:
    """Gemm, Relu, Gemm: [N, 16] to [N, 16] over 32 hidden units."""
    rng = np.random.default_rng(0)
    shapes = {"w": (16, 32), "v": (32, 16)}
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "w"], ["g"], name="first"),
            helper.make_node("Relu", ["g"], ["r"]),
            helper.make_node("Gemm", ["r", "v"], ["y"], name="second"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 16])],
        [stored(rng.standard_normal(s, dtype=np.float32), n) for n, s in shapes.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_what_is_written_has_no_mark_and_onnx_loads_it(path):
    onnx.save(dense(), path, save_as_external_data=True, location="in.bin", size_threshold=0)
    rng = np.random.default_rng(1)
    data = rng.standard_normal((32, 16), dtype=np.float32)
    result = onnxmerge.optimize(path, calibration=data, params=0.8)
    with pytest.raises(UsageError, match="is an input file"):
        result.save(path.with_name("in.bin"))
    # A result is an input as well, with its references.
    again = onnxmerge.optimize(result.model, calibration=data, params=0.8)
    for number, made in enumerate((result, again)):
        out = path.with_name(f"out{number}.onnx")
        made.save(out)
        onnx.checker.check_model(str(out), full_check=True)
        written = onnx.load(out, load_external_data=False)
        for tensor in written.graph.initializer:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            assert entries.keys() <= {"location", "offset", "length"}
            assert entries.get("location", f"{out.name}.data") == f"{out.name}.data"
        assert not any(external_weights.is_reference(t) for t in written.graph.initializer)
        found = RUNTIME.session(onnx.load(out)).run({"x": data})["y"]
        assert np.array_equal(found, RUNTIME.session(made.model).run({"x": data})["y"])
    shapes = [t.dims[1] for r in (result, again) for t in r.model.graph.initializer if t.name == "w"]
    assert 32 > shapes[0] > shapes[1]

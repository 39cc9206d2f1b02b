"""Known architectures from both exporters of torch, and what onnxruntime's optimizer makes of them."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
import support

pytest.importorskip("torch", reason="the exporters belong to the test extra")
pytest.importorskip("onnxscript", reason="the exporters belong to the test extra")

import exporting
from exporting import ARCHITECTURES

from onnxmerge.channels.depth import Depth
from onnxmerge.plan import Selection


@cache
def exported(name: str, dynamo: bool) -> onnx.ModelProto:
    return exporting.export(name, dynamo)


def analysed(name: str, proto: onnx.ModelProto) -> support.Analysed:
    """Analysed for one sample, as the program does it, and compared on two."""
    architecture, source = ARCHITECTURES[name], proto.graph.input[0].name
    model = support.analysed(proto, {source: architecture.sample(full=False, batch=1)})
    return replace(model, feed={source: architecture.sample(full=False, batch=2)})


@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_reach_and_equality(name: str, dynamo: bool):
    model = analysed(name, exported(name, dynamo))
    assert model.reach >= ARCHITECTURES[name].reach
    support.check(model, seeds=(0, 1))
    before = support.RUNTIME.session(model.proto).run(model.feed)
    after = support.RUNTIME.session(model.prune(model.selection(0))).run(model.feed)
    assert not all(np.allclose(before[k], after[k]) for k in before), "the removed channels carried nothing"


# How many groups may be left empty: blocks, branches of Concat, gates, attention heads, feed-forward layers.
MAY_GO = {
    "resnet": 6, "regnet": 6, "densenet": 4, "inception": 8, "mobilenet_v2": 1, "mobilenet_v3": 2,
    "efficientnet": 4, "convnext": 3, "unet": 2, "yolo": 7, "vit": 4, "gpt": 4, "llama": 4,
    "deit": 4, "encoder": 1,
}  # fmt: skip


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_layers_that_go(name: str):
    """Every group that may go, each alone and all together: what is left equals the masked reference."""
    model = analysed(name, exported(name, True))
    depth = Depth(model.channels)
    assert len(depth.names) == MAY_GO.get(name, 0)
    for names in [*([one] for one in depth.names), depth.most(depth.names)]:
        empty = Selection({one: np.zeros(0, dtype=np.int64) for one in names})
        assert support.difference(model, empty) <= support.TOLERANCE


@pytest.mark.parametrize(
    ("name", "fused"),
    [
        ("resnet", {"FusedConv"}),
        ("yolo", {"QuickGelu"}),
        ("vit", {"BiasGelu", "FusedMatMul", "SkipLayerNormalization"}),
        ("gpt", {"BiasGelu", "FusedMatMul", "SkipLayerNormalization"}),
        ("llama", {"FusedMatMul", "QuickGelu"}),
    ],
)
def test_fused_by_onnxruntime(name: str, fused: set[str], tmp_path):
    """A file that onnxruntime's optimizer wrote reaches at least as far as the file that it was given."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = os.fspath(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    plain = exported(name, True)
    onnxruntime.InferenceSession(plain.SerializeToString(), options, providers=["CPUExecutionProvider"])
    proto = onnx.load(options.optimized_model_filepath)
    assert fused <= {node.op_type for node in proto.graph.node if node.domain == "com.microsoft"}
    model = analysed(name, proto)
    assert model.reach >= analysed(name, plain).reach - 0.02
    support.check(model, seeds=(0, 1), checked=False)

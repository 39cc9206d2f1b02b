"""Latency: the ratio of two models, measured in turn."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxmerge.errors import ModelError
from onnxmerge.runtime import Runtime
from onnxmerge.validation import compare_latency


def chain(length, width=256):
    weight = numpy_helper.from_array(np.full((width, width), 1 / width, np.float32), "w")
    nodes = [helper.make_node("MatMul", [f"x{i}", "w"], [f"x{i + 1}"]) for i in range(length)]
    value = helper.make_tensor_value_info("x0", TensorProto.FLOAT, [64, width])
    result = helper.make_tensor_value_info(f"x{length}", TensorProto.FLOAT, [64, width])
    graph = helper.make_graph(nodes, "g", [value], [result], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_model_of_a_quarter_of_the_work_is_faster():
    runtime = Runtime.create("cpu", threads=1)
    feed = {"x0": np.ones((64, 256), np.float32)}
    latency = compare_latency(runtime.session(chain(16)), runtime.session(chain(4)), feed, seconds=0.5)
    assert 0.05 < latency.ratio < 0.6
    assert latency.spread[0] <= latency.ratio <= latency.spread[1]
    assert latency.before_ms > latency.after_ms > 0
    assert (latency.provider, latency.threads) == ("CPUExecutionProvider", 1)
    assert latency.runs >= 5


def test_slow_models_still_get_enough_runs():
    runtime = Runtime.create("cpu", threads=1)
    session = runtime.session(chain(2))
    assert compare_latency(session, session, {"x0": np.ones((64, 256), np.float32)}, seconds=0).runs == 5


def test_a_model_that_does_not_run_is_an_error():
    session = Runtime.create("cpu", threads=1).session(chain(1))
    with pytest.raises(ModelError):
        compare_latency(session, session, {"x0": np.ones((1, 3), np.float32)}, seconds=0.1)


def test_one_thread_is_timed_by_the_processor():
    """What other work takes of a processor is nobody's time; several threads wait for one another."""
    feed = {"x0": np.ones((64, 256), np.float32)}
    one, two = (
        compare_latency(*(runtime.session(chain(2)) for _ in range(2)), feed, seconds=0.05)
        for runtime in (Runtime.create("cpu", 1), Runtime.create("cpu", 2))
    )
    assert one.of_processor and not two.of_processor

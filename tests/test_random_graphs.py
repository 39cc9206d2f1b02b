"""Pruned equals masked on random graphs: any graph, any selection, also with groups left empty."""

from __future__ import annotations

import numpy as np
import support
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_graphs import random_graph
from random_steps import STEPS

from onnxmerge.channels.depth import Depth
from onnxmerge.plan import Selection


@settings(
    max_examples=50, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
@given(data=st.data())
def test_pruned_equals_masked(data):
    proto = random_graph(lambda count: data.draw(st.integers(0, count - 1)), STEPS)
    model = support.analysed(proto)
    for seed in (0, 1):
        assert support.difference(model, model.selection(seed)) <= support.TOLERANCE
    assert support.difference(model, model.selection(2), folds=model.folds(0)) <= support.TOLERANCE
    depth = Depth(model.channels)
    for names in [*([name] for name in depth.names), depth.most(depth.names)] if depth.names else []:
        empty = {name: np.zeros(0, dtype=np.int64) for name in names}
        assert support.difference(model, Selection(empty)) <= support.TOLERANCE
        selection = Selection(model.selection(2).keep | empty)
        assert support.difference(model, selection, folds=model.folds(0)) <= support.TOLERANCE

"""Every operator and coupling on a minimal graph: what its rule says, and that pruned equals masked."""

from __future__ import annotations

import cases_fused
import cases_indexing
import cases_layout
import cases_linear
import cases_normalization
import cases_pointwise
import cases_recurrent
import cases_reduction
import pytest
import support
from cases import Case

from onnxmerge.graph import GraphView, canonicalize
from onnxmerge.operators import table

CASES: list[Case] = [
    *cases_pointwise.CASES,
    *cases_linear.CASES,
    *cases_normalization.CASES,
    *cases_reduction.CASES,
    *cases_indexing.CASES,
    *cases_layout.CASES,
    *cases_recurrent.CASES,
    *cases_fused.CASES,
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_pruned_equals_masked(case: Case):
    model = case.analysed()
    assert support.said(case.node(model)) == case.says
    assert model.widths == case.widths, "channels froze, or came free, unnoticed"
    support.check(model, seeds=range(4), checked=not case.deprecated)


@pytest.mark.parametrize("case", [case for case in CASES if case.widths and not case.deprecated], ids=str)
def test_pruned_equals_masked_with_folded_weights(case: Case):
    """Whatever a compensation makes of the consumers' weights and biases."""
    model = case.analysed()
    assert support.difference(model, model.selection(0), folds=model.folds(0)) <= support.TOLERANCE


@pytest.mark.parametrize("case", [case for case in CASES if case.seen], ids=str)
def test_a_wrong_rule_shows(case: Case):
    """What is mixed or frozen, tied instead, makes the pruned model differ from the masked one."""
    assert support.disagrees(case.analysed, case.op, case.domain, seeds=range(4))


# Operators of the cases above whose channels are frozen by something else than their rule.
EXEMPT = {"LSTM": "the state is a graph input"}


def test_every_operator_that_mixes_or_freezes_has_a_wrong_rule_that_shows():
    shown = {case.op for case in CASES if case.seen}
    silent = {case.op for case in CASES if " mix " in f" {case.says}" or not case.widths} - shown
    assert silent <= EXEMPT.keys(), (
        f"no test shows what happens without the care for {silent - EXEMPT.keys()}"
    )


def test_unknown_operators_freeze_whatever_they_touch():
    text = """g (float[N,5,4] x) => (float[N,5,8] y) <float[4,8] w> {
        h = MatMul(x, w)  k = custom.Thing(h)  y = Relu(k) }"""
    assert ("custom", "Thing") not in table.OPERATORS
    proto = support.model(text)
    view = GraphView(canonicalize(proto), {"x": (2, 5, 4), "h": (2, 5, 8), "k": (2, 5, 8), "y": (2, 5, 8)})
    node = next(node for node in view if node.op == "Thing")
    assert support.said(node) == "; ".join(
        f"freeze {tensor}[{axis}]: operator custom:Thing is not in the table"
        for tensor in "hk"
        for axis in range(3)
    )


def test_batch_norm_with_parameters_for_every_place_is_left_alone():
    text = """g (float[N,4,2,2] x) => (float[N,8,2,2] y)
        <float[8,4,1,1] w, float[8,2,2] scale, float[8,2,2] b, float[8,2,2] m, float[8,2,2] var> {
        h = Conv(x, w)  y = BatchNormalization<spatial = 0>(h, scale, b, m, var) }"""
    shapes = {"x": (1, 4, 2, 2), "h": (1, 8, 2, 2), "y": (1, 8, 2, 2)}
    node = list(GraphView(canonicalize(support.model(text, opset=7)), shapes))[-1]
    assert "freeze h[1]: BatchNormalization has parameters for every place" in support.said(node)

"""Parity: what counts as a change, how large it is, and how sure one can be."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from scipy import stats

from onnxmerge.data import Dataset
from onnxmerge.errors import ModelError
from onnxmerge.runtime import Runtime
from onnxmerge.validation import Judgement, check_model, compare, measure
from onnxmerge.validation.kinds import Classes, Probabilities

F = TensorProto.FLOAT
RNG = np.random.default_rng(0)


def model(nodes, outputs, initializers=(), shape=("N", 4)):
    values = [helper.make_tensor_value_info("x", F, shape)]
    results = [helper.make_tensor_value_info(n, t, s) for n, t, s in outputs]
    tensors = [numpy_helper.from_array(a, n) for n, a in initializers]
    graph = helper.make_graph(nodes, "g", values, results, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def linear(columns, outputs=(("y", F, ["N", None]),), extra=(), operator="MatMul"):
    weights = [("w", np.ones((4, columns), np.float32)), ("b", np.ones(columns, np.float32))]
    head = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Add", ["b", "m"], ["y"])]
    if operator == "Gemm":
        weights[0] = ("w", np.ones((columns, 4), np.float32))
        head = [helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)]
    return model([*head, *extra], list(outputs), weights)


# --- changes ---------------------------------------------------------------------------------------


def one(before, after, kind):
    return compare([{"y": np.asarray(before)}], [{"y": np.asarray(after)}], {"y": kind})


def test_relative_error_is_over_the_whole_set():
    x = [RNG.standard_normal((n, 5)) for n in (3, 4)]
    y = [a + RNG.standard_normal(a.shape) * 0.1 for a in x]
    parity = compare([{"y": a} for a in x], [{"y": a} for a in y], {"y": "values"}, source="here")
    before, after = np.concatenate(x), np.concatenate(y)
    assert parity.change == pytest.approx(np.linalg.norm(after - before) / np.linalg.norm(before))
    assert parity.relative_error == parity.change
    assert parity.max_abs_error == pytest.approx(np.abs(after - before).max())
    assert (parity.samples, parity.source, parity.top1_agreement) == (7, "here", None)


def test_classes_count_changed_answers():
    before = np.eye(10, dtype=np.float32)[np.arange(8)]
    after = before.copy()
    after[0] = np.eye(10)[5]
    after[1] *= 0.5
    parity = one(before, after, "classes")
    assert parity.top1_agreement == 7 / 8 and parity.change == 1 / 8
    assert parity.relative_error > 0


def test_classes_compete_along_their_axis():
    """[N, C, H, W] scores: every position has its answer, and one of 2 * 12 changes here."""
    before = RNG.standard_normal((2, 5, 3, 4))
    after = before.copy()
    after[1, :, 2, 3] = np.roll(np.sort(before[1, :, 2, 3]), before[1, :, 2, 3].argmax() + 2)
    parity = one(before, after, Judgement(Classes(1)))
    assert parity.change == pytest.approx(1 / 24) and parity.top1_agreement == pytest.approx(23 / 24)
    assert parity.outputs[0].sums.tolist() == [[0, 12], [1, 12]]
    # Without a batch the classes are the first axis, and there is one sample.
    alone = one(before[1], after[1], Judgement(Classes(0)))
    assert alone.change == pytest.approx(1 / 12) and len(alone.outputs[0].sums) == 1


def test_a_single_class_leaves_nothing_to_choose():
    parity = one(np.ones((4, 1)), np.full((4, 1), 1.5), "classes")
    assert (parity.change, parity.outputs[0].kind, parity.top1_agreement) == (0.5, "values", None)


@pytest.mark.parametrize("logits", [False, True])
def test_probabilities_count_what_moves(logits):
    p, q = np.array([[0.9, 0.1], [0.5, 0.0]]), np.array([[0.6, 0.4], [0.4, 0.0]])
    with np.errstate(divide="ignore"):
        x, y = (np.log(v / (1 - v)) if logits else v for v in (p, q))
    parity = one(x, y, Judgement(Probabilities(logits)))
    (output,) = parity.outputs
    assert parity.change == pytest.approx((0.3 + 0.3 + 0.1) / (0.9 + 0.4 + 0.5))
    assert output.agreement == 3 / 4 and parity.top1_agreement is None
    assert parity.change < parity.change_upper() <= 1


def test_rare_yes_is_not_drowned_by_a_thousand_noes():
    """A detector that finds nothing any more has changed altogether, not in 1 of 1000 boxes."""
    before = np.full((8, 1000), 1e-5)
    before[:, 0] = 0.95
    after = np.full((8, 1000), 1e-5)
    assert one(before, after, "probabilities").change > 0.98
    assert one(before, before, "probabilities").change == 0
    assert one(before, np.full((8, 1000), np.nan), "probabilities").change == 1
    assert one(np.zeros((2, 3)), np.zeros((2, 3)), "probabilities").change == 0
    assert one(np.zeros((2, 3)), np.ones((2, 4)), "probabilities").change == 1


def test_the_bound_of_probabilities_covers_the_truth():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        p = rng.uniform(0, 1, (40, 4))
        q = np.clip(p + 0.1 * rng.standard_normal((40, 4)), 0, 1)
        covered += one(p, q, "probabilities").change_upper(0.9) >= 0.1392  # of two million draws
    assert 0.8 <= covered / 300 <= 0.97


def test_integers_and_strings_count_what_differs():
    assert one(np.array([1, 2, 3, 4]), np.array([1, 2, 0, 0]), "integers").change == 0.5
    words = one(np.array(["a", "b"], object), np.array(["a", "c"], object), "integers")
    assert words.change == 0.5 and words.top1_agreement is None


def test_the_model_changes_as_much_as_its_worst_output():
    before = {"a": np.ones((2, 3)), "b": np.array([[1], [2]])}
    after = {"a": np.ones((2, 3)) * 1.1, "b": np.array([[1], [3]])}
    parity = compare([before], [after], {"a": "values", "b": "integers"})
    assert parity.change == 0.5 and parity.relative_error == pytest.approx(0.1)
    assert [o.name for o in parity.outputs] == ["a", "b"]


def test_nan_of_the_original_is_said_and_nothing_else_is_refused():
    x = np.array([[1.0, np.nan, 2.0, 4.0]])
    parity = one(x, x * 2, "values")
    assert parity.change == 1.0 and any("NaN in 25.0% of output 'y'" in note for note in parity.notes)
    assert not one(x[:, 2:], x[:, 2:], "values").notes
    for kind in ("values", "classes"):
        with pytest.raises(ModelError, match="nothing but NaN"):
            one(np.full((3, 4), np.nan), np.full((3, 4), np.nan), kind)
    assert one(x[:, 2:] / 9, x[:, 2:] / 9 + 1e-9, "probabilities").said.startswith("Less than 0.1% of the")
    assert "beyond all measure (NaN, infinity" in one(x, np.full_like(x, np.inf), "values").said


def test_nan_and_infinity():
    x = np.array([[1.0, np.nan, np.inf, -np.inf]])
    assert one(x, x.copy(), "values").change == 0
    for y in (
        [[np.nan, np.nan, np.inf, -np.inf]],
        [[1.0, 1.0, np.inf, -np.inf]],
        [[1.0, np.nan, -np.inf, -np.inf]],
    ):
        parity = one(x, y, "values")
        assert parity.change == math.inf and parity.max_abs_error == math.inf
    assert one(np.eye(3), np.where(np.eye(3) > 0, 1.0, np.nan), "classes").change == 1.0


def test_zero_reference_and_scalars():
    assert one(np.zeros(3), np.zeros(3), "values").change == 0
    assert one(np.zeros(3), np.ones(3), "values").change == math.inf
    assert one(np.float32(2), np.float32(1), "values").change == 0.5


def test_outputs_of_another_length_have_nothing_in_common():
    assert one(np.ones((3, 4)), np.ones((2, 4)), "values").change == math.inf
    assert one(np.ones((3, 4)), np.ones((2, 4)), "classes").change == 1.0
    assert one(np.ones(3, int), np.ones(2, int), "integers").change == 1.0


def test_sequences_of_maps_are_laid_out():
    before = [{0: 0.25, 1: 0.75}, {0: 0.5, 1: 0.5}]
    after = [{0: 0.25, 1: 0.75}, {0: 0.5, 1: 1.0}]
    parity = compare([{"y": before}], [{"y": after}], {"y": "values"})
    expected = 0.5 / np.linalg.norm([0.25, 0.75, 0.5, 0.5])
    assert parity.change == pytest.approx(expected)
    assert compare([{"y": None}], [{"y": None}], {"y": "values"}).notes


def test_unequal_numbers_of_feeds_are_a_mistake():
    with pytest.raises(ValueError):
        compare([{"y": np.ones(1)}], [], {"y": "values"})


# --- confidence ------------------------------------------------------------------------------------


def test_shares_have_the_clopper_pearson_bound():
    before = np.eye(4)[np.zeros(50, int)]
    after = before.copy()
    after[:2] = np.eye(4)[1]
    parity = one(before, after, "classes")
    bound = parity.change_upper(0.9)
    assert stats.binom.cdf(2, 50, bound) == pytest.approx(0.1)
    assert parity.change < bound < parity.change_upper(0.99)
    assert one(before, before, "classes").change_upper() == pytest.approx(1 - 0.1 ** (1 / 50))
    assert one(before, np.roll(before, 1, axis=1), "classes").change_upper() == 1.0


def test_many_integers_of_few_samples_are_few_draws():
    before = np.zeros((4, 1000), int)
    assert one(before, before, "integers").change_upper() == pytest.approx(1 - 0.1 ** (1 / 4))


def test_the_bound_of_values_covers_the_truth():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        x = rng.standard_normal((40, 8))
        y = x + 0.1 * rng.standard_normal((40, 8))
        covered += one(x, y, "values").change_upper(0.9) >= 0.1
    assert 0.84 <= covered / 300 <= 0.96


def test_a_single_sample_proves_nothing():
    assert one(np.ones((1, 4)), np.full((1, 4), 1.1), "values").change_upper() == math.inf
    assert one(np.ones((1, 4)), np.ones((1, 4)), "values").change_upper() == 0


# --- with models -----------------------------------------------------------------------------------


def test_measure_streams_a_data_set_through_both():
    runtime = Runtime.create("cpu", threads=1)
    proto = linear(12)
    changed = onnx.ModelProto.FromString(proto.SerializeToString())
    changed.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full((4, 12), 1.01, np.float32), "w"))
    data = Dataset("rows", arrays={"x": RNG.standard_normal((70, 4)).astype(np.float32)})
    kinds = {"y": "values"}
    same = measure(runtime.session(proto), runtime.session(proto), data, kinds)
    assert (same.change, same.samples, same.source) == (0.0, 70, "rows")
    other = measure(runtime.session(proto), runtime.session(changed), data, kinds)
    assert 0 < other.change < 0.02 and other.change < other.change_upper()


def test_check_model():
    good = linear(10)
    assert check_model(good) == []
    bad = onnx.ModelProto.FromString(good.SerializeToString())
    bad.graph.node[0].input[0] = "nowhere"
    with pytest.raises(ModelError, match="nowhere"):
        check_model(bad)
    odd = linear(10, outputs=(("y", F, [3, 7, 7]),))
    (warning,) = check_model(odd)
    assert "inference" in warning and "\n" not in warning
    custom = linear(10)
    custom.graph.node[1].domain = "org.example"
    (warning,) = check_model(custom)
    assert "org.example" in warning


def test_check_model_of_files(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(linear(10), path)
    assert check_model(path) == []
    path.write_bytes(b"junk")
    with pytest.raises(ModelError):
        check_model(path)

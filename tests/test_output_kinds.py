"""Kinds of outputs beside detections: sequences, masks, embeddings, and what the values of an output show."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from scipy.special import softmax
from support import model

from onnxmerge.data import Dataset
from onnxmerge.runtime import Runtime
from onnxmerge.validation import Judgement, compare, output_kinds, seen
from onnxmerge.validation.kinds import Embeddings, Masks, Sequences
from onnxmerge.validation.parity import collect

RNG = np.random.default_rng(0)


def one(before, after, how):
    return compare([{"y": np.asarray(before)}], [{"y": np.asarray(after)}], {"y": Judgement(how)})


def scores(classes, count: int = 4) -> np.ndarray:
    """Scores whose highest are these classes."""
    return np.eye(count)[np.asarray(classes)] + 0.1


# --- sequences -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "after, sequences, positions",
    [
        ([[0, 1, 1, 0, 2], [3, 0, 0, 3, 3]], 0, 0),
        ([[1, 1, 0, 0, 2], [3, 3, 0, 3, 0]], 0, 4 / 10),  # the same text at other places
        ([[0, 1, 0, 1, 2], [3, 0, 0, 3, 3]], 0.5, 2 / 10),  # a letter twice
        ([[0, 1, 1, 0, 2], [3, 3, 3, 3, 3]], 0.5, 2 / 10),  # a blank that parted two
        ([[0, 1, 1, 0, 3], [2, 0, 0, 3, 3]], 1, 2 / 10),
    ],
)
def test_a_ctc_is_judged_by_what_it_reads(after, sequences, positions):
    before = [[0, 1, 1, 0, 2], [3, 0, 0, 3, 3]]
    parity = one(scores(before), scores(after), Sequences(ctc=True, blank=0))
    (output,) = parity.outputs
    assert parity.change == sequences and output.found.beside[0].value == pytest.approx(positions)
    assert output.sums.tolist() == [[output.sums[0, 0], 1], [output.sums[1, 0], 1]]
    assert "of the sequences read differently" in parity.said


def test_candidates_that_read_a_ctc_are_compared_by_the_leads_that_are_lost():
    def distance(before, after):
        return one(before, after, Sequences(ctc=True, blank=0)).distance

    before = np.array([[[4.0, 1.0, 0.0], [0.0, 1.0, 3.0]]])
    assert distance(before, before) == 0
    # Half of a lead of 2 at one of two positions; of a lead of 3 nothing is lost where all scores move.
    nearer = before + np.array([[5.0, 5.0, 5.0], [0.0, 1.0, 0.0]])
    assert distance(before, nearer) == pytest.approx(np.sqrt(0.5**2 / 2))
    # A temperature and a softmax change no lead; who leads by more has lost nothing.
    before, nearer = (softmax(v, axis=-1) for v in (before, nearer))
    assert distance(before, nearer) == pytest.approx(np.sqrt(0.5**2 / 2))
    assert distance(before, softmax(3 * np.log(before), axis=-1)) == 0
    # All of it is lost where another class leads, and where there are no numbers.
    assert distance(before, before[:, :, ::-1]) == 1
    assert distance(before, np.full_like(before, np.nan)) == 1
    assert distance(before, before[:, :1]) == 1


def test_classes_that_are_ruled_out_and_ties_lose_no_lead():
    before = np.array([[[2.0, -np.inf, 1.0], [1.0, 1.0, 0.0]]])
    assert one(before, before, Sequences(ctc=True, blank=0)).distance == 0


def test_time_may_come_first():
    before, after = (np.moveaxis(scores(RNG.integers(0, 4, (6, 9))), 0, 1) for _ in range(2))
    pairs = [[{"y": v, "z": np.zeros(6)}] for v in (before, after)]
    parity = collect([(pairs[0][0], pairs[1][0], 6)], {"y": Judgement(Sequences(True, 0))}, "")
    assert len(parity.outputs[0].sums) == 6 and parity.change == 1


def test_tokens_are_judged_position_by_position():
    before = scores([[1, 2, 3, 0], [1, 1, 1, 1]])
    after = scores([[1, 2, 3, 1], [1, 1, 1, 1]])
    parity = one(before, after, Sequences())
    assert parity.change == 1 / 8 and parity.outputs[0].found.beside[0].value == 0.5
    assert "at 87.5% of the positions, and at all of them in 50.0% of the sequences" in parity.said
    assert parity.top1_agreement == 7 / 8
    assert parity.outputs[0].distance == parity.relative_error
    assert one(before, np.full_like(before, np.nan), Sequences()).change == 1


# --- masks -----------------------------------------------------------------------------------------


def square(side: int, count: int = 3, label: int = 1) -> np.ndarray:
    """[1, C, 20, 20]: a square of one class on a background."""
    classes = np.zeros((1, 20, 20), int)
    classes[0, :side, :side] = label
    return np.moveaxis(scores(classes, count), -1, 1)


def test_a_large_background_does_not_flatter():
    parity = one(square(6), square(5), Masks(1))
    pixels, foreground = parity.outputs[0].found.measures
    assert pixels.value == pytest.approx(11 / 400)
    assert parity.change == foreground.value == pytest.approx(1 - 25 / 36)
    assert "2.8% of the pixels change class" in parity.said and "0.694" in parity.said
    assert one(square(6), square(6, label=2), Masks(1)).change == 1
    last = (np.moveaxis(v, 1, -1) for v in (square(6), square(5)))
    assert one(*last, Masks(3)).change == parity.change


def test_stray_pixels_are_no_class():
    before = square(10)
    before[0, :, 19, 19] = [0, 0, 1]
    after = square(10)
    parity = one(np.tile(before, (1, 1, 4, 4)), np.tile(after, (1, 1, 4, 4)), Masks(1))
    assert parity.change > 0.4, "one in 400 is a class"
    far = np.tile(square(10), (1, 1, 4, 4))
    lone = far.copy()
    lone[0, :, 19, 19] = [0, 0, 1]
    assert one(lone, far, Masks(1)).change < 0.001


def test_a_single_score_is_foreground_or_not():
    before, after = (np.where(square(n)[:, 1:2] > 1, 0.9, 0.2) for n in (6, 5))
    assert one(before, after, Masks(1, threshold=0.5)).change == pytest.approx(1 - 25 / 36)
    assert one(before, after, Masks(1, threshold=0.95)).notes, "no foreground: that is said"
    broken = before.copy()
    broken[:, :, :6, :6] = np.nan
    assert one(before, broken, Masks(1, threshold=0.5)).change == 1


def test_masks_bound_takes_a_sample_as_a_draw():
    parity = one(np.tile(square(6), (10, 1, 1, 1)), np.tile(square(6), (10, 1, 1, 1)), Masks(1))
    assert parity.change_upper(0.9) == pytest.approx(1 - 0.1 ** (1 / 10))


# --- embeddings ------------------------------------------------------------------------------------


def test_vectors_are_judged_by_their_angle():
    before = np.array([[1.0, 0.0], [0.0, 2.0]])
    after = np.array([[1.0, 1.0], [0.0, 5.0]])
    parity = one(before, after, Embeddings())
    assert parity.change == pytest.approx(0.25), "45 and 0 degrees"
    assert "22.5 degrees" in parity.said and parity.outputs[0].distance == parity.change
    assert one(before, -before, Embeddings()).change == 1
    assert one(before, before * 1.0000001, Embeddings()).change < 1e-6
    assert one(before, np.full_like(before, np.nan), Embeddings()).change == 1


def test_neighbours_are_looked_for_where_there_are_many():
    before = RNG.standard_normal((40, 8))
    (output,) = one(before, before + 0.05 * RNG.standard_normal((40, 8)), Embeddings()).outputs
    assert 0 < output.found.beside[0].value < 0.4 and "nearest neighbours stay" in output.said()
    assert one(before, before * 3, Embeddings()).outputs[0].found.beside[0].value == 0
    assert not one(before[:31], before[:31], Embeddings()).outputs[0].found.beside


@pytest.mark.parametrize(
    "nodes",
    [
        "y = LpNormalization<axis = -1>(x)",
        "n = ReduceL2<axes = [1]>(x)  y = Div(x, n)",
        "n = ReduceL2<axes = [1]>(x)  c = Clip(n, least)  e = Expand(c, shape)  y = Div(x, e)",
        "q = Mul(x, x)  s = ReduceSum(q, one)  r = Sqrt(s)  y = Div(x, r)",
        "q = Mul(x, x)  s = ReduceSum(q, one)  r = Sqrt(s)  i = Reciprocal(r)  y = Mul(x, i)",
    ],
)
def test_what_is_brought_to_length_one_is_an_embedding(nodes):
    text = f"""g (float[N,16] x) => (float[N,16] y)
        <int64[1] one = {{1}}, float least = {{0.00001}}, int64[2] shape = {{1, 16}}> {{ {nodes} }}"""
    assert output_kinds(model(text))["y"].kind == "embeddings"
    other = text.replace("Div(x, ", "Div(w, ").replace("Mul(x, i)", "Mul(w, i)").replace(
        "float[N,16] x)", "float[N,16] x, float[N,16] w)"
    )  # fmt: skip
    if "Lp" not in nodes:
        assert output_kinds(model(other))["y"].kind == "values", "divided by the length of another"


# --- what values show ------------------------------------------------------------------------------


def kinds_of(text: str, made_up: bool = False, **arrays):
    proto = model(text)
    data = Dataset("given", arrays=arrays, made_up=made_up)
    return seen(output_kinds(proto), proto, Runtime.create("cpu", 1).session(proto), data)


def test_points_are_no_classes():
    """An only output of many columns, one of which is always the highest: landmarks."""
    text = """g (float[N,4] x) => (float[N,12] y) <float[4,12] w = {%s}, float[12] b = {%s}> {
        m = MatMul(x, w)  y = Add(m, b) }"""
    weights = ", ".join(f"{v:.4f}" for v in RNG.normal(0, 0.2, 48))
    points = ", ".join(str(5 * i) for i in range(12))
    rows = RNG.standard_normal((40, 4)).astype(np.float32)
    found = kinds_of(text % (weights, points), x=rows)["y"]
    assert found.kind == "values" and "highest in 100% of 40 samples" in found.words
    assert "--output-kind y=classes" in found.words
    level = ", ".join(["0"] * 12)
    assert kinds_of(text % (weights, level), x=rows)["y"].kind == "classes"
    assert kinds_of(text % (weights, points), x=rows[:15])["y"].kind == "classes", "too few to tell"
    assert kinds_of(text % (weights, points), x=rows, made_up=True)["y"].kind == "classes"


def test_coordinates_are_no_classes():
    """Points on a curve, x and y in turn: another one may be the highest every time."""
    text = "g (float[N,24] x) => (float[N,24] y) <float[24,24] w> { y = MatMul(x, w) }"
    proto = model(text)
    eye = onnx.numpy_helper.from_array(np.eye(24, dtype=np.float32), "w")
    proto.graph.initializer[0].CopyFrom(eye)
    turns = RNG.uniform(0, 6, (20, 1)) + np.linspace(0, 5, 12)
    points = np.stack([np.cos(turns), np.sin(turns)], axis=-1).reshape(20, 24).astype(np.float32)
    session = Runtime.create("cpu", 1).session(proto)

    def kind(x):
        return seen(output_kinds(proto), proto, session, Dataset("given", arrays={"x": x}))["y"]

    assert kind(points).kind == "values" and "coordinates of points" in kind(points).words
    assert kind(RNG.standard_normal((20, 24)).astype(np.float32)).kind == "classes"


def test_a_blank_is_seen():
    text = "g (float[N,12,20] x) => (float[N,12,20] y) { y = Softmax(x) }"
    rows = RNG.standard_normal((20, 12, 20)).astype(np.float32)
    assert kinds_of(text, x=rows)["y"].how == Sequences()
    rows[:, ::2, 0] += 9
    assert kinds_of(text, x=rows)["y"].how == Sequences(True, 0)
    rows[:, ::2, 0] -= 9
    rows[:, ::2, 19] += 9
    assert kinds_of(text, x=rows)["y"].how == Sequences(True, 19)


def test_classes_that_were_chosen_already_are_read_like_a_ctc():
    text = "g (float[N,12,20] x) => (int64[N,12] y) { y = ArgMax<axis = 2, keepdims = 0>(x) }"
    rows = RNG.standard_normal((20, 12, 20)).astype(np.float32)
    assert kinds_of(text, x=rows)["y"].kind == "integers"
    rows[:, ::2, 0] += 9
    found = kinds_of(text, x=rows)["y"]
    assert found.how == Sequences(True, 0, chosen=True) and "--output-kind y=integers" in found.words
    before, after = np.array([[0, 1, 1, 0], [2, 0, 2, 0]]), np.array([[1, 0, 0, 0], [2, 2, 0, 0]])
    parity = one(before, after, found.how)
    assert parity.change == 0.5 and parity.outputs[0].found.beside[0].value == 5 / 8
    assert one(before, after[:, :3], found.how).change == 0.5, "another length is another place"


def test_a_softmax_that_was_written_out_is_scores_of_classes():
    text = """g (float[N,12] x) => (float[N,12] y) {
        e = Exp(x)  a = Constant<value_ints = [1]>()  s = ReduceSum(e, a)  y = Div(e, s) }"""
    rows = RNG.standard_normal((20, 12)).astype(np.float32)
    found = kinds_of(text, x=rows)["y"]
    assert found.kind == "classes" and "shares of one" in found.words


def test_a_vocabulary_is_a_sequence_of_tokens():
    weights = "float[8,1000] w"
    text = f"""g (int64[N,T] i) => (float[N,T,1000] y) <float[50,8] e, {weights}> {{
        x = Gather(e, i)  y = MatMul(x, w) }}"""
    assert output_kinds(model(text))["y"].kind == "sequences"
    small = text.replace("1000", "64")
    assert output_kinds(model(small))["y"].kind == "values"


def test_maps_of_scores_that_nothing_marks():
    text = "g (float[N,3,32,32] x) => (float[N,6,32,32] y) <float[6,3,1,1] w> { y = Conv(x, w) }"
    smooth = np.repeat(np.repeat(RNG.standard_normal((8, 3, 4, 4)), 8, axis=2), 8, axis=3).astype(np.float32)
    found = kinds_of(text, x=smooth)["y"]
    assert found.how == Masks(1) and "map of 6 channels" in found.words
    resized = "y = Resize(z, , two)"
    larger = (
        text.replace("6,32,32", "6,64,64")
        .replace("y = Conv", "z = Conv")
        .replace("w) }", f"w)  {resized} }}")
    )
    larger = larger.replace("[6,3,1,1] w", "[6,3,1,1] w, float[4] two = {1, 1, 2, 2}")
    assert kinds_of(larger, x=smooth)["y"].how == Masks(1)
    activated = text.replace("y = Conv(x, w)", "z = Conv(x, w)  y = Relu(z)")
    assert kinds_of(activated, x=smooth)["y"].kind == "values"
    noise = RNG.standard_normal((8, 3, 32, 32)).astype(np.float32)
    assert kinds_of(text, x=noise)["y"].kind == "values"
    picture = text.replace("float[6,3,1,1]", "float[3,3,1,1]").replace("float[N,6", "float[N,3")
    assert kinds_of(picture, x=smooth)["y"].kind == "values"


def test_one_map_of_probabilities():
    text = "g (float[N,1,16,16] x) => (float[N,1,16,16] y) { y = Sigmoid(x) }"
    assert output_kinds(model(text))["y"].how == Masks(1, threshold=0.5)
    logits = text.replace("=> (", "=> (float[N,1,16,16] z, ").replace("{ y", "{ z = Identity(x) y")
    assert output_kinds(model(logits))["z"].how == Masks(1, threshold=0.0)
    assert output_kinds(model(text.replace("N,1,", "N,2,")))["y"].kind == "probabilities"

"""Detectors: which outputs hold boxes and scores, how they are read, and what counts as a change."""

from __future__ import annotations

import numpy as np
import pytest
from support import model

import onnxmerge
from onnxmerge.data import Dataset
from onnxmerge.errors import ToleranceExceeded, UsageError
from onnxmerge.runtime import Runtime
from onnxmerge.validation import Judgement, compare, output_kinds, seen
from onnxmerge.validation.answers import Answers
from onnxmerge.validation.detectors import detectors
from onnxmerge.validation.kinds import Detections
from onnxmerge.validation.kinds.boxes import Boxes, matches, paired_overlap, suppressed
from onnxmerge.validation.kinds.heads import Columns, Form, Head, Level
from onnxmerge.validation.scores import Scores

RNG = np.random.default_rng(0)
NO_GRAPH = Scores(model("g (float[N,3,64,64] x) => (float[N,3,64,64] y) { y = Relu(x) }"))


# --- boxes -----------------------------------------------------------------------------------------


def boxes(rows) -> Boxes:
    """From rows of x1, y1, x2, y2, score, class."""
    values = np.array(rows, dtype=np.float64).reshape(-1, 6)
    return Boxes(values[:, :4], values[:, 4], values[:, 5].astype(int))


def test_overlap_is_intersection_over_union():
    one = np.array([0.0, 0, 2, 2])
    others = np.array([[0.0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 6, 6], [0, 0, 2, 1], [1, 1, 1, 1]])
    assert paired_overlap(one, others) == pytest.approx([1, 1 / 3, 0, 0.5, 0])
    thin = np.array([1.0, 1, 1, 1])
    assert paired_overlap(thin, thin) == 1, "the same box is the same, however thin"


def test_suppression_is_greedy_and_each_class_by_itself():
    found = boxes([
        [0, 0, 10, 10, 0.9, 0], [1, 0, 11, 10, 0.8, 0], [1, 0, 11, 10, 0.7, 1], [20, 0, 30, 10, 0.6, 0],
    ])  # fmt: skip
    assert suppressed(found, 0.45).scores.tolist() == [0.9, 0.7, 0.6]
    assert suppressed(found, 0.9).scores.tolist() == [0.9, 0.8, 0.7, 0.6]


def test_every_reference_is_matched_once_and_by_its_class():
    reference = boxes([[0, 0, 10, 10, 0.9, 0], [20, 0, 30, 10, 0.8, 1]])
    found = boxes([[0, 0, 10, 9, 0.9, 0], [0, 0, 10, 10, 0.8, 0], [20, 0, 30, 10, 0.7, 0]])
    assert [(i, j) for i, j, _ in matches(found, reference, 0.5)] == [(0, 0)]


# --- the change ------------------------------------------------------------------------------------


def yolo(rows, anchors: int = 32, classes: int = 3) -> np.ndarray:
    """[1, 4 + classes, anchors]: boxes by centre and size, in pixels; the rest is background."""
    values = np.full((1, 4 + classes, anchors), 0.01)
    values[0, :4] = np.stack([np.linspace(5, 60, anchors)] * 2 + [np.full(anchors, 8.0)] * 2)
    for place, (x, y, w, h, score, label) in enumerate(rows):
        values[0, :4, place] = x, y, w, h
        values[0, 4 + label, place] = score
    return values.astype(np.float32)


HEAD = Head((Level(Columns(0, 1, 0, 4), (Columns(0, 1, 4),)),), Form.CENTRES)
HOW = Judgement(Detections(HEAD))


def changed(before, after, how=HOW):
    return compare([{"y": a} for a in before], [{"y": a} for a in after], {"y": how})


TRUTH = [(10, 10, 8, 8, 0.9, 0), (40, 40, 10, 10, 0.8, 1)]


@pytest.mark.parametrize(
    "after, change",
    [
        (TRUTH, 0.0),
        ([TRUTH[0]], 1 / 3),  # one of two vanishes: 1 - 2 / 3
        ([*TRUTH, (60, 20, 8, 8, 0.5, 2)], 0.2),  # one appears
        ([*TRUTH, (41, 40, 10, 10, 0.7, 1)], 0.0),  # suppressed
        ([(10, 10, 8, 8, 0.9, 2), TRUTH[1]], 0.5),  # another class
        ([(13, 13, 8, 8, 0.9, 0), TRUTH[1]], 0.5),  # moved too far
        ([(11, 10, 8, 8, 0.9, 0), TRUTH[1]], 0.0),  # not far enough
        ([(10, 10, 8, 8, 0.3, 0), TRUTH[1]], 0.0),  # less sure
        ([(10, 10, 8, 8, 0.2, 0), TRUTH[1]], 1 / 3),  # not sure enough
        ([], 1.0),
    ],
)
def test_boxes_that_appear_vanish_or_move(after, change):
    (output,) = changed([yolo(TRUTH)], [yolo(after)]).outputs
    assert output.change == pytest.approx(change) and output.kind == "detections"
    assert output.agreement == pytest.approx(1 - change)
    assert (output.distance == 0) == (after == TRUTH)


def test_the_finding_names_f1_the_boxes_and_the_confidence():
    parity = changed([yolo(TRUTH)] * 2, [yolo(TRUTH), yolo(TRUTH[:1])])
    assert parity.said == (
        "14.3% of the detections change (F1 0.857 against the original's own 4 boxes at confidence 0.25)"
    )


def test_the_distance_is_continuous_and_not_over_all_background():
    """One box loses a little confidence: nothing changes yet, but it is seen, however much else there is."""
    after = yolo([(10, 10, 8, 8, 0.8, 0), TRUTH[1]])
    (output,) = changed([yolo(TRUTH)], [after]).outputs
    assert output.change == 0 and 0.02 < output.distance < 0.08
    far = yolo([(10.5, 10, 8, 8, 0.9, 0), TRUTH[1]])
    assert 0.02 < changed([yolo(TRUTH)], [far]).distance < 0.08
    many = [yolo(TRUTH, 3000), yolo([(10, 10, 8, 8, 0.8, 0), TRUTH[1]], 3000)]
    assert changed(many[:1], many[1:]).distance > 0.01


def test_where_nothing_is_detected_it_says_so():
    quiet = yolo([(10, 10, 8, 8, 0.2, 0)])
    parity = changed([quiet] * 3, [yolo([(10, 10, 8, 8, 0.1, 0)])] * 3)
    assert 0 < parity.change < 1 and "rows of the highest scores" in parity.said
    assert "detects nothing at confidence 0.25" in parity.notes[0]
    parity = changed([quiet], [yolo(TRUTH)])
    assert parity.change == 1 and not parity.notes


def test_the_bound_takes_a_sample_as_a_draw():
    same = changed([yolo(TRUTH)] * 20, [yolo(TRUTH)] * 20)
    assert same.change_upper(0.9) == pytest.approx(1 - 0.1 ** (1 / 20))
    # Half of the pictures hold everything: ten draws.
    half = changed([yolo(TRUTH), yolo([])] * 10, [yolo(TRUTH), yolo([])] * 10)
    assert half.change_upper(0.9) == pytest.approx(1 - 0.1 ** (1 / 10))


def test_the_bound_covers_the_truth():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(30):
        pairs = [[yolo([t for t in TRUTH if rng.random() > 0.1]) for _ in range(20)] for _ in range(2)]
        # Both drop a tenth at random: of 2 * 0.9 boxes a side 2 * 0.81 are in both.
        covered += changed(*pairs).change_upper(0.9) >= 0.1
    assert covered >= 26


def test_what_is_no_number_is_no_detection():
    assert changed([yolo(TRUTH)], [np.full_like(yolo(TRUTH), np.nan)]).change == 1


def test_boxes_that_cannot_be_decoded_are_judged_row_by_row():
    how = Judgement(Detections(Head(HEAD.levels, Form.UNKNOWN)))
    before, after = yolo(TRUTH), yolo(TRUTH)
    assert changed([before], [after], how).change == 0
    after[0, :4, 0] *= 1.5
    parity = changed([before], [after], how)
    assert 0.05 < parity.change < 0.5 and "numbers of their boxes" in parity.said
    assert changed([before], [yolo(TRUTH[:1])], how).change > 0.3


# --- after suppression ------------------------------------------------------------------------------


FINAL = Judgement(
    Detections(
        Head((Level(Columns(0, -1, 0, 4, batch=False), (Columns(1, -1, batch=False),),
                    (Columns(2, -1, batch=False),)),), Form.CORNERS, final=True)),
    outputs=("boxes", "scores", "labels"),
)  # fmt: skip


def after_suppression(rows) -> dict[str, np.ndarray]:
    found = boxes(rows)
    return {"boxes": found.corners, "scores": found.scores, "labels": found.labels}


def test_outputs_of_another_length_are_compared_box_by_box():
    rows = [[0, 0, 10, 10, 0.9, 0], [20, 0, 30, 10, 0.8, 1], [40, 0, 50, 10, 0.1, 1]]
    kinds = dict.fromkeys(("boxes", "scores", "labels"), FINAL)

    def change(after):
        return compare([after_suppression(rows)], [after_suppression(after)], kinds)

    assert change(rows).change == 0 and change(rows).distance == pytest.approx(0)
    assert change(rows[:2]).change == 0, "what is below the confidence is none"
    assert change(rows[1:]).change == pytest.approx(1 / 3)
    assert change([]).change == 1
    parity = change([rows[1], rows[0]])
    assert parity.change == 0, "the order says nothing"
    assert [o.kind for o in parity.outputs] == ["detections"] * 3
    assert "output '" not in parity.said, "they are read together"


# --- recognition -----------------------------------------------------------------------------------


def answers(image=(64, 64), rows: int = 1, **arrays) -> Answers:
    """Four feeds of the arrays, each a function of the feed or the same."""
    feeds = tuple({n: v(i) if callable(v) else v for n, v in arrays.items()} for i in range(4))
    return Answers(feeds, (rows,) * 4, image, True, False)


def places(strides=(8,), image: int = 64) -> np.ndarray:
    """Centres of cells in pixels, [A, 2]."""
    found = []
    for stride in strides:
        n = image // stride
        ys, xs = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
        found.append((np.stack([xs, ys], axis=-1).reshape(-1, 2) + 0.5) * stride)
    return np.concatenate(found)


def scores(rows: int, columns: int) -> np.ndarray:
    found = RNG.uniform(0, 0.04, (rows, columns))
    found[RNG.integers(0, rows, 3), 0] = 0.9
    return found


def centred(strides=(8, 16, 32)) -> np.ndarray:
    middle = places(strides)
    return np.concatenate([middle + RNG.normal(0, 1, middle.shape), RNG.uniform(4, 20, middle.shape)], axis=1)


def corners(strides=(8, 16, 32)) -> np.ndarray:
    found = centred(strides)
    return np.concatenate([found[:, :2] - found[:, 2:] / 2, found[:, :2] + found[:, 2:] / 2], axis=1)


def in_cells(rows: int) -> np.ndarray:
    return np.concatenate([RNG.normal(0.5, 0.6, (rows, 2)), RNG.normal(0.8, 0.5, (rows, 2))], axis=1)


def one(**outputs) -> Detections:
    (found,) = detectors(answers(**outputs), NO_GRAPH)
    assert set(found.outputs) == set(outputs)
    return found.how


def test_boxes_and_scores_in_one_output():
    head = one(y=np.concatenate([centred(), scores(84, 7)], axis=1).T[None]).head
    assert head.form is Form.CENTRES and head.levels[0].boxes.axis == 1 and len(head.levels[0].scores) == 1
    transposed = one(y=np.concatenate([corners(), scores(84, 7)], axis=1)[None]).head
    assert transposed.form is Form.CORNERS and transposed.levels[0].boxes.axis == 2
    classes = RNG.uniform(0.2, 0.9, (84, 6))
    five = one(y=np.concatenate([centred(), scores(84, 1), classes], axis=1)[None]).head
    assert [(c.start, c.stop) for c in five.levels[0].scores] == [(4, 5), (5, 11)], "objectness and classes"


def test_points_beside_the_scores_are_no_classes():
    head = one(y=np.concatenate([centred(), scores(84, 2), RNG.normal(30, 9, (84, 6))], axis=1)[None]).head
    (level,) = head.levels
    assert [(c.start, c.stop) for c in level.scores] == [(4, 6)]
    assert [(c.start, c.stop) for c in level.extras] == [(6, 12)]


def test_boxes_and_scores_apart():
    """SSD: as many boxes as rows of scores that sum to one; the first column is the background."""
    rest = scores(84, 2)[:, ::-1]
    softmax = np.stack([1 - rest[:, 1], rest[:, 1]], axis=1)[None]
    how = one(boxes=corners()[None] / 64, scores=softmax)
    assert how.head.background == 0 and how.head.form is Form.CORNERS and not how.head.final
    raw = one(pred_boxes=centred()[None] / 64, logits=RNG.normal(-4, 1, (1, 84, 5)))
    assert raw.head.activation.name == "LOGISTIC"


def test_cells_of_several_strides():
    rows = {8: 64, 16: 16, 32: 4}
    outputs = {}
    for stride, count in rows.items():
        outputs |= {
            f"cls_{stride}": scores(count, 1)[None], f"obj_{stride}": scores(count, 1)[None],
            f"bbox_{stride}": in_cells(count)[None], f"kps_{stride}": RNG.normal(0, 1, (1, count, 10)),
        }  # fmt: skip
    head = one(**outputs).head
    assert head.form is Form.CELLS and head.geometric
    assert sorted((level.stride, level.across) for level in head.levels) == [(8, 8), (16, 4), (32, 2)]
    assert all(len(level.extras) == 1 for level in head.levels)


def test_cells_of_several_strides_in_one_output_of_boxes():
    head = one(boxes=in_cells(84)[None], scores=scores(84, 3)[None]).head
    assert head.form is Form.CELLS and [level.rows[0] for level in head.levels] == [0, 64, 80]


def test_cells_of_one_output():
    graph = Scores(model("""g (float[1,4,84] b, float[1,1,84] o, float[1,3,84] c) => (float[1,8,84] y) {
        p = Sigmoid(o)  q = Sigmoid(c)  y = Concat<axis = 1>(b, p, q) }"""))  # fmt: skip
    values = np.concatenate([in_cells(84), scores(84, 1), RNG.uniform(0, 1, (84, 3))], axis=1).T[None]
    (found,) = detectors(answers(y=values), graph)
    head = found.how.head
    assert head.form is Form.CELLS
    assert [(level.stride, level.rows) for level in head.levels] == [
        (8, (0, 64)),
        (16, (64, 80)),
        (32, (80, 84)),
    ]
    corner = head.read([values]).boxes.corners
    x, y, w, h = values[0, :4, 65]  # the second cell of the second level
    assert corner[65] == pytest.approx(
        [(x + 1) * 16 - np.exp(w) * 8, y * 16 - np.exp(h) * 8, (x + 1) * 16 + np.exp(w) * 8,
         y * 16 + np.exp(h) * 8]
    )  # fmt: skip


def test_boxes_relative_to_anchors_are_not_decoded():
    outputs = {"loc": RNG.normal(0, 1, (1, 90, 4)), "conf": scores(90, 1)[None]}
    assert one(**outputs).head.form is Form.UNKNOWN


def test_what_is_left_after_suppression():
    def rows(i):
        found = RNG.uniform(0, 30, (i + 2, 4))
        found[:, 2:] += found[:, :2] + 1
        return found

    how = one(boxes=rows, scores=lambda i: RNG.uniform(0, 1, i + 2), labels=lambda i: np.arange(i + 2))
    assert how.head.final and how.head.form is Form.CORNERS
    assert not how.head.levels[0].boxes.batch

    def six(i):
        return np.concatenate([rows(i), RNG.uniform(0, 1, (i + 2, 1)), np.ones((i + 2, 1))], axis=1)

    head = one(y=six).head
    assert head.final and head.levels[0].scores[0].start == 4 and head.levels[0].labels[0].start == 5


@pytest.mark.parametrize(
    "outputs",
    [
        {"y": RNG.normal(0, 1, (1, 10))},
        {"y": RNG.uniform(0, 1, (1, 20, 32))},  # probabilities
        {"y": RNG.normal(0, 1, (1, 40, 64))},  # features
        {"y": RNG.normal(0, 1, (1, 16, 8, 8))},
        {"a": RNG.normal(0, 1, (1, 64, 4)), "b": RNG.normal(0, 1, (1, 64, 12))},
        {"a": RNG.uniform(0, 1, (1, 2)), "b": RNG.normal(0, 1, (1, 4))},
    ],
)
def test_what_is_no_detector(outputs):
    assert not detectors(answers(**outputs), NO_GRAPH)
    assert not detectors(answers(image=None, y=np.concatenate([centred(), scores(84, 3)], axis=1)), NO_GRAPH)


# --- whole runs ------------------------------------------------------------------------------------


def detector(nodes: str, outputs: str, stored: str = "") -> str:
    """A net that finds bright spots: boxes around cells of 8 pixels, scores of two classes."""
    return f"""g (float[N,3,64,64] x) => ({outputs}) <float[16,3,8,8] w, float[16] b, float[2,16,1,1] s,
        float[2] t, float[1,4,64] cells, int64[3] flat = {{0, 2, 64}} {stored}> {{
        h = Conv<strides = [8, 8]>(x, w, b)  r = Relu(h)  z = Conv(r, s, t)  f = Reshape(z, flat)
        p = Sigmoid(f)  {nodes} }}"""


def with_cells(proto, corner: bool):
    from onnx import numpy_helper

    middle = places().T
    values = [middle - 6, middle + 6] if corner else [middle, np.full_like(middle, 12)]
    for tensor in proto.graph.initializer:
        if tensor.name == "cells":
            fresh = np.concatenate(values)[None].astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(fresh, "cells"))
        if tensor.name == "t":
            tensor.CopyFrom(numpy_helper.from_array(np.full(2, -1.0, np.float32), "t"))
    return proto


def spots(count: int) -> np.ndarray:
    return np.random.default_rng(3).normal(0, 1, (count, 3, 64, 64)).astype(np.float32)


ONE_OUTPUT = detector(
    "n = Shape<start = 0, end = 1>(x)  e = Concat<axis = 0>(n, one, one)  c = Expand(cells, e)"
    "  y = Concat<axis = 1>(c, p)",
    "float[N,6,64] y",
    ", int64[1] one = {1}",
)


def test_a_run_counts_boxes_and_says_so(tmp_path):
    proto = with_cells(model(ONE_OUTPUT), corner=False)
    result = onnxmerge.optimize(proto, calibration=spots(64), macs=0.6)
    report = result.report
    beside = onnxmerge.compare(proto, result.model, calibration=spots(64), threads=1)
    assert [o.kind for o in beside.parity.outputs] == ["detections"]
    assert "of the detections change (F1 0." in beside.headline.answers
    (output,) = report.parity.outputs
    assert output.kind == "detections" and "centres and sizes" in output.judged
    assert {m.name: m.counts for m in output.measures}["detections"]
    assert output.change == report.parity.change > 0
    assert result.compare(spots(8)).parity.outputs[0].judged == output.judged, "compared alike"
    assert "of the detections change (F1 0." in report.headline.answers
    assert "; with 90% confidence by at most" in report.headline.answers
    with pytest.raises(ToleranceExceeded, match=r"of the detections change \(F1"):
        onnxmerge.optimize(proto, calibration=spots(64), macs=0.6, tolerance=0.001)


def test_suppression_inside_the_model():
    nodes = """k = NonMaxSuppression(corner, p, most, overlap, least)  y = Identity(k)"""
    text = detector(f"corner = Transpose<perm = [0, 2, 1]>(cells)  {nodes}", "int64[M,3] y",
                    ", int64[1] most = {20}, float overlap = {0.4}, float least = {0.3}")  # fmt: skip
    text = text.replace("float[N,3,64,64]", "float[1,3,64,64]")
    proto = with_cells(model(text), corner=True)
    session = Runtime.create("cpu", 1).session(proto)
    data = Dataset("spots", arrays={"x": spots(8)}, batch=1)
    kinds = seen(output_kinds(proto), proto, session, data)
    assert kinds["y"].kind == "detections" and kinds["y"].how.overlap == pytest.approx(0.4)
    found = [session.run(feed) for feed in data.feeds()]
    assert len({len(f["y"]) for f in found}) > 1, "as many as there are"
    assert compare(found, found, kinds).change == 0
    fewer = [{"y": f["y"][1:]} for f in found]
    assert 0 < compare(found, fewer, kinds).change < 0.5


def test_what_is_asked_for_is_read_or_refused():
    proto = with_cells(model(ONE_OUTPUT), corner=False)
    session = Runtime.create("cpu", 1).session(proto)
    data = Dataset("spots", arrays={"x": spots(8)})
    plain = seen(output_kinds(proto, {"y": "values"}), proto, session, data)
    assert plain["y"].kind == "values" and "as asked" in plain["y"].words
    asked = seen(output_kinds(proto, {"y": "detections"}), proto, session, data)
    assert asked["y"].kind == "detections" and "as asked" in asked["y"].words
    other = model("g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }")
    rows = Dataset("rows", arrays={"x": np.ones((4, 4), np.float32)})
    with pytest.raises(UsageError, match="'y' cannot be read as detections"):
        seen(output_kinds(other, {"y": "detections"}), other, Runtime.create("cpu", 1).session(other), rows)

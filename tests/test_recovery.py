"""Recovery: what it promises on any kind of model, and how it behaves where it cannot help."""

from __future__ import annotations

import time

import numpy as np
import onnx
import pytest
import support

torch = pytest.importorskip("torch", reason="recovery needs torch")

from onnxmerge.config import Recovery  # noqa: E402
from onnxmerge.data import Dataset  # noqa: E402
from onnxmerge.errors import ModelError, UsageError  # noqa: E402
from onnxmerge.train.augmentation import VERSIONS, Augmentation  # noqa: E402
from onnxmerge.train.descent import Descent  # noqa: E402
from onnxmerge.train.executor import FUNCTIONS, OnnxModule  # noqa: E402
from onnxmerge.train.lessons import Lessons  # noqa: E402
from onnxmerge.train.recovery import Recovered, recover  # noqa: E402
from onnxmerge.train.samples import Samples  # noqa: E402
from onnxmerge.train.targets import _mean_square, find_targets  # noqa: E402

TABLE = """g (float[N,6] x) => (float[N,3] y) <float[6,24] w1, float[24] b1, float[24,3] w2> {
    a = MatMul(x, w1)
    b = Add(a, b1)
    h = Relu(b)
    y = MatMul(h, w2) }"""
TOKENS = """g (int64[N,5] ids, float[N,8] x) => (float[N,4] scores, float[N,4] share)
    <float[50,8] words, float[8,24] w1, float[24] b1, float[24,4] w2> {
    e = Gather(words, ids)
    m = ReduceMean<axes = [1], keepdims = 0>(e)
    s = Add(m, x)
    a = MatMul(s, w1)
    b = Add(a, b1)
    h = Relu(b)
    scores = MatMul(h, w2)
    share = Softmax(scores) }"""
PICTURES = """g (float[BATCH,3,8,8] x) => (float[BATCH,4] y)
    <float[24,3,3,3] w1, float[24] b1, float[8,24,3,3] w2, float[128,4] w3> {
    shape = Constant<value = int64[2] {BATCH, -1}>()
    a = Conv<pads = [1, 1, 1, 1]>(x, w1, b1)
    h = Relu(a)
    c = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(h, w2)
    f = Reshape(c, shape)
    y = MatMul(f, w3) }"""
STEPS = Recovery(steps=120)


def narrow(teacher: onnx.ModelProto, keep: int = 12, noise: float = 0.0) -> onnx.ModelProto:
    """The model without the last of its 24 inner channels; nothing makes up for them."""
    student = onnx.ModelProto()
    student.CopyFrom(teacher)
    rng = np.random.default_rng(5)
    for tensor in student.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        for axis, length in enumerate(values.shape):
            if length == 24:
                values = values.take(np.arange(keep), axis)
        if tensor.name.startswith("w") and values.dtype == np.float32:
            values = values + np.float32(noise) * rng.standard_normal(values.shape).astype(np.float32)
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))
    return student


def table(count: int, seed: int) -> Dataset:
    return Dataset("table", {"x": np.random.default_rng(seed).standard_normal((count, 6), np.float32)})


def pictures(count: int, seed: int, batch: int | None = None) -> Dataset:
    x = np.random.default_rng(seed).standard_normal((count, 3, 8, 8), np.float32)
    return Dataset("pictures", {"x": x}, batch=batch)


def taught(text: str, fit: Dataset, held_out: Dataset, options: Recovery = STEPS, **more) -> Recovered:
    teacher = support.model(text)
    return recover(teacher, narrow(teacher), fit, held_out, options, threads=1, **more)


def answers(model: onnx.ModelProto, data: Dataset) -> np.ndarray:
    session = support.RUNTIME.session(model)
    name = session.outputs[0].name
    return np.concatenate([session.run(feed, [name])[name] for feed in data.feeds()])


def test_a_table_model_comes_nearer_on_rows_it_has_not_seen():
    teacher = support.model(TABLE)
    student = narrow(teacher)
    before = student.SerializeToString()
    found = recover(teacher, student, table(256, 0), table(64, 1), STEPS, threads=1)
    assert (found.taken, found.stopped, found.steps) == (True, "steps", 120)
    assert found.error_after < 0.5 * found.error_before
    assert found.learning_rate in dict(found.trials)
    expected, unseen = answers(teacher, table(100, 2)), table(100, 2)
    assert (
        np.square(answers(found.model, unseen) - expected).sum()
        < 0.5 * np.square(answers(student, unseen) - expected).sum()
    )
    assert student.SerializeToString() == before
    assert [t.name for t in found.model.graph.initializer] == [t.name for t in student.graph.initializer]


def test_token_ids_and_several_inputs():
    rng = np.random.default_rng(0)

    def rows(count: int) -> Dataset:
        ids = rng.integers(0, 50, (count, 5))
        return Dataset("text", {"ids": ids, "x": rng.standard_normal((count, 8), np.float32)})

    found = taught(TOKENS, rows(256), rows(64))
    assert found.taken and found.error_after < 0.5 * found.error_before


def test_a_fixed_batch_is_opened_where_that_changes_nothing():
    text = PICTURES.replace("BATCH", "1")
    found = taught(text, pictures(128, 0, batch=1), pictures(32, 1, batch=1), images={"x": "nchw"})
    assert found.taken
    assert found.model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
    assert answers(found.model, pictures(2, 3, batch=1)).shape == (2, 4)


def test_larger_fixed_batches_and_feeds_as_they_come():
    fit, held = pictures(32, 0, batch=4), pictures(16, 1, batch=4)
    options = Recovery(steps=60, batch=16, rate=0.01)
    assert taught(PICTURES.replace("BATCH", "4"), fit, held, options, images={"x": "nchw"}).taken
    fit, held = (
        Dataset("feeds", ready=tuple(next(table(n, first + n).feeds()) for n in range(3, 13)))
        for first in (0, 20)
    )
    assert taught(TABLE, fit, held, Recovery(steps=60, batch=5, rate=0.01)).taken


def test_conventions_do_not_meet_in_a_feed():
    rows = np.random.default_rng(0).standard_normal((90, 6), np.float32)
    rows[60:] *= 100
    number = np.repeat([0, 1], [60, 30])
    samples = Samples(
        Dataset("two", {"x": rows}, conventions=("small", "large"), convention_of=number), torch.device("cpu")
    )
    for step in range(8):
        for part in samples.step(step, 16, 100, seed=0):
            assert set(number[part]) == {step % 2}


@pytest.mark.parametrize("rate", [1e4, 1e30])
def test_divergence_is_undone(rate):
    teacher = support.model(TABLE)
    student = narrow(teacher)
    found = recover(teacher, student, table(128, 0), table(64, 1), Recovery(steps=40, rate=rate), threads=1)
    assert found.error_after <= found.error_before
    assert found.stopped == "no better"
    if not found.taken:
        assert found.model is student


def test_what_is_as_good_as_its_teacher_stays_as_it_is():
    teacher = support.model(TABLE)
    found = recover(teacher, teacher, table(64, 0), table(64, 1), STEPS, threads=1)
    assert (found.model is teacher, found.taken, found.steps) == (True, False, 0)


def test_inputs_that_teach_nothing_change_nothing():
    """Learning from other inputs than those that are judged makes a student worse there."""
    teacher = support.model(TABLE)
    student = narrow(teacher, keep=24, noise=0.01)
    odd = Dataset("odd", {"x": np.float32(50 + np.random.default_rng(0).standard_normal((64, 6)))})
    found = recover(teacher, student, odd, table(64, 1), Recovery(steps=60, rate=0.03), threads=1)
    assert found.error_after <= found.error_before
    expected, unseen = answers(teacher, table(200, 2)), table(200, 2)
    assert (
        np.square(answers(found.model, unseen) - expected).sum()
        <= 1.1 * np.square(answers(student, unseen) - expected).sum()
    )


def test_the_same_every_time():
    fit, held = pictures(64, 0), pictures(32, 1)
    text = PICTURES.replace("BATCH", "0").replace("float[0,", "float[N,")
    first, second = (
        taught(text, fit, held, Recovery(steps=40), images={"x": "nchw"}, seed=3) for _ in range(2)
    )
    assert first.model.SerializeToString() == second.model.SerializeToString()
    assert (first.error_after, first.trials) == (second.error_after, second.trials)


def test_an_interruption_keeps_the_best_so_far():
    def stop(stage: str, done: int, total: int) -> None:
        if done == 60:
            raise KeyboardInterrupt

    found = taught(TABLE, table(256, 0), table(64, 1), progress=stop)
    assert (found.stopped, found.steps, found.taken) == ("interrupted", 60, True)
    assert found.error_after < found.error_before


def test_a_bound_in_time_is_kept():
    seen = []
    begin = time.perf_counter()
    found = taught(
        TABLE,
        table(256, 0),
        table(64, 1),
        Recovery(seconds=1.5),
        progress=lambda stage, done, total: seen.append((stage, done, total)),
    )
    assert time.perf_counter() - begin < 3  # other processes share the machine
    assert (found.stopped, found.taken) == ("time", True)
    assert found.seconds < 2 and len(seen) == found.steps
    assert {(stage, total) for stage, _, total in seen} == {("recover", 1)}


@pytest.mark.parametrize(("pause", "options", "batch"), [
    (0.0, Recovery(seconds=60.0, steps=20), 32),
    (0.02, Recovery(seconds=0.5), 8),
    (0.02, Recovery(seconds=60.0, steps=20), 32),
    (0.02, Recovery(seconds=0.5, batch=5), 5),
    (0.02, Recovery(steps=20), 32),
])  # fmt: skip
def test_where_time_leaves_few_steps_they_are_small(monkeypatch, pause, options, batch):
    step = Descent.step

    def slow(self, feeds, rate):
        time.sleep(pause)
        return step(self, feeds, rate)

    monkeypatch.setattr(Descent, "step", slow)
    assert taught(TABLE, table(64, 0), table(32, 1), options).batch == batch


def test_models_that_do_not_go_together():
    teacher = support.model(TABLE)
    other = support.model(TOKENS)
    with pytest.raises(ModelError, match="different inputs or outputs"):
        recover(teacher, other, table(16, 0), table(16, 1), STEPS)


def test_operators_that_are_missing_are_named():
    text = """g (float[N,6] x) => (float[N,3] y, int64[K,3] z)
        <float[6,24] w1, float[24,3] w2, float[1,5,4] boxes, float[1,1,5] scores> {
        a = MatMul(x, w1)
        b = Det(x)
        y = MatMul(a, w2)
        z = NonMaxSuppression(boxes, scores, b) }"""
    teacher = support.model(text)
    with pytest.raises(ModelError, match="Det, NonMaxSuppression are not covered"):
        recover(teacher, narrow(teacher), table(16, 0), table(16, 1), STEPS)


def test_an_operator_that_torch_computes_otherwise_is_noticed(monkeypatch):
    monkeypatch.setitem(FUNCTIONS, "Relu", lambda call, x: x)
    with pytest.raises(ModelError, match="torch computes 'y' differently"):
        taught(TABLE, table(16, 0), table(16, 1))


def test_outputs_are_matched_where_they_say_most():
    """Through a Sigmoid and a Concat to the scores; a whole number has an argument that is a float."""
    text = """g (float[N,6] x) => (float[N,6] y, int64[N,1] best, float[1] version) <float[6,3] w1, float[6,3] w2> {
        version = Constant<value_floats = [2.0]>()
        a = MatMul(x, w1)
        p = Sigmoid(a)
        b = MatMul(x, w2)
        y = Concat<axis = 1>(p, b)
        best = ArgMax<axis = 1>(b) }"""  # noqa: E501
    module = OnnxModule(support.model(text))
    targets = find_targets(module, module, {"x": torch.randn(4, 6)})
    assert targets.answers == ("a", "b")
    assert targets.outputs == ("y",)


# Two corners out of expectations and sizes, and three scores.
BOXES = """g (float[N,6] x) => (float[N,7] y) <float[6,24] w1, float[24,11] w2,
        float[3] spans = {1, 2, 3}, int64[3] bins = {0, 2, 3}, int64[3] parts = {6, 2, 3}> {
    a = MatMul(x, w1)
    h = Relu(a)
    raw = MatMul(h, w2)
    shape, size, score = Split<axis = 1>(raw, parts)
    binned = Reshape(shape, bins)
    p = Softmax<axis = 2>(binned)
    expected = MatMul(p, spans)
    grown = Exp(size)
    q = Sigmoid(score)
    far = Add(expected, grown)
    near = Sub(expected, grown)
    y = Concat<axis = 1>(near, far, q) }"""


def test_what_is_decoded_alike_is_matched_before_it_is_decoded():
    module = OnnxModule(support.model(BOXES))
    # This student expects something else of the same distribution: that has to be taught.
    other = OnnxModule(support.model(BOXES.replace("{1, 2, 3}", "{1.1, 2, 3}")))
    feed = {"x": torch.randn(4, 6)}
    assert find_targets(module, module, feed).answers == ("raw",)
    assert set(find_targets(module, other, feed).answers) == {"far", "near", "raw"}


def test_what_is_hardly_read_does_not_stand_for_the_output():
    text = """g (float[N,5,6] x) => (float[N,1,3] y)
            <float[6,3] w1, int64[1] first = {0}, float scale = {2}> {
        a = MatMul(x, w1)
        b = Gather<axis = 1>(a, first)
        y = Mul(b, scale) }"""
    some, every = (
        OnnxModule(support.model(one))
        for one in (text, text.replace("int64[1] first = {0}", "int64[4] first = {0, 1, 2, 4}"))
    )
    feed = {"x": torch.randn(2, 5, 6)}
    assert find_targets(some, some, feed).answers == ("y",)
    assert find_targets(every, every, feed).answers == ("a",)


def test_every_version_of_an_image_is_answered_once():
    teacher = OnnxModule(support.model(PICTURES.replace("BATCH", "0").replace("float[0,", "float[N,")))
    data = pictures(12, 0)
    lessons = Lessons(teacher, Samples(data, torch.device("cpu")), ["y", "h"], 100, {"x": "nchw"})
    asked = []
    run = teacher.run
    teacher.run = lambda feed, names: (asked.append(len(feed["x"])), run(feed, names))[1]
    with torch.no_grad():
        for step in range(60):
            for feed, expected, share in lessons.step(step, 6):
                assert share == 1
                for name, value in zip(("y", "h"), run(feed, ["y", "h"]), strict=True):
                    torch.testing.assert_close(expected[name], value, atol=1e-4, rtol=1e-4)
    assert sum(asked) <= 12 * VERSIONS


def test_images_are_mirrored_and_moved_alike_in_either_layout():
    images = torch.rand(5, 3, 16, 24)
    rows, versions = np.arange(5), np.array([0, 1, 2, 3, 4])
    augmentation = Augmentation({"a": "nchw", "b": "nhwc"}, 5, seed=1)
    changed = augmentation({"a": images, "b": images.permute(0, 2, 3, 1), "c": images}, rows, versions)
    torch.testing.assert_close(changed["a"], changed["b"].permute(0, 3, 1, 2))
    assert changed["c"] is images
    assert not torch.equal(changed["a"], images)
    # Every pixel comes from the image that it is in, and most of them are still there.
    assert all(torch.isin(a, b).all() for a, b in zip(changed["a"], images, strict=True))


@pytest.mark.parametrize(
    ("text", "steps", "seconds"), [("500", 500, None), ("2m", None, 120.0), ("1.5h", None, 5400.0)]
)
def test_bounds_as_they_are_written(text, steps, seconds):
    assert Recovery.parse(text) == Recovery(steps=steps, seconds=seconds)


@pytest.mark.parametrize("text", ["", "0", "-3", "2 weeks", "m", "inf"])
def test_bounds_that_are_none(text):
    with pytest.raises(UsageError, match="recover= is a time such as 90s, 2m or 1h"):
        Recovery.parse(text)


@pytest.mark.parametrize(
    "options", [{"steps": 0}, {"seconds": -1.0}, {"rate": 0}, {"batch": 0}, {"augment": "yes"}]
)
def test_options_out_of_range(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        Recovery(**options)


@pytest.mark.parametrize("rows", [0, 3])
def test_the_mean_of_squares_is_that_of_torch_and_zero_of_nothing(rows):
    numbers = np.random.default_rng(0)
    a, b = (torch.tensor(numbers.standard_normal((rows, 4)), dtype=torch.float32) for _ in range(2))
    a.requires_grad_(True)
    found = _mean_square(a, b)
    (gradient,) = torch.autograd.grad(found, a)
    expected = torch.nn.functional.mse_loss(a, b) if rows else 0 * a.sum()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient, *torch.autograd.grad(expected, a))

"""The samples that changed most: the right ones, what they were and became, and their pictures."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import support
from PIL import Image

import onnxmerge
from onnxmerge.data import Dataset
from onnxmerge.data.conventions import COLOUR, GREY, stretched
from onnxmerge.data.dataset import mixture
from onnxmerge.data.image_inputs import ImageInput
from onnxmerge.errors import UsageError
from onnxmerge.validation import KINDS, ImageFacts, Judgement, measure, most_changed, worst

MODELS = Path(__file__).parents[1] / "models"
# The second model moves what the first one says by the inputs' first column.
BEFORE = "g (float[N,3] x) => (float[N,3] y) { y = Identity(x) }"
AFTER = """g (float[N,3] x) => (float[N,3] y)
<float[3] m = {1, 0, 0}> { a = Mul(x, m)  b = Mul(a, a)  y = Sub(x, b) }"""
FIRST, SECOND = (support.RUNTIME.session(support.model(text)) for text in (BEFORE, AFTER))


def changed(data: Dataset, kind: str, most: int = 8, sessions=(FIRST, SECOND), images=None):
    kinds = {"y": Judgement(KINDS[kind]())}
    parity = worst([measure(*sessions, part, kinds) for part in data.parts()])
    return most_changed(parity, sessions, data, kinds, images, most), parity


def rows(*first: float) -> np.ndarray:
    return np.array([[value, 0.5, 0.25] for value in first], np.float32)


def test_values_that_moved_most_come_first():
    found, _ = changed(Dataset("d", {"x": rows(0, 3, -1, 2)}), "values", most=2)
    assert [s.number for s in found] == [1, 3]
    assert (found[0].before, found[0].after) == ("3 at [0, 0]", "-6 at [0, 0]")
    assert found[0].change == pytest.approx(9 / np.linalg.norm([3, 0.5, 0.25]))
    assert all(s.picture is None and s.output == "y" for s in found)


def test_classes_that_became_others_are_named_and_the_rest_is_not():
    found, parity = changed(Dataset("d", {"x": rows(0, 0.6, 2, 0.1)}), "classes")
    assert [s.number for s in found] == [1, 2] and parity.change == 0.5
    assert found[0].before == "class 0, score 0.6" and found[0].after == "class 1, score 0.5"


def test_models_that_never_run_at_the_same_time_are_not_run_again():
    data, kinds = Dataset("d", {"x": rows(0, 3)}), {"y": Judgement(KINDS["values"]())}
    parity = measure(FIRST, SECOND, data, kinds)
    large = SimpleNamespace(mapped=True)
    assert most_changed(parity, (large, large), data, kinds, None, 8) == ()


def test_outputs_that_do_not_tell_samples_apart_show_none():
    """A sum over the batch: one row for all samples."""
    text = "g (float[N,3] x) => (float[3] y) <int64[1] a = {0}> { s = ReduceSum<keepdims = 0>(x, a) BODY }"
    bodies = ("y = Identity(s)", "y = Add(s, s)")
    sessions = [support.RUNTIME.session(support.model(text.replace("BODY", body))) for body in bodies]
    assert changed(Dataset("d", {"x": rows(0, 3)}), "values", sessions=sessions)[0] == ()


def test_nothing_changed_nothing_is_shown():
    data = Dataset("d", {"x": rows(1, 2)})
    assert changed(data, "values", sessions=(FIRST, FIRST))[0] == ()
    assert changed(data, "values", most=0)[0] == ()


@pytest.mark.parametrize("form", ["fixed batch", "ready"])
def test_samples_are_found_in_whole_batches_and_in_ready_feeds(form):
    values = rows(0, 0, 1, 0, 0, 2)
    data = Dataset("d", {"x": values}, batch=2)
    if form == "ready":
        data = Dataset("d", ready=tuple({"x": row[None]} for row in values))
    found, _ = changed(data, "values")
    assert [s.number for s in found] == [5, 2] and found[0].before == "2 at [0, 0]"


def test_of_a_mixture_those_under_the_worst_convention_count():
    names = [str(c) for c in COLOUR[:2]]
    parts = [
        Dataset("d", {"x": rows(*v)}, conventions=(n,)) for v, n in zip([(0, 1), (3, 0)], names, strict=True)
    ]
    found, parity = changed(mixture(parts), "values")
    assert parity.convention == names[1] and [s.number for s in found] == [0]
    assert found[0].before == "3 at [0, 0]"


@pytest.mark.parametrize("convention", [*COLOUR, *GREY], ids=str)
def test_a_convention_is_undone(convention):
    channels = 1 if convention.order == "grey" else 3
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 5, channels), dtype=np.uint8)
    pixels[:, 0, 0], pixels[:, 1, 0] = 0, 255
    back = [convention.undo(image) for image in convention.apply(pixels)]
    assert back[0].dtype == np.uint8
    np.testing.assert_array_equal(back, pixels)


def test_numbers_of_which_nothing_is_known_are_stretched():
    assert stretched(np.array([-2.0, 0, 2])).tolist() == [0, 128, 255]
    assert stretched(np.array([np.nan, 1, np.inf])).tolist() == [0, 0, 255]
    assert stretched(np.zeros(3)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_pictures_show_the_input(layout):
    """Two models over images, which differ on the second; red stays red, and is small enough."""
    shape = [2, 3, 120, 60] if layout == "nchw" else [2, 120, 60, 3]
    text = f"g (float{str(['N', *shape[1:]]).replace(chr(39), '')} x) => (float[N,1,1,1] y) {{ BODY }}"
    mean = "y = ReduceMean<axes = [1, 2, 3]>(x)"
    sessions = tuple(
        support.RUNTIME.session(support.model(text.replace("BODY", body)))
        for body in (mean, mean.replace("y =", "z =") + " y = Mul(z, z)")
    )
    convention = next(c for c in COLOUR if c.name == "ImageNet mean and std" and c.order == "bgr")
    pixels = np.zeros((2, 120, 60, 3), np.uint8)
    pixels[1, ..., 0] = 200
    data = Dataset("d", {"x": convention.values(pixels, layout == "nchw", np.dtype(np.float32))})
    target = ImageInput("x", layout, 3, 120, 60)
    found, _ = changed(data, "values", 1, sessions, ImageFacts(target, (convention,)))
    image = Image.open(io.BytesIO(found[0].picture))
    assert image.size == (48, 96) and not found[0].stretched
    colour = (200, 0, 0) if found[0].number == 1 else (0, 0, 0)
    assert image.getpixel((20, 40)) == colour
    unknown, _ = changed(data, "values", 1, sessions, ImageFacts(target, COLOUR))
    assert unknown[0].stretched


def test_a_run_holds_them_and_its_json_holds_no_picture():
    images = np.load(MODELS / "digits_calib.npz")["image"][:128]
    options = {"macs": 0.1, "compensation": "none", "criterion": "random", "threads": 1, "tolerance": 1.0}
    found = onnxmerge.optimize(MODELS / "digits.onnx", calibration=images, **options).report
    assert 1 <= len(found.most_changed) <= 8 and found.most_changed[0].picture is not None
    assert found["most_changed"][0].keys() == {"number", "change", "output", "before", "after", "stretched"}
    assert len(found.to_json()) < 20_000
    shown = found.to_html()
    assert shown.count("<img") == len(found.most_changed)
    none = onnxmerge.optimize(MODELS / "digits.onnx", calibration=images, examples=0, **options).report
    assert none.most_changed == () and "<img" not in none.to_html()
    with pytest.raises(UsageError, match="examples"):
        replace(onnxmerge.Config(), examples=-1)

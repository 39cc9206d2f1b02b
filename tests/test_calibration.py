"""Calibration data: files, folders, images, arrays, feeds; and everything that can be wrong with them."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from onnxmerge.data import Dataset, ImageOptions, read_calibration
from onnxmerge.errors import CalibrationError, UsageError
from onnxmerge.runtime.tensor_info import TensorInfo

RNG = np.random.default_rng(0)


def info(name, dtype, *shape):
    return TensorInfo(name, np.dtype(dtype), shape, "tensor(float)")


VECTOR = [info("x", "float32", "N", 4)]
PICTURE = [info("x", "float32", "N", 3, 8, 8)]
PAIR = [info("x", "float32", "N", 4), info("ids", "int64", "N", 6)]


def rows(data: Dataset, name: str = "x") -> np.ndarray:
    return np.concatenate([feed[name] for feed in data.feeds()])


# --- Dataset ---------------------------------------------------------------------------------------


def test_feeds_are_cut_evenly_and_cover_everything():
    data = Dataset("d", arrays={"x": np.arange(70)})
    assert [len(f["x"]) for f in data.feeds()] == [24, 24, 22]
    assert [len(f["x"]) for f in data.feeds(batch=64)] == [35, 35]
    np.testing.assert_array_equal(rows(data), np.arange(70))
    with pytest.raises(UsageError):
        next(data.feeds(batch=0))


def test_a_fixed_batch_is_always_full():
    data = Dataset("d", arrays={"x": np.arange(11)}, batch=4)
    assert len(data) == 8
    assert [len(f["x"]) for f in data.feeds(batch=2)] == [4, 4]
    assert len(data.take(5, seed=0)) == 4
    with pytest.raises(CalibrationError, match="batches of 4"):
        Dataset("d", arrays={"x": np.arange(3)}, batch=4)


def test_take_is_seeded_and_keeps_order():
    data = Dataset("d", arrays={"x": np.arange(100)})
    chosen = rows(data.take(10, seed=3))
    assert len(chosen) == 10 and np.all(np.diff(chosen) > 0)
    np.testing.assert_array_equal(chosen, rows(data.take(10, seed=3)))
    assert not np.array_equal(chosen, rows(data.take(10, seed=4)))
    assert data.take(1000, seed=0) is data


@pytest.mark.parametrize(("count", "held"), [(1000, 250), (200, 64), (100, 50), (3, 1), (2, 1)])
def test_split_holds_out_a_quarter_but_enough(count, held):
    data = Dataset("d", arrays={"x": np.arange(count)})
    fit, out = data.split(seed=1)
    assert (len(fit), len(out)) == (count - held, held)
    assert sorted([*rows(fit), *rows(out)]) == list(range(count))


def test_split_of_what_cannot_be_split():
    single = Dataset("d", arrays={"x": np.arange(1)})
    assert single.split() == (single, single)
    batched = Dataset("d", arrays={"x": np.arange(7)}, batch=4)
    assert batched.split() == (batched, batched)
    fit, out = Dataset("d", arrays={"x": np.arange(12)}, batch=4).split()
    assert (len(fit), len(out)) == (8, 4)


# --- what is accepted ------------------------------------------------------------------------------


def test_an_array_for_a_single_input_is_cast():
    data = read_calibration(np.ones((5, 4)), VECTOR)
    assert rows(data).dtype == np.float32 and len(data) == 5


def test_npz_npy_and_folders_of_them(tmp_path):
    x, ids = RNG.standard_normal((6, 4)), np.arange(36, dtype=np.int32).reshape(6, 6)
    np.savez(tmp_path / "a.npz", x=x, ids=ids)
    data = read_calibration(tmp_path / "a.npz", PAIR)
    assert rows(data, "ids").dtype == np.int64 and str(tmp_path / "a.npz") in data.source
    np.savez(tmp_path / "b.npz", x)
    np.testing.assert_allclose(rows(read_calibration(str(tmp_path / "b.npz"), VECTOR)), x, rtol=1e-6)
    folder = tmp_path / "many"
    folder.mkdir()
    np.save(folder / "0.npy", x[:4])
    np.save(folder / "1.npy", x[4:])
    np.testing.assert_allclose(rows(read_calibration(folder, VECTOR)), x, rtol=1e-6)
    assert len(read_calibration(folder, VECTOR, samples=3)) == 3
    named = tmp_path / "named"
    named.mkdir()
    np.save(named / "x.npy", x)
    np.save(named / "ids.npy", ids)
    np.testing.assert_array_equal(rows(read_calibration(named, PAIR), "ids"), ids)


def test_feeds_and_data_readers():
    feeds = [{"x": np.full((2, 4), i, np.float32)} for i in range(3)]
    data = read_calibration(feeds, VECTOR)
    assert len(data) == 6 and data.ready is None

    class Reader:
        def __init__(self):
            self.left = iter(feeds)

        def get_next(self):
            return next(self.left, None)

    np.testing.assert_array_equal(rows(read_calibration(Reader(), VECTOR)), rows(data))


def test_a_reader_may_fill_the_same_buffer_again():
    def reader():
        buffer = np.zeros((1, 4), np.float32)
        for i in range(3):
            buffer[:] = i
            yield {"x": buffer}

    assert rows(read_calibration(reader(), VECTOR))[:, 0].tolist() == [0, 1, 2]


def test_an_endless_reader_is_cut_at_the_samples():
    def endless():
        while True:
            yield {"x": np.ones((1, 4), np.float32)}

    assert len(read_calibration(endless(), VECTOR, samples=5)) == 5


def test_feeds_that_do_not_stack_stay_feeds():
    inputs = [info("x", "float32", 1, "T")]
    data = read_calibration([{"x": np.ones((1, n), np.float32)} for n in (3, 5)], inputs)
    assert [f["x"].shape for f in data.feeds()] == [(1, 3), (1, 5)]
    graph = [info("nodes", "float32", "n", 3), info("edges", "int64", 2, "e")]
    whole = read_calibration({"nodes": np.ones((30, 3)), "edges": np.zeros((2, 60), np.int64)}, graph)
    assert len(whole) == 1 and next(whole.feeds())["edges"].shape == (2, 60)


def test_inputs_without_a_batch_axis_are_shared():
    inputs = [info("x", "float32", "N", 4), info("gain", "float32", 1), info("k", "float32")]
    data = read_calibration({"x": np.ones((40, 4)), "gain": np.ones(1), "k": np.float32(2)}, inputs)
    assert [(f["x"].shape, f["gain"].shape, f["k"].shape) for f in data.feeds()] == [((20, 4), (1,), ())] * 2


# --- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "inputs", "words"),
    [
        ({"y": np.ones((2, 4))}, VECTOR, "names y; the model's inputs are x"),
        ({"x": np.ones((2, 4))}, PAIR, "x, ids"),
        (np.ones((2, 4)), PAIR, "one array without a name"),
        (np.ones(4), VECTOR, "add the batch axis"),
        (
            np.ones((2, 8, 8)),
            [info("x", "float32", "N", 1, 8, 8)],
            r"np\.expand_dims\(array, 1\) adds the axis",
        ),
        (np.ones((2, 8, 8, 3)), PICTURE, r"channels are last, array\.transpose\(0, 3, 1, 2\) moves them"),
        (np.ones((2, 3, 8, 8)), [info("x", "float32", "N", "h", "w", 3)], r"transpose\(0, 2, 3, 1\)"),
        (np.ones((2, 1, 8, 8)), PICTURE, r"expects \[N, 3, 8, 8\]$"),
        (np.ones((2, 5)), VECTOR, r"expects \[N, 4\]"),
        (np.ones((2, 4), np.complex64), VECTOR, "complex64"),
        (np.array([["a"] * 4]), VECTOR, "expects float32"),
        (np.full((2, 4), np.nan), VECTOR, "8 values that are NaN"),
        (np.full((2, 4), np.inf), VECTOR, "infinite"),
        (np.full((2, 4), 1e300), VECTOR, "cannot hold"),
        (np.ones((0, 4)), VECTOR, "no samples"),
        (np.ones((2, 6)), [info("ids", "int64", "N", 6)], "convert it first"),
        (np.full((2, 6), 2**40), [info("ids", "int32", "N", 6)], "cannot hold"),
        ({"x": np.ones((2, 4)), "ids": np.ones((3, 6), int)}, PAIR, "different numbers|expects"),
        ({"x": np.ones((2, 4)), "ids": np.ones((3, 6), int)}, PAIR, r"samples \(x 2, ids 3\), .* \('N'\)"),
        (["a.png", "b.png"], VECTOR, "is a str, not a dict"),
        ([(np.ones((2, 4)),)], PAIR, "1 entries, and the model has 2 inputs: x, ids"),
        ([np.ones((2, 4))], PAIR, "is a ndarray, not a dict of arrays by input name or a tuple of x, ids"),
        ([{"x": [[1, 2], [3]]}], VECTOR, "rows of different lengths"),
        ([{"x": object()}], VECTOR, "expects the 2 axes"),
        ([], VECTOR, "no feeds"),
        (7, VECTOR, "not <class 'int'>"),
        ("no/such/file.npz", VECTOR, "no calibration data at"),
        ("", VECTOR, "path of the data is empty"),
    ],
)
def test_what_does_not_fit_is_one_sentence(what, inputs, words):
    if words.startswith("different"):
        inputs = [info("x", "float32", "N", 4), info("ids", "int64", 5, 6)]
    with pytest.raises(CalibrationError, match=words) as caught:
        read_calibration(what, inputs)
    assert "\n" not in str(caught.value)


def test_bytes_may_be_given_for_floats():
    assert rows(read_calibration(np.full((2, 4), 255, np.uint8), VECTOR)).max() == 255.0


def test_pickles_and_lies_about_size_are_refused(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(CalibrationError, match="Python objects"):
        read_calibration(tmp_path / "objects.npy", VECTOR)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (10**12, 4)}
    )
    (tmp_path / "huge.npy").write_bytes(header.getvalue() + bytes(64))
    with pytest.raises(CalibrationError, match="truncated"):
        read_calibration(tmp_path / "huge.npy", VECTOR)
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as archive:
        archive.writestr("x.npy", header.getvalue() + bytes(64))
    with pytest.raises(CalibrationError, match="truncated"):
        read_calibration(tmp_path / "huge.npz", VECTOR)
    for name in ("junk.npy", "junk.npz"):
        (tmp_path / name).write_bytes(b"junk")
        with pytest.raises(CalibrationError, match="not a readable"):
            read_calibration(tmp_path / name, VECTOR)


def test_folders_of_nothing_and_of_everything(tmp_path):
    with pytest.raises(CalibrationError, match="no images"):
        read_calibration(tmp_path, PICTURE)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", np.ones((1, 3, 8, 8), np.float32))
    with pytest.raises(CalibrationError, match="one kind"):
        read_calibration(tmp_path, PICTURE)
    with pytest.raises(CalibrationError, match="is no calibration data"):
        read_calibration(__file__, PICTURE)


# --- images ----------------------------------------------------------------------------------------


def picture(path, size=(8, 8), colour=(255, 128, 0)):
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.new("RGB", size, colour).save(path)
    return path


def test_images_are_normalised_in_rgb_order(tmp_path):
    picture(tmp_path / "sub" / "b.png", (16, 12))
    picture(tmp_path / "a.png", colour=(0, 0, 255))
    options = ImageOptions(mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 1.0), scale=1 / 255)
    data = read_calibration(tmp_path, PICTURE, options)
    values = rows(data)
    assert values.shape == (2, 3, 8, 8) and values.dtype == np.float32
    np.testing.assert_allclose(values[0, :, 3, 3], [-2, -1, 0.5], atol=1e-6)  # a.png comes first
    np.testing.assert_allclose(values[1, :, 0, 0], [2, (128 / 255 - 0.5) * 2, -0.5], atol=1e-6)


def test_layouts_channels_and_integer_inputs(tmp_path):
    path = picture(tmp_path / "a.png")
    last = rows(read_calibration(path, [info("x", "uint8", "N", 8, 8, 3)]))
    assert last.dtype == np.uint8 and last[0, 0, 0].tolist() == [255, 128, 0]
    grey = rows(read_calibration(path, [info("x", "float32", "N", 1, 8, 8)]))
    assert grey.shape == (1, 1, 8, 8)
    open_size = [info("x", "float32", "N", None, None, None)]
    with pytest.raises(CalibrationError, match="layout= "):
        read_calibration(path, open_size)
    assert rows(read_calibration(path, open_size, ImageOptions(layout="nchw"))).shape == (1, 3, 8, 8)


def test_the_shorter_side_is_fitted_and_the_centre_kept(tmp_path):
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 200
    Image.fromarray(wide).save(tmp_path / "a.png")
    values = rows(read_calibration(tmp_path, [info("x", "float32", "N", 3, 10, 10)]))
    assert values.min() == 200
    squeezed = rows(
        read_calibration(tmp_path, [info("x", "float32", "N", 3, 10, 10)], ImageOptions(resize=(10, 10)))
    )
    assert squeezed.min() == 0
    with pytest.raises(CalibrationError, match="smaller than the input"):
        read_calibration(tmp_path, PICTURE, ImageOptions(resize=(4, 4)))


def test_images_that_cannot_be_used(tmp_path, monkeypatch):
    picture(tmp_path / "a.png")
    with pytest.raises(CalibrationError, match="images fit a model with one input"):
        read_calibration(tmp_path, PAIR)
    with pytest.raises(CalibrationError, match="4 axes"):
        read_calibration(tmp_path, VECTOR)
    picture(tmp_path / "b.png", (9, 9))
    with pytest.raises(CalibrationError, match="another size"):
        read_calibration(tmp_path, [info("x", "float32", "N", 3, "h", "w")])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(CalibrationError, match="refused"):
        read_calibration(tmp_path, PICTURE)
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(CalibrationError, match="not a readable image"):
        read_calibration(tmp_path, PICTURE)


@pytest.mark.parametrize("values", [np.uint16, np.int32, np.float32])
def test_deep_images_are_refused_rather_than_cut_off_at_255(tmp_path, values):
    Image.fromarray(np.linspace(0, 60000, 64).reshape(8, 8).astype(values)).save(tmp_path / "a.tif")
    with pytest.raises(CalibrationError, match="more than 8 bits"):
        read_calibration(tmp_path, PICTURE)


@pytest.mark.parametrize(
    "options, most",
    [
        ({"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}, "1111"),
        ({"mean": 0.5}, "254"),
        ({"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "scale": 1 / 255}, None),
        ({"mean": 127.5, "std": 127.5}, None),
        ({"std": 255}, None),
        ({"order": "bgr"}, None),
    ],
)
def test_numbers_for_pixels_of_0_to_1_are_asked_about(options, most):
    found = ImageOptions(**options).doubt
    assert found is None if most is None else f"up to {most} of them" in found


@pytest.mark.parametrize(
    "options",
    [{"std": (0.0,)}, {"scale": 0.0}, {"mean": (1.0, 2.0)}, {"layout": "chw"}, {"resize": (0, 3)}],
)
def test_image_options_out_of_range(options):
    with pytest.raises(UsageError):
        ImageOptions(**options)

"""Calibration from loaders, data sets and recorded sessions; samples whose shapes differ from one another."""

from __future__ import annotations

import threading
from collections import UserDict
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image
from support import model

import onnxmerge
from onnxmerge.data import read_calibration
from onnxmerge.data.recording import Recording
from onnxmerge.errors import CalibrationError, OutputError, UsageError
from onnxmerge.runtime import Runtime

RNG = np.random.default_rng(0)
RUNTIME = Runtime.create("cpu", 1)

# Lines of text of any width: a convolution over the width, and scores per column.
LINES = model("""g (float[N,1,8,W] image) => (float[N,5,1,W] y)
    <float[16,1,8,3] w, float[16] b, float[5,16,1,1] v> {
    c = Conv<pads = [0, 1, 0, 1]>(image, w, b)  r = Relu(c)  y = Conv(r, v) }""")  # fmt: skip
# A voice detector of the usual kind: a window, the state that the last call gave, and the rate.
VAD = model("""g (float[N,32] input, float[2,N,8] state, int64 sr) => (float[N,1] output, float[2,N,8] stateN)
    <float[32,24] w, float[24] b, float[24,24] w2, float[1,32,24] lw, float[1,32,8] lr, float[8,1] v> {
    h = Gemm(input, w, b)  r1 = Relu(h)  h2 = MatMul(r1, w2)  r = Relu(h2)
    zero = Constant<value_ints = [0]>()  x = Unsqueeze(r, zero)
    one = Constant<value_int = 1>()  first = Constant<value_int = 0>()
    h0 = Gather<axis = 0>(state, first)  c0 = Gather<axis = 0>(state, one)
    hs = Unsqueeze(h0, zero)  cs = Unsqueeze(c0, zero)
    seq, hn, cn = LSTM<hidden_size = 8>(x, lw, lr, , , hs, cs)
    stateN = Concat<axis = 0>(hn, cn)
    hh = Squeeze(hn, zero)  o = MatMul(hh, v)  s = Sigmoid(o)
    f = Cast<to = 1>(sr)  z = Sub(f, f)  output = Add(s, z) }""")  # fmt: skip
# One sound, without a batch axis: means over all of it.
SOUND = model("""g (float[T] wave) => (float[1,3] y) <float[12,1,5] w, float[3,12] v> {
    axes = Constant<value_ints = [0, 1]>()  x = Unsqueeze(wave, axes)
    c = Conv<pads = [2, 2]>(x, w)  r = Relu(c)  m = GlobalAveragePool(r)
    f = Flatten(m)  y = Gemm<transB = 1>(f, v) }""")  # fmt: skip
# Steps of a sequence without a batch axis: every row depends on its neighbours.
STEPS = model("""g (float[T,4] x) => (float[T,3] y) <float[6,4,3] w, float[6,3] v> {
    t = Transpose(x)  zero = Constant<value_ints = [0]>()  b = Unsqueeze(t, zero)
    c = Conv<pads = [1, 1]>(b, w)  r = Relu(c)
    s = Squeeze(r, zero)  u = Transpose(s)  y = MatMul(u, v) }""")  # fmt: skip


def session(proto):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])


def read(proto, what, **options):
    inner = RUNTIME.session(proto)
    return read_calibration(what, inner.inputs, run=inner.run, **options)


def small(proto, what, **options):
    return onnxmerge.optimize(proto, ratio=0.5, calibration=what, threads=1, device="cpu", **options).report


class Tensor:
    """What a tensor of another library looks like: on a device, trained, of a type that numpy lacks."""

    def __init__(self, values, ready=False, narrow=False):
        self.values, self.ready, self.narrow = np.asarray(values), ready, narrow

    def detach(self):
        return self

    def cpu(self):
        return Tensor(self.values, True, self.narrow)

    def float(self):
        return Tensor(self.values, self.ready)

    def numpy(self):
        if not self.ready:
            raise RuntimeError("on a device")
        if self.narrow:
            raise TypeError("unsupported ScalarType BFloat16")
        return self.values


class Loader:
    """As torch's DataLoader: a length, batches of pairs, and no items by number."""

    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


class Table:
    """As a Hugging Face dataset: rows by number, columns that are no inputs, no arrays."""

    column_names = ("text", "x", "label")

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, number):
        assert type(number) is int
        return self.rows[number]

    def __iter__(self):
        return iter(self.rows)


MLP = model("""g (float[N,4] x) => (float[N,3] y) <float[4,16] w, float[16] b, float[16,3] v> {
    h = Gemm(x, w, b)  r = Relu(h)  y = MatMul(r, v) }""")  # fmt: skip


# --- loaders and data sets -------------------------------------------------------------------------


def test_loaders_of_tensors_with_labels():
    batches = [[Tensor(RNG.standard_normal((size, 4))), Tensor([0] * size)] for size in (8, 8, 3)]
    data = read(MLP, Loader(batches))
    assert len(data) == 19 and data.ready is None
    assert data.source == "a Loader (the first 1 of 2 entries)"
    np.testing.assert_allclose(next(data.feeds(19))["x"][8], batches[1][0].values[0], rtol=1e-6)
    narrow = read(MLP, Loader([(Tensor(np.ones((2, 4)), narrow=True),)]))
    assert len(narrow) == 2
    assert small(MLP, Loader(batches))["calibration"]["samples"] == 19


def test_tables_of_rows_without_a_batch_axis():
    rows = [{"text": "a", "x": [float(i), 1, 2, 3], "label": i % 2} for i in range(100)]
    data = read(MLP, Table(rows), samples=10, seed=1)
    values = next(data.feeds(10))["x"][:, 0]
    assert data.source == "a Table (without text, label)"
    assert len(values) == 10 and np.all(np.diff(values) > 0) and values.max() > 50  # not the first ones
    with pytest.raises(CalibrationError, match="splits train, test: give one"):
        read(MLP, {"train": Table(rows), "test": Table(rows)})
    with pytest.raises(CalibrationError, match="names text, label; the model's inputs are x"):
        read(MLP, Table([{"text": "a", "label": 1}]))


def test_items_of_every_kind():
    x = RNG.standard_normal((6, 4)).astype(np.float32)
    pairs = [(UserDict(x=row), 1) for row in x]
    mixed = ([row, "what it says"] for row in x)  # as torch's loader makes of tuples
    for what in (
        list(x),
        tuple(x),
        pairs,
        mixed,
        [list(row) for row in x],
        ((row, 0) for row in x),
        map(np.asarray, x),
        Tensor(x, True),
    ):
        if isinstance(what, Tensor):
            what.__class__.__array__ = lambda self, *_, **__: self.values
        np.testing.assert_array_equal(next(read(MLP, what).feeds(6))["x"], x)
    del Tensor.__array__


def test_several_inputs_by_position_and_by_name():
    state, sr = np.zeros((2, 1, 8), np.float32), np.int64(16000)
    windows = RNG.standard_normal((5, 1, 32)).astype(np.float32)
    by_position = read(VAD, [(window, state, sr) for window in windows])
    by_name = read(VAD, ({"input": w, "state": state, "sr": sr} for w in windows))
    assert len(by_position) == len(by_name) == 5
    assert next(by_position.feeds())["sr"].shape == ()


# --- shapes that differ ----------------------------------------------------------------------------


def test_lines_of_different_widths_are_fed_one_by_one():
    widths = [int(w) for w in RNG.integers(12, 40, 48)]
    lines = [RNG.standard_normal((1, 8, w)).astype(np.float32) for w in widths]
    data = read(LINES, {"image": lines})
    assert [f["image"].shape for f in data.feeds()] == [(1, 1, 8, w) for w in widths]
    batched = [np.stack([line, line]) for line in lines[:3]]  # batches, each padded to a width of its own
    assert [f["image"].shape[0] for f in read(LINES, batched).feeds()] == [1] * 6
    report = small(LINES, lines)
    assert report["parity"]["samples"] + report["calibration"]["samples"] >= 48
    assert 0 < report["parity"]["change"] < 1 and report["parity"]["basis"] == "held out"
    assert (
        small(LINES, lines, recover=None, compensation="none")["parity"]["change"]
        > report["parity"]["change"]
    )


def test_pictures_of_lines_keep_their_widths(tmp_path):
    for number, width in enumerate([30, 44, 60, 44] * 3):
        values = RNG.integers(0, 256, (16, width)).astype(np.uint8)
        Image.fromarray(values).save(tmp_path / f"{number:02d}.png")
    data = read(LINES, tmp_path)
    assert [f["image"].shape for f in data.feeds()][:4] == [(1, 1, 8, w // 2) for w in (30, 44, 60, 44)]
    report = small(LINES, tmp_path)  # under every plausible convention, for nobody stated any
    assert report["calibration"]["samples"] > 0 and report["parity"]["conventions"]


def test_sounds_and_steps_without_a_batch_axis_are_whole():
    sounds = [RNG.standard_normal(n).astype(np.float32) for n in (50, 60, 50, 80)]
    assert [f["wave"].shape for f in read(SOUND, sounds, samples=3).feeds()] != []
    assert len(read(SOUND, sounds, samples=3)) == 3 and len(read(SOUND, [s[:50] for s in sounds])) == 4
    fixed = onnx.ModelProto.FromString(SOUND.SerializeToString())
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 50
    assert len(read(fixed, [s[:50] for s in sounds], samples=3)) == 3
    steps = [RNG.standard_normal((n, 4)).astype(np.float32) for n in (20, 20, 30)]
    assert [f["x"].shape for f in read(STEPS, steps).feeds()] == [(20, 4), (20, 4), (30, 4)]
    assert len(read(MLP, steps)) == 70  # here rows are samples
    assert small(SOUND, sounds * 10)["calibration"]["samples"] == 40


def test_inputs_that_are_empty_at_the_first_step_are_left_out():
    proto = model("""g (float[N,T,4] past, float[N,1,4] x) => (float[N,S,3] y) <float[4,8] w, float[8,3] v> {
        a = Concat<axis = 1>(past, x)  h = MatMul(a, w)  r = Relu(h)  y = MatMul(r, v) }""")  # fmt: skip
    feeds = [{"past": np.ones((1, t, 4)), "x": np.ones((1, 1, 4))} for t in (0, 1, 2)]
    data = read(proto, feeds)
    assert len(data) == 2 and "1 feeds with an empty input left out" in data.source
    with pytest.raises(CalibrationError, match="no feeds with anything in them"):
        read(proto, feeds[:1])


# --- recording -------------------------------------------------------------------------------------


def client(run, windows):
    """A detector's client: the state goes around."""
    state, found = np.zeros((2, 1, 8), np.float32), []
    for window in windows:
        feed = {"input": window[None], "state": state, "sr": np.array(16000, np.int64)}
        output, state = run(None, feed)
        found.append(float(output[0, 0]))
    return found


def test_a_recorded_session_with_states_is_calibration_data(tmp_path):
    inner = session(VAD)
    windows = RNG.standard_normal((120, 32)).astype(np.float32)
    expected = client(inner.run, windows)
    with onnxmerge.record(inner, tmp_path / "calib", limit=100) as recording:
        assert client(inner.run, windows) == expected
    assert recording.seen == 120 and recording.count == 100 and "run" not in vars(inner)
    files = sorted((tmp_path / "calib").iterdir())
    assert len(files) == 100 and {f.suffix for f in files} == {".npz"}
    data = read(VAD, tmp_path / "calib")
    assert len(data) == 100 and max(abs(f["state"]).max() for f in data.feeds()) > 0
    report = small(VAD, tmp_path / "calib")
    assert report["calibration"]["samples"] == 100 and report["parity"]["basis"] == "held out"
    assert report["output"]["macs"] < report["input"]["macs"]


def test_recordings_of_several_shapes_add_up(tmp_path):
    inner = session(LINES)
    for width in (20, 30):
        with onnxmerge.record(inner, tmp_path):
            for _ in range(3):
                inner.run(["y"], {"image": RNG.standard_normal((1, 1, 8, width)).astype(np.float32)})
    assert sorted(f["image"].shape[3] for f in read(LINES, tmp_path).feeds()) == [20] * 3 + [30] * 3


def test_a_recording_keeps_an_even_choice_within_its_bounds(tmp_path):
    inner = session(MLP)
    with onnxmerge.record(inner, tmp_path, limit=20) as recording:
        for i in range(400):
            inner.run(None, {"x": np.full((1, 4), i, np.float32)})
    first = sorted(f["x"][0, 0] for f in (dict(np.load(p)) for p in tmp_path.iterdir()))
    assert len(first) == 20 and 120 < np.mean(first) < 280
    each = recording.bytes // 20
    with onnxmerge.record(inner, tmp_path / "b", most_bytes=4 * each + 10) as bounded:
        for i in range(50):
            inner.run(None, {"x": np.full((1, 4), i, np.float32)})
        inner.run(None, {"x": np.zeros((500, 4), np.float32)})
    assert (
        bounded.count == 4 and bounded.bytes <= 4 * each + 10 and len(list((tmp_path / "b").iterdir())) == 4
    )


def test_threads_record_together(tmp_path):
    inner = session(MLP)
    with onnxmerge.record(inner, tmp_path, limit=64) as recording:
        work = [threading.Thread(target=lambda: [inner.run(None, {"x": np.ones((1, 4), np.float32)})
                                                 for _ in range(50)]) for _ in range(4)]  # fmt: skip
        for thread in work:
            thread.start()
        for thread in work:
            thread.join()
    assert recording.seen == 200 and recording.count == 64 == len(list(tmp_path.iterdir()))
    assert len(read(MLP, tmp_path)) == 64


def test_nested_recordings_and_wrappers_are_put_back(tmp_path):
    inner = session(MLP)
    feed = {"x": np.ones((1, 4), np.float32)}
    outer = onnxmerge.record(inner, tmp_path / "a")
    own = inner.run
    with onnxmerge.record(inner, tmp_path / "b"):
        inner.run(None, feed)
    assert inner.run is own
    inner.run = lambda *rest: own(*rest)  # somebody's wrapper, put on later
    outer.close()
    outer.close()
    assert len(inner.run(None, feed)) == 1 and outer.count == 1


def test_a_recording_never_disturbs_the_client(tmp_path, monkeypatch):
    inner = session(MLP)
    feed = {"x": np.ones((1, 4), np.float32)}
    with onnxmerge.record(inner, tmp_path / "calls") as recording:
        inner.run(None, feed)
        with pytest.raises(Exception, match="INVALID_ARGUMENT"):
            inner.run(None, {"x": np.ones((1, 5), np.float32)})
    assert recording.count == 1
    with pytest.raises(OutputError, match="stopped with 1 of 2 calls: OSError: disk full"):  # noqa: SIM117
        with onnxmerge.record(inner, tmp_path / "full"):
            inner.run(None, feed)
            monkeypatch.setattr(Path, "write_bytes", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
            assert len(inner.run(None, feed)) == 1
            assert len(inner.run(None, feed)) == 1
    assert "run" not in vars(inner) and all(p.suffix == ".npz" for p in (tmp_path / "full").iterdir())
    with pytest.warns(UserWarning, match="nothing was recorded"), onnxmerge.record(inner, tmp_path / "none"):
        pass


def test_recordings_that_cannot_begin(tmp_path):
    inner = session(MLP)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file: a recording is a folder"):
        onnxmerge.record(inner, tmp_path / "file")
    with pytest.raises(UsageError, match=r"session= is an onnxruntime\.InferenceSession"):
        onnxmerge.record("net.onnx", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(UsageError, match="limit="):
        onnxmerge.record(inner, tmp_path, limit=0)
    for folder in (tmp_path / "file" / "below", tmp_path / ("x" * 300) / "below"):
        with pytest.raises(OutputError, match="cannot make the folder"):
            onnxmerge.record(inner, folder)
    assert "run" not in vars(inner) and Recording.__name__ == "Recording"


def test_a_dataset_is_calibration_data():
    x = RNG.standard_normal((40, 4)).astype(np.float32)
    again = read(STEPS, onnxmerge.Dataset("steps of a run", {"x": x}))
    assert again.source == "steps of a run"
    np.testing.assert_array_equal(again.arrays["x"], x)
    lines = [{"image": RNG.standard_normal((1, 1, 8, w)).astype(np.float32)} for w in (24, 40)]
    ready = read(LINES, onnxmerge.Dataset("lines", ready=tuple(lines)))
    assert [f["image"].shape[-1] for f in ready.feeds()] == [24, 40]
    with pytest.raises(CalibrationError, match="inputs are image"):
        read(LINES, onnxmerge.Dataset("steps of a run", {"x": x}))


# --- more than is fitted ---------------------------------------------------------------------------


def test_samples_that_are_not_fitted_judge():
    x = RNG.standard_normal((300, 16)).astype(np.float32)
    text = """g (float[N,16] x) => (float[N,4] y) <float[16,32] w1, float[32,4] w2> {
        a = MatMul(x, w1)
        h = Relu(a)
        y = MatMul(h, w2) }"""
    proto, options = model(text), {"macs": 0.6, "threads": 1}
    found = {
        (samples, given): onnxmerge.optimize(proto, calibration=x[:given], samples=samples, **options).report
        for samples, given in ((200, 200), (200, 220), (200, 300), (40, 300))
    }
    counted = {key: (r.calibration.samples, r.parity.samples) for key, r in found.items()}
    assert counted == {
        (200, 200): (200, 48),
        (200, 220): (200, 48),
        (200, 300): (200, 50),
        (40, 300): (40, 48),
    }
    assert {(r.parity.basis, r.parity.repeated) for r in found.values()} == {("held out", 0)}

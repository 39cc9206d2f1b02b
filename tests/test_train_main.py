"""The trainer's command line: distillation without labels, and scripts."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch", reason="the trainer needs torch")
from train_nets import Residual, images  # noqa: E402

from onnxmerge import limits  # noqa: E402
from onnxmerge.graph import save  # noqa: E402
from onnxmerge.runtime import Runtime  # noqa: E402
from onnxmerge.train import shrink, to_onnx, wrap  # noqa: E402
from onnxmerge.train.__main__ import main  # noqa: E402


@pytest.fixture(scope="module")
def pair() -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """A model, and the same with two thirds of its inner channels cut out."""
    torch.manual_seed(0)
    module = Residual()
    teacher = to_onnx(module, images(2))
    masks = wrap(module, images(2))
    closed = next(place.gate.index.flatten() for place in masks.places if place.name == "second.weight")
    with torch.no_grad():
        masks.parameters[0][closed[:4]] = -1.0
    return teacher, shrink(masks, images(2)).model


def answers(model: onnx.ModelProto, inputs: np.ndarray) -> np.ndarray:
    return Runtime.create("cpu", 1).session(model).run({"input": inputs})["output"]


def run(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "onnxmerge.train", *arguments],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        **options,
    )


def test_a_student_is_taught(pair, tmp_path):
    save(pair[0], tmp_path / "teacher.onnx")
    save(pair[1], tmp_path / "student.onnx")
    np.save(tmp_path / "x.npy", images(128).numpy())
    np.save(tmp_path / "unseen.npy", images(32, seed=5).numpy())
    files = [str(tmp_path / name) for name in ("teacher.onnx", "student.onnx", "out.onnx")]
    data = ["--data", str(tmp_path / "x.npy"), "--held-out", str(tmp_path / "unseen.npy")]
    done = run("distill", *files, *data, "--bound", "60", "--batch", "16", "--threads", "1")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(
        r"recovery: held-out error [\d.]+ > [\d.]+, taken \(60 steps of 16, .*\)\n", done.stdout
    )
    taught, student = (onnx.load(tmp_path / name) for name in ("out.onnx", "student.onnx"))
    unseen = images(64, seed=6).numpy()
    expected = answers(pair[0], unseen)
    before, after = (np.linalg.norm(answers(m, unseen) - expected) for m in (student, taught))
    assert after < 0.8 * before
    done = run("distill", *files, *data, "--bound", "soon")
    assert (done.returncode, "--bound is a time such as 90s" in done.stderr) == (2, True)


def test_scripts_run_seeded(tmp_path):
    (tmp_path / "helper.py").write_text("word = 'beside'\n")
    script = tmp_path / "script.py"
    script.write_text("import sys, torch, helper\nprint(helper.word, sys.argv[1:], torch.rand(1).item())\n")
    done = run("run", "--seed", "7", str(script), "--epochs", "3")
    torch.manual_seed(7)
    assert done.stdout == f"beside ['--epochs', '3'] {torch.rand(1).item()}\n", done.stderr


def test_models_whose_weights_stay_in_files_are_taught(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "LIMITS", limits.Limits(in_files=1, mapped_tensor=64))
    names = ("teacher.onnx", "student.onnx", "out.onnx")
    for proto, name in zip(pair, names, strict=False):
        save(proto, tmp_path / name)
    np.save(tmp_path / "x.npy", images(32).numpy())
    files = [str(tmp_path / name) for name in names]
    options = ["--bound", "2", "--batch", "8", "--threads", "1", "--rate", "0.01"]
    assert main(["distill", *files, "--data", str(tmp_path / "x.npy"), *options]) == 0
    assert answers(onnx.load(tmp_path / "out.onnx"), images(2).numpy()).shape[0] == 2

"""Distillation without labels, from the package and from the command line."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch", reason="the trainer needs torch")
from train_nets import Residual, Vgg, images  # noqa: E402

from onnxmerge.errors import ModelError  # noqa: E402
from onnxmerge.graph import save  # noqa: E402
from onnxmerge.runtime import Runtime  # noqa: E402
from onnxmerge.train import Batches, Distillation, distill, shift_and_flip, shrink, to_onnx, wrap  # noqa: E402
from onnxmerge.train.distill import shared_tensors  # noqa: E402


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


def test_the_student_comes_nearer_on_inputs_it_has_not_seen(pair):
    teacher, student = pair
    data = Batches((images(256),), 32, augment=shift_and_flip(1))
    taught = distill(teacher, student, data, Distillation(steps=150, lr=3e-3))
    unseen = images(64, seed=5).numpy()
    expected = answers(teacher, unseen)
    before, after = (np.linalg.norm(answers(m, unseen) - expected) for m in (student, taught))
    assert after < 0.4 * before
    assert {t.name for t in taught.graph.initializer} == {t.name for t in student.graph.initializer}
    assert [len(t.dims) for t in taught.graph.initializer] == [len(t.dims) for t in student.graph.initializer]


def test_residual_sums_are_matched_where_their_shapes_agree(pair):
    teacher, student = pair
    names = shared_tensors(teacher, student, images(2), features=True)
    assert names[0] == "output"
    assert any("Add" in name for name in names[1:])
    assert shared_tensors(teacher, student, images(2), features=False) == ["output"]


def test_models_that_do_not_belong_together_are_refused(pair):
    other = to_onnx(Vgg(), images(2))
    other.graph.output[0].name = other.graph.node[-1].output[0] = "different"
    with pytest.raises(ModelError, match="different outputs"):
        distill(pair[0], other, Batches((images(8),), 4), Distillation(steps=1))


def test_normalisation_statistics_stay_unless_asked_for(pair):
    teacher, student = pair
    data = Batches((images(16),), 8)
    moved = []
    for follow in (False, True):
        taught = distill(teacher, student, data, Distillation(steps=2, batch_statistics=follow))
        before, after = (
            next(onnx.numpy_helper.to_array(t) for t in m.graph.initializer if t.name == "norm.running_mean")
            for m in (student, taught)
        )
        moved.append(not np.array_equal(before, after))
    assert moved == [False, True]


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


def test_command_line(pair, tmp_path):
    save(pair[0], tmp_path / "teacher.onnx")
    save(pair[1], tmp_path / "student.onnx")
    np.save(tmp_path / "x.npy", images(32).numpy())
    files = [str(tmp_path / name) for name in ("teacher.onnx", "student.onnx", "out.onnx")]
    options = f"--data {tmp_path / 'x.npy'} --steps 5 --batch 8 --threads 1 --augment".split()
    done = run("distill", *files, *options)
    assert done.returncode == 0, done.stderr
    taught, student = (onnx.load(tmp_path / name) for name in ("out.onnx", "student.onnx"))
    assert not np.array_equal(answers(taught, images(4).numpy()), answers(student, images(4).numpy()))
    np.savez(tmp_path / "two.npz", x=images(4).numpy(), y=np.zeros(4))
    done = run("distill", *files, "--data", str(tmp_path / "two.npz"))
    assert (done.returncode, "2 arrays" in done.stderr) == (4, True)


def test_scripts_run_seeded(tmp_path):
    (tmp_path / "helper.py").write_text("word = 'beside'\n")
    script = tmp_path / "script.py"
    script.write_text("import sys, torch, helper\nprint(helper.word, sys.argv[1:], torch.rand(1).item())\n")
    done = run("run", "--seed", "7", str(script), "--epochs", "3")
    torch.manual_seed(7)
    assert done.stdout == f"beside ['--epochs', '3'] {torch.rand(1).item()}\n", done.stderr

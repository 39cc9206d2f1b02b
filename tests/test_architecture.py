"""The shape of the house: layers, the public surface, the core without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import onnx.defs
import pytest

import onnxmerge
from onnxmerge.operators.table import OPERATORS

ROOT = Path(__file__).parents[1]


def test_imports_point_down_only():
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports; raise SystemExit(lint_imports())"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_public_names():
    assert onnxmerge.__all__ == [
        "Comparison", "Config", "Dataset", "ImageOptions", "Inspection", "OnnxMergeError", "Plan", "Recovery",
        "Report", "Result", "Sweep", "compare", "inspect", "optimize", "record", "sweep",
    ]  # fmt: skip
    for name in onnxmerge.__all__:
        assert getattr(onnxmerge, name).__name__ == name
    with pytest.raises(AttributeError, match="nothing"):
        _ = onnxmerge.nothing


def test_the_core_does_not_load_torch():
    code = "import sys, onnxmerge.pipeline, onnxmerge.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_modules_stay_small():
    long = {
        str(path.relative_to(ROOT)): lines
        for path in (ROOT / "onnxmerge").rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > 400
    }
    assert not long


# Where operators are known: their rules and traits, the form that rules are written for, and how torch
# computes them.
KNOWN_IN = ("operators/", "graph/canonicalize/", "train/executor/")
# Names of operators that stand elsewhere, and why.
ALLOWED = {
    ("graph/constants.py", "Constant"): "a way to store a tensor, like an initializer",
    ("graph/edit.py", "Add"): "what edits put into a graph is named once",
    ("graph/edit.py", "MatMul"): "likewise",
    ("graph/edit.py", "Mul"): "likewise",
    ("graph/edit.py", "Shape"): "likewise",
    ("graph/edit.py", "Where"): "likewise",
    ("train/__init__.py", "LeakyRelu"): "a straight-through estimator that the trainer exports",
    ("train/__init__.py", "Log"): "the trainer's record of a run",
    ("train/__init__.py", "Softplus"): "a straight-through estimator that the trainer exports",
}


def test_operators_are_known_in_one_place():
    """No name of an operator stands as a string anywhere else; what is asked of a node is asked there."""
    names = {schema.name for schema in onnx.defs.get_all_schemas_with_history()}
    names |= {name for _, name in OPERATORS}
    package = ROOT / "onnxmerge"
    found = set()
    for path in package.rglob("*.py"):
        place = path.relative_to(package).as_posix()
        if not place.startswith(KNOWN_IN):
            words = (node.value for node in ast.walk(ast.parse(path.read_text()))
                     if isinstance(node, ast.Constant))  # fmt: skip
            found |= {(place, word) for word in words if isinstance(word, str) and word in names}
    assert found == ALLOWED.keys()

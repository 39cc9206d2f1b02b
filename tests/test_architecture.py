"""The shape of the house: layers, the public surface, the core without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import onnxmerge

ROOT = Path(__file__).parents[1]


def test_imports_point_down_only():
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports; raise SystemExit(lint_imports())"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_public_names():
    assert onnxmerge.__all__ == [
        "Config", "Dataset", "ImageOptions", "Inspection", "OnnxMergeError", "Plan", "Report", "Result",
        "Sweep", "inspect", "optimize", "sweep",
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

"""Errors that nobody foresaw: a sentence for the user, the traceback for who asks for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxmerge.cli import main

DIGITS = Path(__file__).parents[1] / "models" / "digits.onnx"


@pytest.mark.parametrize("verbose", [(), ("-v",)], ids=["", "-v"])
@pytest.mark.parametrize("verb", [(), ("inspect",), ("sweep",)], ids=["optimize", "inspect", "sweep"])
@pytest.mark.parametrize(
    "failure, words",
    [
        (KeyError("nobody\n thought of it"), "KeyError: 'nobody"),
        (RecursionError("maximum recursion depth exceeded"), "RecursionError: maximum recursion depth"),
        (AssertionError(), "AssertionError ("),
    ],
    ids=["KeyError", "RecursionError", "AssertionError"],
)
def test_what_nobody_foresaw_is_one_sentence(failure, words, verb, verbose, tmp_path, capsys, monkeypatch):
    def fail(*_, **__):
        raise failure

    monkeypatch.setattr("onnxmerge.preparation.explain", fail)
    out = tmp_path / "out.onnx"
    paths = (DIGITS,) if verb else (DIGITS, out)
    assert main([*verb, *map(str, paths), *verbose]) == 9
    message = capsys.readouterr().err
    assert f"onnxmerge: error: a defect of onnxmerge: {words}" in message
    assert "test_defects.py:" in message and "please report it" in message
    assert ("Traceback" in message) == bool(verbose)
    assert message.splitlines()[-1].startswith("onnxmerge: error:")
    assert verbose or "\n" not in message.strip()
    assert not out.exists()

"""Models from standard input and to standard output, which ``-`` stands for."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from onnxmerge.errors import ModelError, OnnxMergeError, OutputError, UsageError

STREAM = "-"


@contextmanager
def incoming(name: str) -> Iterator[Path]:
    """The file of a model; what comes from standard input is kept in a temporary one meanwhile.

    Raises:
        ModelError: nothing comes.
    """
    if name != STREAM:
        yield Path(name)
        return
    from onnxmerge.graph.external_weights import Scratch

    scratch = Scratch()
    path = scratch.path / "input.onnx"
    try:
        with path.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
    except OSError as error:
        raise scratch.failure(error) from error
    if not path.stat().st_size:
        raise ModelError("standard input is empty: pipe a model into it, or name a file in the place of -")
    try:
        yield path
    except OnnxMergeError as error:
        said = str(error).replace(str(path), "standard input").replace(str(scratch.path), "standard input")
        raise type(error)(said) from error


def ensure_pipe(output: str, *, printed: bool) -> None:
    """Refuse an output on a standard output that is a terminal, or that something else is printed on.

    Args:
        printed: whether a report goes there.

    Raises:
        UsageError: it cannot go there.
    """
    if output != STREAM:
        return
    if printed:
        raise UsageError("the output is - and --json prints the report there, too: name a file for one")
    if sys.stdout.isatty():
        raise UsageError("the output is - and standard output is a terminal: redirect it, or name a file")


def to_stdout(save: Callable[[Path], None]) -> None:
    """Write a model on standard output.

    Args:
        save: writes it to a path.

    Raises:
        UsageError: its weights need a file of their own.
        OutputError: it cannot be written.
    """
    from onnxmerge.graph.external_weights import Scratch

    scratch = Scratch()
    path = scratch.path / "output.onnx"
    save(path)
    if path.with_name(f"{path.name}.data").exists():
        raise UsageError("the weights of this model need a file of their own: name OUT in the place of -")
    try:
        with path.open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.buffer.flush()
    except OSError as error:
        silence_stdout()
        raise OutputError(f"cannot write to standard output: {error.strerror or error}") from error


def silence_stdout() -> None:
    """Let what Python still flushes on its way out go nowhere: the reader has closed its end."""
    with suppress(OSError):  # where there is no file behind it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

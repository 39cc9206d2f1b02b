"""The user's own measure, named on the command line: ``module:function`` or ``path/to/file.py:function``."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any

from onnxmerge.errors import UsageError, in_one_line


def evaluator(text: str | None) -> Callable[[Any], Any] | None:
    """The function that a text names; what it prints goes to stderr, for stdout is the program's.

    Modules are looked for in the current folder, too; a file may import what lies beside it.

    Raises:
        UsageError: there is no such module, file or function, or importing it fails.
    """
    if text is None:
        return None
    place, _, name = text.rpartition(":")
    if not place or not name:
        raise UsageError(f"--eval {text}: name a function as module:function or path/to/file.py:function")
    path = Path(place)
    by_path = path.suffix == ".py"
    if by_path and not os.path.isfile(path):
        raise UsageError(f"--eval {text}: there is no file {place}")
    module = _imported(text, place, path if by_path else None)
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        own = [key for key, value in vars(module).items()
               if callable(value) and getattr(value, "__module__", "") == module.__name__]  # fmt: skip
        listed = f"; it has {', '.join(own)}" if own else ""
        raise UsageError(f"--eval {text}: {place} has no function {name}{listed}")
    return _printing_to_stderr(found)


def _imported(text: str, place: str, path: Path | None) -> ModuleType:
    folder = str(path.resolve().parent if path is not None else Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return importlib.import_module(place) if path is None else _loaded(path)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == place:
            raise UsageError(f"--eval {text}: there is no module {place} here or on the path") from error
        raise UsageError(f"--eval {text}: importing {place} failed: {in_one_line(error)}") from error


def _loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None, "it is a .py file"
    module = importlib.util.module_from_spec(spec)
    # Where pickles, dataclasses and worker processes of the function look for its module.
    sys.modules.setdefault(path.stem, module)
    spec.loader.exec_module(module)
    return module


def _printing_to_stderr(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @wraps(function)
    def evaluate(session: Any) -> Any:
        with contextlib.redirect_stdout(sys.stderr):
            return function(session)

    return evaluate

"""Options from a file: TOML, JSON, or the report of an earlier run, which does the same again.

A key is the long name of an option without its dashes (``eval-calib``), or its name in Python
(``evaluation``). What the command line says counts more. Paths are relative to where the program runs.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from onnxmerge.arguments import nearest
from onnxmerge.errors import UsageError

# What functions call otherwise than the command line does, beside the names of ``Config``.
_IN_PYTHON = {"calibration": "calib", "evaluation": "eval-calib"}


def read_settings(path: Path, options: Mapping[str, argparse.Action]) -> dict[str, Any]:
    """The settings of a file, by the destinations of the options.

    Args:
        options: by their long names without dashes.

    Raises:
        UsageError: the file cannot be read, holds a name that is no option, or a value of the wrong type.
    """
    content, recorded = _content(path, options)
    # Where an option is called otherwise in ``Config``, its destination is the name there.
    names = {action.dest: name for name, action in options.items()} | _IN_PYTHON
    found: dict[str, Any] = {}
    for key, value in _flat(content).items():
        if value is None:
            continue
        name = key if key in options else names.get(key, key.replace("_", "-"))
        if name.startswith("no-") and key == options[name].dest:
            found[key] = _truth(path, key, value)
        elif name in options and name != "config":
            found[options[name].dest] = _value(path, key, options[name], value)
        # A report names every option there is, also those that this verb does not have.
        elif not recorded:
            known = [option for option in options if option != "config"]
            raise UsageError(f"{path} sets '{key}', which is no option here{nearest(name, known)}")
    return {name: value for name, value in found.items() if value is not argparse.SUPPRESS}


def _content(path: Path, options: Mapping[str, argparse.Action]) -> tuple[dict[str, Any], bool]:
    """What a file says, and whether it is the record of a run."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read --config {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"--config {path} is no text in UTF-8") from error
    as_json = path.suffix.lower() == ".json" or text.lstrip().startswith("{")
    try:
        content = json.loads(text) if as_json else tomllib.loads(text)
    except (json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"--config {path} is no {'JSON' if as_json else 'TOML'}: {error}") from error
    if not isinstance(content, dict):
        raise UsageError(f"--config {path} is no table of options")
    if "schema_version" in content and isinstance(content.get("config"), dict):
        if "macs" in options and (content.get("asked") or {}).get("kind") == "plan":
            raise UsageError(
                f"{path} is the report of a plan that was applied: onnxmerge apply does it again"
            )
        return content["config"], True
    return content, _names_everything(content)


def _names_everything(content: Mapping[str, Any]) -> bool:
    """Whether this is the configuration out of a report, by itself."""
    from onnxmerge.config import Config

    return {f.name for f in fields(Config)} <= set(content)


def _flat(content: Mapping[str, Any]) -> dict[str, Any]:
    """The options of images among the others, as the command line has them."""
    images = content.get("images")
    rest = {key: value for key, value in content.items() if key != "images" or value is not None}
    if isinstance(images, dict):
        del rest["images"]
        rest |= images
    return rest


def _value(path: Path, key: str, action: argparse.Action, value: Any) -> Any:
    """A value as the command line would have given it; what ``Config`` checks it checks."""
    if action.nargs == 0 and key == action.dest and isinstance(action.const, str):
        # Flags that exclude one another stand for the values of one option.
        return _typed(path, key, action, value)
    if action.nargs == 0:
        if key == action.dest and isinstance(action.const, str):
            return value  # of several flags the one that stands for this
        return action.const if _truth(path, key, value) else argparse.SUPPRESS
    if action.dest == "recover":
        return _recovery(path, value)
    if action.nargs == "+":
        if isinstance(value, dict):
            return list(value.items())
        several = value if isinstance(value, list) else [value]
        return [_typed(path, key, action, item) for item in several]
    return _typed(path, key, action, value)


def _typed(path: Path, key: str, action: argparse.Action, value: Any) -> Any:
    """A text as the option's type; without a type the option takes texts only."""
    if isinstance(value, str) and callable(action.type):
        try:
            return action.type(value)
        except (argparse.ArgumentTypeError, ValueError) as error:
            raise UsageError(f"{path}: '{key}' cannot be {value!r} ({error})") from error
    if not isinstance(value, str) and (action.type is None or action.nargs == "+"):
        raise UsageError(f"{path}: '{key}' is a text, not {value!r}")
    return tuple(value) if isinstance(value, list) else value


def _truth(path: Path, key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"{path}: '{key}' is true or false, not {value!r}")
    return value


def _recovery(path: Path, value: Any) -> Any:
    """``true``, a bound, or a table of all options of recovery, as reports have it."""
    if isinstance(value, dict):
        from onnxmerge.config import Recovery

        try:
            return Recovery(**value)
        except TypeError as error:
            raise UsageError(f"{path}: 'recover' has an option that there is not ({error})") from error
    return argparse.SUPPRESS if value is False else value

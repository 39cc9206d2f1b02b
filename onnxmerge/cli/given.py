"""What was said on the command line, as options of the package; and its messages in flags."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxmerge.cli.parser import Parser
from onnxmerge.errors import UsageError

if TYPE_CHECKING:
    from onnxmerge.config import Config

_BUDGETS = ("ratio", "macs", "params", "latency")
_CONFIG = {
    "ratio", "macs", "params", "latency", "tolerance", "max_drop", "lower_is_better", "criterion",
    "compensation", "threshold", "trade_off", "shift_weight", "spread_weight", "target", "allocation",
    "align", "patches", "scope", "skip", "only", "samples", "seed", "depth", "shapes", "output_kinds",
    "examples", "recover", "precision", "threads", "device",
}  # fmt: skip
_IMAGES = ("mean", "std", "scale", "order", "layout", "resize")
# Of functions, and not of ``Config``.
_OTHERS = ("steps", "force", "max_change", "max_latency")

# The flag of every argument.
_ARGUMENTS = {name: f"--{name.replace('_', '-')}" for name in (*_CONFIG, *_IMAGES, *_OTHERS)}
_ARGUMENTS |= {"trade_off": "--lambda", "shift_weight": "--lambda1", "spread_weight": "--lambda2"}
_ARGUMENTS |= {"shapes": "--shape", "output_kinds": "--output-kind"}
_ARGUMENTS |= {"calibration": "--calib", "evaluation": "--eval-calib", "evaluate": "--eval"}
_ARGUMENTS |= {"lower_is_better": "--eval-lower-is-better", "precision": "--int8 or --fp16"}


def parsed(parser: Parser, arguments: Sequence[str]) -> argparse.Namespace:
    """What was said on the command line, else in the file of ``--config``, else the defaults.

    Raises:
        UsageError: what does not parse; and options in a file that are out of range, or that there are not.
    """
    said, usual = parser.given(arguments)
    settings: dict[str, Any] = {}
    if "config" in said:
        from onnxmerge.cli.settings import read_settings

        path = Path(said["config"])
        settings = read_settings(path, parser.options())
        try:
            config_of(argparse.Namespace(**settings))
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from error
    if any(name in said for name in _BUDGETS):
        # Another budget takes the place of the file's.
        settings = {name: value for name, value in settings.items() if name not in _BUDGETS}
    return argparse.Namespace(**(usual | settings | said))


def config_of(options: argparse.Namespace) -> Config:
    """The Config of parsed options; what a verb does not offer keeps its default.

    Raises:
        UsageError: options that are out of range or contradict one another.
    """
    from onnxmerge.config import Config

    return Config(**given_options(options))


def given_options(options: argparse.Namespace) -> dict[str, Any]:
    """The options of Config that were given, by its names.

    Raises:
        UsageError: options of images that are out of range.
    """
    from onnxmerge.data import ImageOptions

    given = {name: value for name, value in vars(options).items() if name in _CONFIG}
    given = {name: value for name, value in given.items() if value != []}
    for name in ("shapes", "output_kinds"):
        if name in given:
            given[name] = dict(given[name])
    if given.get("recover") == "":
        given["recover"] = True
    images = {name: getattr(options, name, None) for name in _IMAGES}
    if any(value is not None for value in images.values()):
        given["images"] = ImageOptions(**{k: v for k, v in images.items() if v is not None})
    return given


def in_flags(message: str) -> str:
    """A message of the package, which names arguments (``macs=``), in the words of the command line."""
    return re.sub(rf"\b({'|'.join(_ARGUMENTS)})=(?=[\s,;:.)]|$)", lambda m: _ARGUMENTS[m[1]], message)

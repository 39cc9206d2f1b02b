"""A parser whose help has a first screen, and whose mistakes are one sentence."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Any, NoReturn

from onnxmerge.cli.values import BOUND
from onnxmerge.errors import UsageError


class Parser(argparse.ArgumentParser):
    """One verb's parser.

    Args:
        examples: what the first screen begins with.
        first: the options that it shows; empty: all of them, and there is no second one.
        more: what the whole help ends with.
    """

    def __init__(
        self, *, examples: str = "", first: Iterable[str] = (), more: str = "", **options: Any
    ) -> None:
        super().__init__(
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            add_help=False,
            # What is not given keeps the default of Config, which stands there alone; help repeats it.
            argument_default=argparse.SUPPRESS,
            epilog=more,
            **options,
        )
        self._examples, self._first = examples, tuple(first)
        self._greedy = False
        self.add_argument("-h", "--help", action=_Help, nargs=0, help="the options that matter most")
        self.add_argument("--help-all", action=_HelpAll, nargs=0, help="all options, and the exit codes")

    def error(self, message: str) -> NoReturn:
        """Raise UsageError in the place of printing and leaving."""
        hint = ""
        if self._greedy and message.startswith("the following arguments are required"):
            hint = "; options that take several values stand behind them"
        raise UsageError(f"{message}{hint} (see {self.prog} --help)")

    def first_screen(self) -> str:
        """The help with the examples and the options that matter most."""
        if not self._first:
            return self.format_help()
        formatter = self._get_formatter()
        formatter.add_text(self.description)
        formatter.add_text(self._examples)
        formatter.start_section("options")
        options = self.options()
        formatter.add_arguments([options[name.removeprefix("--")] for name in self._first])
        formatter.end_section()
        formatter.add_text(f"{self.prog} --help-all lists all options and the exit codes.")
        return formatter.format_help()

    def options(self) -> dict[str, argparse.Action]:
        """What can be given by name, by the long name without its dashes."""
        return {
            name.removeprefix("--"): action
            for action in self._actions
            for name in action.option_strings
            if name.startswith("--") and not isinstance(action, _Help | Version | Completion)
        }

    def given(self, arguments: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
        """What was said, and the defaults of everything that can be said, both by destination.

        Raises:
            UsageError: something that does not parse.
        """
        usual = {a.dest: a.default for a in self._actions if a.default is not argparse.SUPPRESS}
        for action in self._actions:
            action.default = argparse.SUPPRESS
            self._greedy |= action.nargs == "+" and bool(set(action.option_strings) & set(arguments))
        said, unknown = self.parse_known_args(_with_bare_recover(arguments))
        if unknown:
            self._refuse(unknown)
        return vars(said), usual

    def _refuse(self, unknown: Sequence[str]) -> NoReturn:
        from onnxmerge.arguments import nearest  # imports numpy: not for --help

        name = unknown[0].split("=")[0]
        if not name.startswith("-"):
            self.error(f"'{name}' is one argument too many")
        known = [f"--{option}" for option in self.options()]
        shorter = [option for option in known if name.startswith(option)]
        hint = f"; did you mean '{shorter[0]}'?" if shorter else nearest(name, known)
        self.error(f"there is no option {name}{hint}")


class _Help(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        assert isinstance(parser, Parser)
        sys.stdout.write(self.text(parser))
        sys.stdout.flush()
        parser.exit()

    def text(self, parser: Parser) -> str:
        return parser.first_screen()


class _HelpAll(_Help):
    def text(self, parser: Parser) -> str:
        return parser.format_help()


class Version(argparse.Action):
    """Prints the version and leaves."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from onnxmerge.version import __version__

        print(f"onnxmerge {__version__}")
        parser.exit()


class Completion(argparse.Action):
    """Prints the completions for a shell and leaves."""

    def __call__(self, parser: argparse.ArgumentParser, _: object, shell: Any, *__: object) -> NoReturn:
        from onnxmerge.cli.completion import script

        print(script(str(shell)))
        parser.exit()


def _with_bare_recover(arguments: Sequence[str]) -> list[str]:
    """The arguments, ``--recover`` before anything but a bound told to take nothing.

    An option whose value may be missing would take IN for it.
    """
    followers = zip_longest(arguments, arguments[1:], fillvalue="")
    return [
        "--recover=" if word == "--recover" and not BOUND.fullmatch(follower) else word
        for word, follower in followers
    ][: len(arguments)]

"""Shell completion, as a script that the shell reads once: nothing is started while somebody types.

shtab makes it from the parsers, for bash, zsh and others. argcomplete would start Python, and this program,
at every TAB.
"""

from __future__ import annotations

import argparse

from onnxmerge.cli.parser import Parser
from onnxmerge.errors import UsageError

# Options whose value is a file or a folder.
_PATHS = ("calib", "eval_calib", "report", "config", "plot", "save", "model", "other", "output", "plan")


def script(shell: str) -> str:
    """The completions of all verbs.

    Raises:
        UsageError: a shell that there are none for, or shtab is not installed.
    """
    try:
        import shtab
    except ImportError as error:
        raise UsageError('--print-completion needs shtab: pip install "onnxmerge[completion]"') from error
    if shell not in shtab.SUPPORTED_SHELLS:
        raise UsageError(f"there are completions for {', '.join(shtab.SUPPORTED_SHELLS)}, not for {shell}")
    from onnxmerge.cli.main import VERBS
    from onnxmerge.cli.options import optimize_parser

    parser = optimize_parser()
    # What stands first is a file or a verb: verbs become a parser's choices, beside the options.
    for action in [a for a in parser._actions if not a.option_strings]:
        parser._remove_action(action)
    verbs = parser.add_subparsers(dest="verb", parser_class=_adopted)  # type: ignore[call-overload]
    for name, (made, _) in VERBS.items():
        own = made()
        verbs.add_parser(name, own=own, help=own.description)
    for one in (parser, *verbs.choices.values()):
        for action in one._actions:
            if action.dest in _PATHS:
                action.complete = shtab.FILE
    return shtab.complete(parser, shell=shell)


def _adopted(*, own: Parser, **_: object) -> argparse.ArgumentParser:
    """The parser of a verb, as it is."""
    return own

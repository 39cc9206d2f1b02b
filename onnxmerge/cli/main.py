"""The command line: arguments -> one verb -> its exit code. No logic of its own."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence

from onnxmerge.cli import options as parsers
from onnxmerge.cli import verbs
from onnxmerge.cli.given import in_flags, parsed
from onnxmerge.cli.parser import Parser
from onnxmerge.cli.signals import Terminated, raise_when_asked
from onnxmerge.cli.streams import silence_stdout
from onnxmerge.errors import InternalError, ModelError, OnnxMergeError, UsageError, in_one_line

# As the shell gives them for programs that a signal ends.
INTERRUPTED, UNREAD, TERMINATED = 130, 141, 143

Verb = tuple[Callable[[], Parser], Callable[[argparse.Namespace], None]]
_MAIN: Verb = (parsers.optimize_parser, verbs.optimize)
VERBS: dict[str, Verb] = {
    "inspect": (parsers.inspect_parser, verbs.inspect),
    "sweep": (parsers.sweep_parser, verbs.sweep),
    "plan": (parsers.plan_parser, verbs.plan),
    "apply": (parsers.apply_parser, verbs.apply),
    "compare": (parsers.compare_parser, verbs.compare),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    verb = arguments[0] if arguments and arguments[0] in VERBS else None
    parser, action = VERBS[verb] if verb else _MAIN
    verbose = False
    try:
        options = parsed(parser(), arguments[1:] if verb else arguments)
        verbose = options.verbose
        options.command = shlex.join(["onnxmerge", *arguments])
        action(options)
    except OnnxMergeError as error:
        return _fail(in_flags(str(error)) + _meant(error, arguments), error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted; nothing was written", INTERRUPTED)
    except Terminated:
        return _fail("terminated; nothing was written", TERMINATED)
    except BrokenPipeError:
        silence_stdout()
        return UNREAD
    except MemoryError:
        return _fail("not enough memory; fewer --samples need less", ModelError.exit_code)
    except Exception as error:  # whatever nobody foresaw: a user is owed a sentence all the same
        if verbose:
            traceback.print_exc()
        return _fail(_unforeseen(error, shown=verbose), InternalError.exit_code)
    return 0


def _meant(error: OnnxMergeError, arguments: Sequence[str]) -> str:
    """What was taken for a model, and looks like a verb."""
    if not isinstance(error, UsageError | ModelError) or not arguments:
        return ""
    if arguments[0] in VERBS or os.path.lexists(arguments[0]):
        return ""
    from onnxmerge.arguments import nearest

    return nearest(arguments[0], VERBS)


def _unforeseen(error: Exception, *, shown: bool) -> str:
    """What to say of an error that is a defect of this program, in one line."""
    more = "the lines above" if shown else "what -v prints"
    return (
        f"a defect of onnxmerge: {in_one_line(error)}; "
        f"please report it with the command, {more}, and the model if it may be shared"
    )


def _fail(message: str, code: int) -> int:
    print(f"onnxmerge: error: {message}", file=sys.stderr)
    return code


def run() -> None:
    """The installed program."""
    raise_when_asked()
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:  # of --help, too
        silence_stdout()
        code = UNREAD
    sys.exit(code)

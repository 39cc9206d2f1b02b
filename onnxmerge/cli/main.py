"""The command line: arguments -> Config -> one call of the package -> printed result. No logic of its own."""

from __future__ import annotations

import argparse
import shlex
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from onnxmerge.cli.options import config_of, in_flags, inspect_parser, optimize_parser, sweep_parser
from onnxmerge.errors import InternalError, ModelError, OnnxMergeError, UsageError

if TYPE_CHECKING:
    from onnxmerge.report import Inspection, Report, Sweep

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    verb = arguments[0] if arguments and arguments[0] in _VERBS else None
    parser, action = _VERBS[verb] if verb else (optimize_parser, _optimize)
    options = parser().parse_args(arguments[1:] if verb else arguments)
    options.command = shlex.join(["onnxmerge", *arguments])
    try:
        action(options)
    except OnnxMergeError as error:
        return _fail(in_flags(str(error)), error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted; nothing was written", INTERRUPTED)
    except MemoryError:
        return _fail("not enough memory; fewer --samples need less", ModelError.exit_code)
    except Exception as error:  # whatever nobody foresaw: a user is owed a sentence all the same
        if options.verbose:
            traceback.print_exc()
        return _fail(_unforeseen(error, shown=options.verbose), InternalError.exit_code)
    return 0


def _unforeseen(error: Exception, *, shown: bool) -> str:
    """What to say of an error that is a defect of this program, in one line."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    said = " ".join(str(error).split())[:300].rstrip(". ")
    what = f"{type(error).__name__}{': ' if said else ''}{said}"
    more = "the lines above" if shown else "what -v prints"
    return (
        f"a defect of onnxmerge: {what} ({Path(last.filename).name}:{last.lineno}); "
        f"please report it with the command, {more}, and the model if it may be shared"
    )


def _fail(message: str, code: int) -> int:
    print(f"onnxmerge: error: {message}", file=sys.stderr)
    return code


# What follows is imported late, so that --help and mistakes in the options are answered at once.


def _optimize(options: argparse.Namespace) -> None:
    from onnxmerge.cli.terminal import Terminal
    from onnxmerge.graph.output import check_output
    from onnxmerge.pipeline import optimize

    source, target = Path(options.model), Path(options.output)
    check_output(source, target, clobber=not options.no_clobber)
    _check_side_outputs(options.report, source=source, target=target)
    config = config_of(options)
    terminal = Terminal(quiet=options.quiet, verbose=options.verbose, words=in_flags)
    with terminal.progress() as progress:
        result = optimize(
            source, calibration=options.calib, evaluation=options.eval_calib, config=config, progress=progress
        )
        # The report first: an error must leave no OUT.
        _save(result.report, options)
        result.save(target)
    with _after_writing(target):
        terminal.summary(result.report, target)


@contextmanager
def _after_writing(target: Path) -> Iterator[None]:
    """What fails now fails after the work was done, and must not say that nothing was written."""
    try:
        yield
    except (KeyboardInterrupt, BrokenPipeError):
        print(f"onnxmerge: {target} was written; its summary could not be shown", file=sys.stderr)


def _inspect(options: argparse.Namespace) -> None:
    from onnxmerge.cli.terminal import Terminal
    from onnxmerge.pipeline import inspect

    source = Path(options.model)
    _check_side_outputs(options.report, source=source)
    terminal = Terminal(quiet=options.quiet, verbose=options.verbose, words=in_flags)
    with terminal.progress() as progress:
        report = inspect(source, config=config_of(options), progress=progress)
    _save(report, options)
    terminal.inspection(report)


def _sweep(options: argparse.Namespace) -> None:
    from onnxmerge.cli.terminal import Terminal
    from onnxmerge.pipeline import sweep

    source = Path(options.model)
    _check_side_outputs(options.report, options.plot, source=source)
    terminal = Terminal(quiet=options.quiet, verbose=options.verbose, words=in_flags)
    with terminal.progress() as progress:
        report = sweep(
            source,
            steps=options.steps,
            calibration=options.calib,
            evaluation=options.eval_calib,
            config=config_of(options),
            progress=progress,
        )
    _save(report, options)
    if options.plot is not None:
        from onnxmerge.cli.plot import save_curve

        save_curve(report, Path(options.plot))
    terminal.curve(report)


def _save(report: Report | Inspection | Sweep, options: argparse.Namespace) -> None:
    """Write the report where that was asked for, with the command that made it.

    A page is for the person who gave the command, and speaks of flags; JSON is the same from everywhere.
    """
    from onnxmerge.report import is_page

    if options.report is None:
        return
    words = in_flags if is_page(options.report) else str
    warnings = tuple(map(words, report.warnings))
    replace(report, command=options.command, warnings=warnings).save(options.report)


def _check_side_outputs(*names: str | None, source: Path, target: Path | None = None) -> None:
    """Refuse reports and plots that cannot be written or would fall on another file, before any work."""
    from onnxmerge.graph.output import check_output, same_file

    taken = [] if target is None else [target]
    for path in (Path(name) for name in names if name is not None):
        check_output(source, path, clobber=True)
        for other in taken:
            if same_file(path, other):
                raise UsageError(f"{path} is named twice as an output; name another file")
        taken.append(path)


_VERBS = {"inspect": (inspect_parser, _inspect), "sweep": (sweep_parser, _sweep)}


def run() -> None:
    """The installed program."""
    sys.exit(main())

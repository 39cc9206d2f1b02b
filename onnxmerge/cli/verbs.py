"""What each verb does with its options: one call of the package, its files, its printed result."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxmerge.cli.evaluator import evaluator
from onnxmerge.cli.given import config_of, given_options, in_flags
from onnxmerge.cli.signals import Terminated
from onnxmerge.cli.streams import STREAM, ensure_pipe, incoming, silence_stdout, to_stdout
from onnxmerge.errors import UsageError

if TYPE_CHECKING:
    from onnxmerge.cli.terminal import Terminal
    from onnxmerge.report import Comparison, Inspection, Report, Sweep
    from onnxmerge.result import Result

# What follows is imported late, so that --help and mistakes in the options are answered at once.


def optimize(options: argparse.Namespace) -> None:
    """``onnxmerge IN OUT``."""
    terminal = _prepared(options, output=options.output)
    with incoming(options.model) as source:
        result = _optimized(source, options, terminal)
        _finish(result, options, terminal)


def apply(options: argparse.Namespace) -> None:
    """``onnxmerge apply IN PLAN OUT``."""
    from onnxmerge.plan import Plan

    terminal = _prepared(options, output=options.output, also=[options.plan])
    plan = Plan.load(options.plan)
    with incoming(options.model) as source:
        result = _optimized(source, options, terminal, plan=plan, force=options.force)
        _finish(result, options, terminal)


def plan(options: argparse.Namespace) -> None:
    """``onnxmerge plan IN --save FILE``."""
    terminal = _prepared(options, output=options.save)
    with incoming(options.model) as source:
        result = _optimized(source, options, terminal)
    _save(result.report, options)
    if options.save == STREAM:
        sys.stdout.write(result.plan.to_toml())
    else:
        with _written(Path(options.save)) as path:
            result.plan.save(path)
    with _after_writing(options.save):
        terminal.planned(result.report, options.save)


def _optimized(source: Path, options: argparse.Namespace, terminal: Terminal, **decided: Any) -> Result:
    """The run behind three verbs.

    Args:
        decided: the plan to apply, where there is one.
    """
    from onnxmerge.pipeline import optimize

    evaluate = evaluator(options.evaluate)
    with terminal.progress() as progress:
        return optimize(
            source,
            calibration=options.calib,
            evaluation=options.eval_calib,
            evaluate=evaluate,
            progress=progress,
            **given_options(options),
            **decided,
        )


def compare(options: argparse.Namespace) -> None:
    """``onnxmerge compare A B``."""
    from onnxmerge.comparison import compare

    if options.model == options.other == STREAM:
        raise UsageError("both models are - : only one of them can come from standard input")
    terminal = _prepared(options, also=[options.other])
    with incoming(options.model) as first, incoming(options.other) as second, terminal.progress() as progress:
        report = compare(
            first, second, calibration=options.calib, progress=progress, **given_options(options)
        )
    _save(report, options)
    terminal.comparison(report)
    report.require(max_change=options.max_change, max_latency=options.max_latency)


def inspect(options: argparse.Namespace) -> None:
    """``onnxmerge inspect IN``."""
    from onnxmerge.pipeline import inspect

    terminal = _prepared(options)
    with incoming(options.model) as source, terminal.progress() as progress:
        report = inspect(source, config=config_of(options), progress=progress)
    _save(report, options)
    terminal.inspection(report)


def sweep(options: argparse.Namespace) -> None:
    """``onnxmerge sweep IN``."""
    from onnxmerge.pipeline import sweep

    terminal = _prepared(options, plot=options.plot)
    if options.plot is not None:
        from onnxmerge.cli.plot import ensure_drawn, save_curve

        ensure_drawn(Path(options.plot))
    evaluate = evaluator(options.evaluate)
    with incoming(options.model) as source, terminal.progress() as progress:
        report = sweep(
            source,
            steps=options.steps,
            calibration=options.calib,
            evaluation=options.eval_calib,
            evaluate=evaluate,
            config=config_of(options),
            progress=progress,
        )
    _save(report, options)
    if options.plot is not None:
        save_curve(report, Path(options.plot))
    terminal.curve(report)


def _prepared(
    options: argparse.Namespace,
    *,
    output: str | None = None,
    plot: str | None = None,
    also: Sequence[str] = (),
) -> Terminal:
    """Refuse files that cannot be written or would fall on others, before any work; and where to print.

    Args:
        also: files that are read, beside IN.
    """
    from onnxmerge.cli.terminal import Terminal
    from onnxmerge.graph.leftovers import remove_folders
    from onnxmerge.graph.output import check_output, same_file

    read = [Path(name) for name in (options.model, *also, *_other_files(options)) if name != STREAM]
    taken: list[Path] = []
    if output is not None:
        ensure_pipe(output, printed=options.json)
    clobber = not getattr(options, "no_clobber", False)
    for number, name in enumerate((output, options.report, plot)):
        if name is None or (number == 0 and name == STREAM):
            continue
        path = Path(name)
        check_output(None, path, clobber=clobber or number > 0)
        for source in read:
            check_output(source, path, clobber=True)
        for other in taken:
            if same_file(path, other):
                raise UsageError(f"{path} is named twice as an output; name another file")
        taken.append(path)
    remove_folders()
    aside = options.json or output == STREAM
    return Terminal(
        quiet=options.quiet,
        verbose=options.verbose,
        json=options.json,
        aside=aside,
        command=options.command,
        words=in_flags,
    )


def _other_files(options: argparse.Namespace) -> Iterator[str]:
    """What is read beside models and plans, data and code of the user, and is not to be written over."""
    for name in ("config", "calib", "eval_calib"):
        path = getattr(options, name, None)
        if path is not None:
            yield path
    code = (getattr(options, "evaluate", None) or "").rpartition(":")[0]
    if code.endswith(".py"):
        yield code


def _save(report: Report | Inspection | Sweep | Comparison, options: argparse.Namespace) -> None:
    """Write the report where that was asked for, with the command that made it.

    A page is for the person who gave the command, and speaks of flags; JSON is the same from everywhere.
    """
    from onnxmerge.report import is_page

    if options.report is not None:
        words = in_flags if is_page(options.report) else str
        warnings = tuple(map(words, report.warnings))
        replace(report, command=options.command, warnings=warnings).save(options.report)


def _finish(result: Result, options: argparse.Namespace, terminal: Terminal) -> None:
    """Write what was asked for, and say what it comes to."""
    # The report first: an error must leave no OUT.
    _save(result.report, options)
    if options.output == STREAM:
        to_stdout(result.save)
    else:
        with _written(Path(options.output)) as path:
            result.save(path)
    with _after_writing(options.output):
        terminal.summary(result.report, options.output)


@contextmanager
def _written(path: Path) -> Iterator[Path]:
    """A file is there or not: who interrupts when it is already there comes too late."""
    before = _identity(path)
    try:
        yield path
    except (KeyboardInterrupt, Terminated):
        if _identity(path) == before:
            raise


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


@contextmanager
def _after_writing(target: str) -> Iterator[None]:
    """What fails now fails after the work was done, and must not say that nothing was written."""
    try:
        yield
        sys.stdout.flush()
    except (KeyboardInterrupt, Terminated, BrokenPipeError) as cause:
        if isinstance(cause, BrokenPipeError):
            silence_stdout()
        print(f"onnxmerge: {target} was written; its summary could not be shown", file=sys.stderr)

"""What a person sees: progress and messages on stderr, the result on stdout."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from rich.console import Console
from rich.table import Table

from onnxmerge.cli.progress import shown
from onnxmerge.cli.streams import STREAM
from onnxmerge.outcomes import RecoveryFacts
from onnxmerge.report import Comparison, Inspection, Report, Sweep
from onnxmerge.report.facts import LatencyFacts, ModelFacts, PrecisionFacts, StepFacts
from onnxmerge.validation import percent

_ROWS = (("MACs", "macs"), ("parameters", "params"), ("bytes", "bytes"), ("operators", "nodes"))
# Columns of a table that goes to a file or a pipe, where a row is looked for by line.
_WIDE = 240


class _Console(Console):
    """A console that does not decide how the program ends when nobody reads it any more."""

    def __init__(self, *, stderr: bool) -> None:
        # Names of nodes and files are shown as they are, with whatever brackets and colons they have.
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)
        if not self.is_terminal and "COLUMNS" not in os.environ:
            self.width = _WIDE

    def on_broken_pipe(self) -> None:
        self.quiet = True
        raise BrokenPipeError


class Terminal:
    """Prints for one run.

    Args:
        quiet: print only errors.
        verbose: print every group and frozen axis, too.
        json: print the report as JSON on stdout, and everything else on stderr.
        aside: print everything else on stderr, because stdout is taken.
        command: the command line, for that JSON.
        words: brings messages that name arguments into the words of the command line.
    """

    def __init__(
        self,
        *,
        quiet: bool = False,
        verbose: bool = False,
        json: bool = False,
        aside: bool = False,
        command: str | None = None,
        words: Callable[[str], str] = str,
    ) -> None:
        self._quiet = quiet
        self._verbose = verbose
        self._json = json
        self._command = command
        self._words = words
        self._out = _Console(stderr=aside or json)
        self._err = _Console(stderr=True)

    @contextmanager
    def progress(self) -> Iterator[Callable[[str, int, int], None] | None]:
        """Progress on stderr while the block runs."""
        if self._quiet:
            yield None
            return
        with shown(self._err) as show:
            yield show

    def summary(self, report: Report, target: str) -> None:
        """The before/after table, and what the user should know."""
        self._print_json(report)
        if self._quiet:
            return
        self._facts(report)
        self._out.print(f"wrote {'standard output' if target == STREAM else target}")
        self._headline(report)

    def planned(self, report: Report, target: str) -> None:
        """What a plan comes to; no model was written."""
        self._print_json(report)
        if self._quiet:
            return
        self._facts(report)
        place = "on standard output" if target == STREAM else target
        self._out.print(f"wrote the plan {place}, and no model")
        self._headline(report)

    def comparison(self, report: Comparison) -> None:
        """Two models side by side."""
        self._print_json(report)
        if self._quiet:
            return
        titles = ("", "first", "second", "share")
        self._out.print(side_by_side(titles, report.first, report.second, report.latency))
        for output in report.parity.outputs:
            self._out.print(f"{output.name}: change {output.change:.4g}, {output.judged}")
        self._warn(report)
        self._headline(report)

    def _print_json(self, report: Report | Inspection | Sweep | Comparison) -> None:
        if self._json:
            print(replace(report, command=self._command).to_json(), flush=True)

    def _headline(self, report: Report | Comparison) -> None:
        for sentence in report["headline"].values():
            self._out.print(sentence)

    def _facts(self, report: Report) -> None:
        table = side_by_side(("", "before", "after", "kept"), report.input, report.output, report.latency)
        if report.score is not None:
            table.add_row(report.score.name, f"{report.score.before:.6g}", f"{report.score.after:.6g}", "")
        self._out.print(table)
        latency = report["latency"]
        if latency["predicted_ratio"] is not None:
            self._out.print(
                f"latency: {latency['predicted_ratio']:.1%} predicted, {latency['ratio']:.1%} measured"
            )
        if report.precision is not None:
            self._out.print(precision_line(report.precision))
        if report.recovery is not None:
            self._out.print(recovery_line(report.recovery))
        if report["emptied"] is not None:
            self._out.print(report["emptied"])
        if self._verbose:
            self._out.print(_groups(report))
            self._out.print(_frozen(report))
        self._warn(report)

    def inspection(self, report: Inspection) -> None:
        """What could be removed, and what stays."""
        self._print_json(report)
        if self._quiet:
            return
        table = _table("group", "channels", "MACs each", "parameters each", "may go", "nodes")
        for group in report["groups"]:
            nodes = group["nodes"] if self._verbose else group["nodes"][:3]
            more = f" and {len(group['nodes']) - len(nodes)} more" if len(nodes) < len(group["nodes"]) else ""
            shares = (f"{group['macs_share']:.3%}", f"{group['params_share']:.3%}")
            may_go = "yes" if group["may_go"] else ""
            table.add_row(group["name"], str(group["channels"]), *shares, may_go, ", ".join(nodes) + more)
        self._out.print(table)
        self._out.print(_frozen(report))
        self._out.print(f"reach: {report['reach']:.1%} of the MACs go with one channel in every group")
        self._warn(report)

    def curve(self, report: Sweep) -> None:
        """The trade-off curve."""
        self._print_json(report)
        if self._quiet:
            return
        change = "change (stand-in data)" if report["stand_in"] else "change"
        taught = any(point.recovered_change is not None for point in report.points)
        columns = ("MACs kept", "parameters kept", change, "90% bound", "latency")
        own = [] if report.measure is None else [report.measure, *(["after recovery"] if taught else [])]
        table = Table(*columns, *(["change after recovery"] if taught else []), *own)
        for point in report.points:
            after = [] if point.recovered_change is None else [point.recovered_change]
            row = (point.macs, point.params, point.change, point.change_upper_90, point.latency, *after)
            scores = [f"{s:.6g}" for s in (point.score, point.recovered_score) if s is not None]
            table.add_row(*(f"{figure:.2%}" for figure in row), *scores)
        self._out.print(table)
        if report.measure is not None:
            self._out.print(f"the input's score by {report.measure} is {report.score:.6g}")
        self._out.print(f"change measured on {report['source']}")
        if report["judged"]:
            self._out.print(f"change: {report['judged']}")
        self._warn(report)

    def _warn(self, report: Report | Inspection | Sweep | Comparison) -> None:
        for warning in report["warnings"]:
            self._err.print(f"onnxmerge: warning: {self._words(warning)}")


def precision_line(found: PrecisionFacts) -> str:
    """The smaller model in the input's own precision, and in fewer bits."""

    def told(step: StepFacts) -> str:
        score = "" if step.score is None else f", score {step.score:.6g}"
        return f"{step.bytes:,} bytes, change {percent(step.change)}, {step.latency:.2f} of the time{score}"

    how = f" ({found.why}; ranges of {found.samples} samples)" if found.why else ""
    return (
        f"in the input's own precision: {told(found.before)}; as {found.precision}: {told(found.after)}{how}"
    )


def recovery_line(found: RecoveryFacts) -> str:
    """What came of teaching, in a line."""
    if not found.steps:
        return f"recovery: the model was not taught ({found.stopped})"
    early = f", {found.stopped}" if found.stopped in ("interrupted", "no better") else ""
    steps = f"{found.steps} steps of {found.batch} in {found.seconds:.0f} s"
    how = f"{steps}, rate {found.learning_rate:.2g}{early}"
    if not found.taken:
        return f"recovery: no better on {found.held_out} held-out inputs ({how}); the weights stay"
    return (
        f"recovery: the error on {found.held_out} held-out inputs went from {found.error_before:.4g} to "
        f"{found.error_after:.4g} ({how})"
    )


def side_by_side(
    titles: Sequence[str], before: ModelFacts, after: ModelFacts, latency: LatencyFacts
) -> Table:
    """Two models in figures, and what share of the first one's the second one has."""
    table = Table(*titles)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, key in _ROWS:
        one, other = getattr(before, key), getattr(after, key)
        table.add_row(name, f"{one:,}", f"{other:,}", f"{other / one if one else 1.0:.1%}")
    unit, times = f"latency, ms ({latency.threads} threads)", (latency.before_ms, latency.after_ms)
    table.add_row(unit, *(f"{time:.3f}" for time in times), f"{latency.ratio:.1%}")
    return table


def _table(*titles: str) -> Table:
    """A table of names, which are there to be given to --skip: where they are long they go on below."""
    table = Table(*titles)
    for column in table.columns:
        column.overflow = "fold"
    return table


def _groups(report: Report) -> Table:
    table = _table("group", "before", "after")
    for group in report["groups"]:
        table.add_row(group["name"], str(group["before"]), str(group["after"]))
    return table


def _frozen(report: Report | Inspection) -> Table:
    table = _table("frozen because", "channels", "for example")
    for entry in report["frozen"]:
        table.add_row(entry["reason"], str(entry["count"]), "\n".join(entry["examples"]))
    return table

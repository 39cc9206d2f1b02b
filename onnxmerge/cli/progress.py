"""How far a run is: a line that moves on a terminal, and now and then a line of its own elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from onnxmerge.progress import duration

Show = Callable[[str, int, int], None]

# Seconds between lines in a log.
EVERY = 15.0
# A stage that will take longer is announced, once so much of it was seen.
LONG, SEEN = 30.0, 3.0


class Pace:
    """What time is left of the stage at work, told from what is done of it.

    Args:
        now: seconds that only grow.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._stage, self._done, self._from = "", 0, 0
        self._began = now()
        self._announced = ""

    def left(self, stage: str, done: int, total: int) -> float | None:
        """Seconds left, None where that cannot be told."""
        if stage != self._stage or done < self._done:
            self._stage, self._began, self._from = stage, self._now(), done
        self._done = done
        if done <= self._from or total <= done:
            return None
        return (self._now() - self._began) * (total - done) / (done - self._from)

    def announcement(self, stage: str, left: float | None) -> str | None:
        """A sentence before a long stage, once; None where there is nothing to say."""
        spent = self._now() - self._began
        if left is None or left < LONG or spent < SEEN or stage == self._announced:
            return None
        self._announced = stage
        return f"{stage} will take about {duration(left)} more"


@contextmanager
def shown(console: Console) -> Iterator[Show]:
    """What to tell of progress while the block runs; it goes to a console."""
    pace = Pace()
    with _moving(console, pace) if console.is_terminal else _logged(console, pace) as show:
        yield show


@contextmanager
def _moving(console: Console, pace: Pace) -> Iterator[Show]:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("start", total=None, left="")

        def show(stage: str, done: int, total: int) -> None:
            left = pace.left(stage, done, total)
            words = "" if left is None else f"about {duration(left)} left"
            bar.update(task, description=stage, completed=done, total=total or None, left=words)
            announced = pace.announcement(stage, left)
            if announced is not None:
                console.print(f"onnxmerge: {announced}", markup=False)

        yield show


@contextmanager
def _logged(console: Console, pace: Pace) -> Iterator[Show]:
    began = last = time.monotonic()

    def show(stage: str, done: int, total: int) -> None:
        nonlocal last
        left = pace.left(stage, done, total)
        now = time.monotonic()
        if now - last < EVERY and pace.announcement(stage, left) is None:
            return
        last = now
        share = f" {done / total:.0%}" if total else ""
        more = "" if left is None else f", about {duration(left)} left of it"
        console.print(f"onnxmerge: {stage}{share} after {duration(now - began)}{more}", markup=False)

    yield show

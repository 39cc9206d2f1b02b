"""Seconds per stage, and progress for whoever wants to show it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# (stage, done, total); a total of 0 means that it is not known.
Progress = Callable[[str, int, int], None]
# What is counted within one step of a stage that is made of others, so that long steps show.
FINE = 100


class Clock:
    """Adds up the time spent in each stage; time in a stage within a stage counts for the inner one.

    Args:
        progress: told of every step.
        now: gives the time in seconds.
    """

    def __init__(
        self, progress: Progress | None = None, now: Callable[[], float] = time.perf_counter
    ) -> None:
        self.seconds: dict[str, float] = {}
        self._now = now
        self._progress = progress
        self._inner: list[float] = []
        self._portion: tuple[str, int, int, int] | None = None
        self._done = 0
        self._note = ""

    def step(self, stage: str, done: int, total: int) -> None:
        """Report progress within a stage."""
        if self._portion is not None:
            stage, begin, end, whole = self._portion
            # Some stages come again; progress only goes on.
            self._done = max(self._done, FINE * begin + FINE * (end - begin) * done // max(total, 1))
            done, total = self._done, FINE * whole
        if self._progress is not None:
            self._progress(f"{stage} ({self._note})" if self._note else stage, done, total)

    @contextmanager
    def noted(self, note: str) -> Iterator[None]:
        """Say something more beside the stage within the block."""
        self._note = note
        try:
            yield
        finally:
            self._note = ""

    @contextmanager
    def portion(self, stage: str, begin: int, end: int, total: int) -> Iterator[None]:
        """Report steps within the block as those of one stage, from ``begin`` to ``end`` of ``total``."""
        self._portion, self._done = (stage, begin, end, total), FINE * begin
        try:
            self.step(stage, 0, 0)
            yield
        finally:
            self._portion = None

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        self.step(stage, 0, 0)
        self._inner.append(0.0)
        start = self._now()
        try:
            yield
        finally:
            spent = self._now() - start
            own = spent - self._inner.pop()
            self.seconds[stage] = self.seconds.get(stage, 0.0) + own
            if self._inner:
                self._inner[-1] += spent


def duration(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"

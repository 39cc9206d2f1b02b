"""Seconds per stage, and progress for whoever wants to show it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# (stage, done, total); a total of 0 means that it is not known.
Progress = Callable[[str, int, int], None]


class Clock:
    """Adds up the time spent in each stage; time in a stage within a stage counts for the inner one."""

    def __init__(self, progress: Progress | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self._progress = progress
        self._inner: list[float] = []

    def step(self, stage: str, done: int, total: int) -> None:
        """Report progress within a stage."""
        if self._progress is not None:
            self._progress(stage, done, total)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        self.step(stage, 0, 0)
        self._inner.append(0.0)
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            own = spent - self._inner.pop()
            self.seconds[stage] = self.seconds.get(stage, 0.0) + own
            if self._inner:
                self._inner[-1] += spent

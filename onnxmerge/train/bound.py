"""How much work may be done: steps, or time."""

from __future__ import annotations

import time
from collections.abc import Callable
from math import inf

Progress = Callable[[str, int, int], None]


class Bound:
    """Counts the steps and the seconds since it was made.

    Args:
        steps, seconds: the most there may be; None: no such bound.
        progress: called after every step with ("recover", done, total), in steps where these are bounded,
            else in seconds.

    Attributes:
        steps: that were done.
    """

    def __init__(self, steps: int | None, seconds: float | None, progress: Progress | None = None):
        self._most, self._seconds, self._progress = steps, seconds, progress
        self._start = self._last = time.perf_counter()
        self._longest = 0.0
        self.steps = 0

    @property
    def elapsed(self) -> float:
        """Seconds."""
        return time.perf_counter() - self._start

    @property
    def used(self) -> float:
        """The part of the bound that is behind us, 0..1 and, in time, beyond."""
        parts = [0.0]
        if self._most is not None:
            parts.append(self.steps / self._most)
        if self._seconds is not None:
            parts.append(self.elapsed / self._seconds)
        return max(parts)

    @property
    def left(self) -> float:
        """Seconds until the bound in time; infinite without one."""
        return inf if self._seconds is None else self._seconds - self.elapsed

    @property
    def reached(self) -> str | None:
        """``steps`` or ``time`` where another step would go beyond it."""
        if self._most is not None and self.steps >= self._most:
            return "steps"
        late = self._seconds is not None and self.elapsed + self._longest > self._seconds
        return "time" if late else None

    def begin(self) -> None:
        """A step begins."""
        self._last = time.perf_counter()

    def end(self) -> None:
        """A step was done."""
        self.steps += 1
        # What one slow step took is forgotten again: others may have had the processor.
        self._longest = max(time.perf_counter() - self._last, 0.9 * self._longest)
        if self._progress is None:
            return
        if self._most is not None:
            self._progress("recover", self.steps, self._most)
        elif self._seconds is not None:
            self._progress("recover", min(int(self.elapsed), int(self._seconds)), int(self._seconds))

"""How much faster one model runs than another, on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxmerge.graph import external_weights
from onnxmerge.runtime import Session
from onnxmerge.runtime.session import CPU

# A model that takes this much of another one's time is slower: less is within the noise.
SLOWER = 1.02
_WARM_UP = 3  # the first runs allocate arenas and, on CUDA, choose kernels
_LEAST_PAIRS = 5
_MOST_PAIRS = 2000
_TICK = 1e-9  # seconds
# Of models whose weights lie in files.
_BLOCKS, _RUNS_PER_BLOCK = 3, 2
Clock = Callable[[], float]


@dataclass(frozen=True)
class Latency:
    """The time of one run before and after.

    Attributes:
        before_ms, after_ms: medians in milliseconds.
        ratio: after / before, the median over pairs of runs.
        spread: the quartiles of that ratio.
        provider: what ran the models, and ``threads`` its intra-op threads.
        runs: the number of pairs.
        in_turn: whether the two ran by turns; models too large for that run in alternating blocks.
        of_processor: whether processor time was taken, and not that of a clock on the wall.
        sessions: the smallest and the largest ratio of several new sessions of both; None: there was one.
    """

    before_ms: float
    after_ms: float
    ratio: float
    spread: tuple[float, float]
    provider: str
    threads: int
    runs: int
    in_turn: bool = True
    of_processor: bool = False
    sessions: tuple[float, float] | None = None


def median_of_sessions(found: Sequence[Latency]) -> Latency:
    """Of several comparisons, an odd number, the one with the median ratio; and how far they differ."""
    ordered = sorted(found, key=lambda latency: latency.ratio)
    return replace(ordered[len(ordered) // 2], sessions=(ordered[0].ratio, ordered[-1].ratio))


def compare_latency(
    before: Session, after: Session, feed: Mapping[str, np.ndarray], *, seconds: float = 2.0
) -> Latency:
    """Time both models on one feed for about ``seconds``, at least 5 pairs of runs. Raises ModelError.

    The two run in turn, and the one that goes first alternates, so that a change of clock frequency or
    load meets both alike. On one thread of a CPU it is the thread's processor time that counts: of two models
    that share a processor with other work, the longer one is interrupted more often, or the one that goes
    second, and ratios on a wall clock were seen to be off by ten times.
    """
    if before.mapped or after.mapped:
        return _summary(_in_blocks(before, after, feed), after, in_turn=False)
    clock = _clock(before, after)
    one, other = before.runner(feed), after.runner(feed)
    for _ in range(_WARM_UP):
        one()
        other()
    times: list[tuple[float, float]] = []
    end = time.perf_counter() + seconds
    while len(times) < _LEAST_PAIRS or (len(times) < _MOST_PAIRS and time.perf_counter() < end):
        if len(times) % 2:
            second = _timed(other, clock)
            first = _timed(one, clock)
        else:
            first = _timed(one, clock)
            second = _timed(other, clock)
        times.append((first, second))
    return replace(_summary(times, after, in_turn=True), of_processor=clock is time.thread_time)


def _in_blocks(before: Session, after: Session, feed: Mapping[str, np.ndarray]) -> list[tuple[float, float]]:
    """Pairs of times of two models that do not fit into memory together."""
    times: list[tuple[float, float]] = []
    for _ in range(_BLOCKS):
        blocks = []
        for session in (before, after):
            run = session.runner(feed)
            external_weights.release()
            run()  # brings the weights back
            blocks.append([_timed(run) for _ in range(_RUNS_PER_BLOCK)])
        times += zip(*blocks, strict=True)
    external_weights.release()
    return times


def _summary(times: list[tuple[float, float]], after: Session, *, in_turn: bool) -> Latency:
    # A clock may stand still for as long as a tiny model takes.
    pairs = np.maximum(times, _TICK)
    low, ratio, high = np.percentile(pairs[:, 1] / pairs[:, 0], (25, 50, 75))
    middle = np.median(pairs, axis=0) * 1000.0
    return Latency(
        before_ms=float(middle[0]),
        after_ms=float(middle[1]),
        ratio=float(ratio),
        spread=(float(low), float(high)),
        provider=after.provider,
        threads=after.threads,
        runs=len(pairs),
        in_turn=in_turn,
    )


def median_seconds(session: Session, feed: Mapping[str, np.ndarray], runs: int = 20) -> float:
    """The median time of one run, after a warm-up. Raises ModelError."""
    run = session.runner(feed)
    for _ in range(_WARM_UP):
        run()
    return float(np.median([_timed(run) for _ in range(runs)]))


def _clock(*sessions: Session) -> Clock:
    """Of the calling thread, where that does all the work; else of the wall."""
    alone = all(session.threads == 1 and session.provider == CPU for session in sessions)
    return time.thread_time if alone else time.perf_counter


def _timed(run: Callable[[], object], clock: Clock = time.perf_counter) -> float:
    start = clock()
    run()
    return clock() - start

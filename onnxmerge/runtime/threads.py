"""Who computes when: batches are worked on side by side, and what comes of them is used in their order.

Linear algebra runs on one thread per batch. The matrices here are small, and the threads of OpenBLAS
wait for one another by spinning: on a machine with other work to do, two of them were measured to be
eight times slower than one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

from threadpoolctl import threadpool_limits

from onnxmerge import limits

T = TypeVar("T")
R = TypeVar("R")
Function = TypeVar("Function", bound=Callable[..., Any])


def one_blas_thread(function: Function) -> Function:
    """Decorate a function that is mostly linear algebra; onnxruntime keeps its own threads."""
    limited: Function = threadpool_limits.wrap(limits=1, user_api="blas")(function)
    return limited


def side_by_side(threads: int, bytes_each: int) -> int:
    """How many batches are worked on at a time, of which each takes ``bytes_each`` of memory."""
    return max(min(threads, limits.LIMITS.at_work // max(bytes_each, 1)), 1)


def in_order(function: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
    """What ``map`` gives, with so many calls at work, each in a thread of its own if there are several.

    The first call is done, and its result used, before the others begin: they can build on it.
    """
    if workers == 1:
        yield from map(function, items)
        return
    waiting: deque[Future[R]] = deque()
    source = iter(items)
    with ThreadPoolExecutor(workers) as pool:
        for item in islice(source, 1):
            yield pool.submit(function, item).result()
        for item in source:
            waiting.append(pool.submit(function, item))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

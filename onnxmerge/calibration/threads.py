"""Who computes when: one thread for linear algebra, and the next batch runs meanwhile.

The matrices here are small, and the threads of OpenBLAS wait for one another by spinning: on a machine
with other work to do, two of them were measured to be eight times slower than one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from threadpoolctl import threadpool_limits

# A decorator for functions that are mostly linear algebra; onnxruntime keeps its own threads.
one_blas_thread = threadpool_limits.wrap(limits=1, user_api="blas")

T = TypeVar("T")
_END = object()


def ahead(batches: Iterable[T]) -> Iterator[T]:
    """The same items in the same order; each is made in a thread while the one before it is in use."""
    source = iter(batches)
    with ThreadPoolExecutor(max_workers=1) as worker:
        coming = worker.submit(next, source, _END)
        while (item := coming.result()) is not _END:
            coming = worker.submit(next, source, _END)
            yield item  # type: ignore[misc]

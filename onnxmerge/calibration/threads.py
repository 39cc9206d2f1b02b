"""One thread for linear algebra.

The matrices here are small, and the threads of OpenBLAS wait for one another by spinning: on a machine
with other work to do, two of them were measured to be eight times slower than one.
"""

from __future__ import annotations

from threadpoolctl import threadpool_limits

# A decorator for functions that are mostly linear algebra; onnxruntime keeps its own threads.
one_blas_thread = threadpool_limits.wrap(limits=1, user_api="blas")

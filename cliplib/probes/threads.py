"""Computing with one thread, so that numbers do not depend on the number of cores."""

from __future__ import annotations

import threading
from types import TracebackType

import torch
from threadpoolctl import threadpool_limits


class OneThread:
    """A context in which BLAS and torch compute with one thread each.

    With more threads sums are cut into other pieces, and rounded otherwise. Several
    threads may be inside at once, as scikit-learn's cross-validation has them: BLAS has
    one number for the whole process, which the first one to enter lowers and the last
    one to leave gives back; torch has one for each thread. Not to be nested.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0

    def __enter__(self) -> None:
        """Lower the numbers of threads to one."""
        with self._lock:
            if self._inside == 0:
                self._blas_limits = threadpool_limits(1, user_api="blas")
                self._torch_threads = torch.get_num_threads()
            self._inside += 1
        torch.set_num_threads(1)  # threadpoolctl does not know torch's own MKL

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the threads back."""
        torch.set_num_threads(self._torch_threads)
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._blas_limits.restore_original_limits()


one_thread = OneThread()

"""Computation with one thread: results do not depend on the number of cores."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache

import scipy.linalg  # noqa: F401 (loads its BLAS, for threadpoolctl to find)
import torch
from threadpoolctl import OpenBLASController, ThreadpoolController

_lock = threading.RLock()
_pools_lock = threading.Lock()
# For each open pool, the number of threads that torch had before the pool was made.
_threads_before: list[int] = []


@contextmanager
def pool_of_single_threads() -> Iterator[ThreadPoolExecutor]:
    """Give a block a pool of as many threads as torch has; each computes on one core.

    When the block ends, tasks that have not begun are cancelled. Torch's number of
    threads is a setting of the whole process, which is restored when the last of
    several open pools ends.
    """
    with _pools_lock:
        n_threads = torch.get_num_threads()
        _threads_before.append(n_threads)
    pool = ThreadPoolExecutor(
        n_threads, initializer=torch.set_num_threads, initargs=(1,)
    )
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        with _pools_lock:
            n_before = _threads_before.pop()
            if not _threads_before:  # n_before is from before the first pool
                torch.set_num_threads(n_before)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let BLAS and torch compute with one thread each in the block.

    More threads split sums into other parts, which changes rounding. The setting holds
    for the whole process, so several Python threads with such blocks, as in
    scikit-learn's cross-validation, take turns.
    """
    with _lock:
        torch_threads = torch.get_num_threads()
        torch.set_num_threads(1)  # threadpoolctl does not find the MKL inside torch
        _let_any_thread_set_openblas()
        try:
            with _loaded_libraries().limit(limits=1, user_api="blas"):
                yield
        finally:
            _let_any_thread_set_openblas()
            torch.set_num_threads(torch_threads)


@cache
def _loaded_libraries() -> ThreadpoolController:
    """Return the BLAS libraries of this process, which takes 4 ms to find."""
    return ThreadpoolController()


def _let_any_thread_set_openblas() -> None:
    """Let the current thread set OpenBLAS's number of threads.

    Otherwise threadpoolctl obeys only the first thread that did so, and silently
    ignores all others. The lock of `one_thread` prevents conflicts.
    """
    OpenBLASController.clear_controlling_thread(force=True)

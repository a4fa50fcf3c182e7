"""Computing with one thread, so that numbers do not depend on the number of cores."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache

import scipy.linalg  # noqa: F401 (that its BLAS, too, is there to be found)
import torch
from threadpoolctl import OpenBLASController, ThreadpoolController

_lock = threading.RLock()
_pools_lock = threading.Lock()
# Torch's number of threads when each of the open pools was made.
_threads_before: list[int] = []


@contextmanager
def pool_of_single_threads() -> Iterator[ThreadPoolExecutor]:
    """Give a block a pool of threads, as many as torch has, each of which uses one.

    At its end, what has not begun is cancelled. Torch's number of threads is one for
    the whole process: when the last open pool ends, it is what it was before the first.
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
            if not _threads_before:  # so it is that of the first
                torch.set_num_threads(n_before)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let BLAS and torch compute with one thread each in the block.

    More threads cut sums into other pieces, which are rounded differently. The setting
    is one for the whole process: several Python threads, as in scikit-learn's
    cross-validation by threads, take turns.
    """
    with _lock:
        torch_threads = torch.get_num_threads()
        torch.set_num_threads(1)  # threadpoolctl does not know torch's own MKL
        _let_any_thread_set_openblas()
        try:
            with _loaded_libraries().limit(limits=1, user_api="blas"):
                yield
        finally:
            _let_any_thread_set_openblas()
            torch.set_num_threads(torch_threads)


@cache
def _loaded_libraries() -> ThreadpoolController:
    """Find the BLAS libraries of this process, once: it takes 4 ms."""
    return ThreadpoolController()


def _let_any_thread_set_openblas() -> None:
    """Let the current thread set OpenBLAS, whichever thread did so before.

    threadpoolctl otherwise obeys the first thread alone, and ignores all others without
    a word. The lock above keeps them apart.
    """
    OpenBLASController.clear_controlling_thread(force=True)

"""Computing with one thread, so that numbers do not depend on the number of cores."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

import scipy.linalg  # noqa: F401 (that its BLAS, too, is there to be found)
import torch
from threadpoolctl import OpenBLASController, ThreadpoolController


class OneThread:
    """A context in which BLAS and torch compute with one thread each.

    More threads cut sums into other pieces, which are rounded differently. Several
    Python threads may be inside at once, as in scikit-learn's cross-validation. BLAS
    has one setting for the whole process: the first thread to enter lowers it, the last
    one to leave restores it. torch has a setting for each thread. Not to be nested: the
    inner block would end by restoring torch's setting for the rest of the outer one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_inside = 0
        self._libraries: ThreadpoolController | None = None

    def __enter__(self) -> None:
        """Set BLAS, and torch in the calling thread, to one thread."""
        with self._lock:
            if self._n_inside == 0:
                if self._libraries is None:  # to find them takes 4 ms, so once
                    self._libraries = ThreadpoolController()
                # In force from here on, until it is told to restore.
                with _controlling_openblas():
                    self._blas_limits = self._libraries.limit(limits=1, user_api="blas")
                self._torch_threads = torch.get_num_threads()
            self._n_inside += 1
        torch.set_num_threads(1)  # threadpoolctl does not know torch's own MKL

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Restore torch's setting in the calling thread; the last one restores BLAS's.

        Both become what they were when the first thread entered.
        """
        torch.set_num_threads(self._torch_threads)
        with self._lock:
            self._n_inside -= 1
            if self._n_inside == 0:
                with _controlling_openblas():
                    self._blas_limits.restore_original_limits()


@contextmanager
def _controlling_openblas() -> Iterator[None]:
    """Let the calling thread set the number of OpenBLAS's threads.

    threadpoolctl leaves that to the thread that did it first, often the main one, and
    ignores all others without a word. Who comes next is free to do it again.
    """
    OpenBLASController.clear_controlling_thread(force=True)
    try:
        yield
    finally:
        OpenBLASController.clear_controlling_thread(force=True)


one_thread = OneThread()

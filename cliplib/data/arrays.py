"""Names for the arrays that the modules hand around, and batches of their rows."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Features = NDArray[np.float32]


def row_batches(n: int, size: int) -> Iterator[slice]:
    """Yield slices that divide n rows, which may be none, into batches of `size`.

    The last one may be smaller.
    """
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))

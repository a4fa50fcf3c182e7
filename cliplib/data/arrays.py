"""Names for the types of array that modules exchange, and batches of their rows."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Features = NDArray[np.float32]


def row_batches(n: int, size: int) -> Iterator[slice]:
    """Yield slices that divide n rows into batches of `size`; the last may be smaller.

    No rows give no slice.
    """
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))

"""Rows of features, read block by block, and standardised."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from cliplib.images.arrays import Features, Floats, Ints

BLOCK = 4_000_000
"""Products of a block of rows with the weights of all classes.

So few that the block stays in the cache from logits to gradient, and so many that what
OpenBLAS does for each block does not count.
"""


class Rows(Protocol):
    """Features (n, d) that can be read in slices: an array, or a `StandardizedRows`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Numbers of rows and of features."""
        ...

    def __getitem__(self, part: slice, /) -> Features:
        """Return the rows of a slice."""
        ...


def blocks(n: int, d: int, k: int = 4) -> Iterator[slice]:
    """Yield slices that cut n rows of d features, for k classes, into blocks."""
    step = max(1, BLOCK // (d * max(k, 4)))
    for start in range(0, n, step):
        yield slice(start, start + step)


def mean_and_scale(rows: Features, index: Ints) -> tuple[Floats, Floats]:
    """Return mean and standard deviation (d,) of some rows, 1 for a constant feature.

    As scikit-learn's StandardScaler does, without a copy of the rows: these may be of
    any real type, and lie on a disk.
    """
    n = len(index)
    d = rows.shape[1]
    total = np.zeros(d)
    for block in blocks(n, d):
        total += rows[index[block]].sum(axis=0, dtype=np.float64)
    mean = total / n
    squares = np.zeros(d)
    for block in blocks(n, d):
        centred = rows[index[block]] - mean.astype(np.float32)
        squares += np.square(centred).sum(axis=0, dtype=np.float64)
    variance = squares / n
    return mean, np.sqrt(np.where(variance == 0, 1, variance))


class StandardizedRows:
    """Some rows of features, standardised each time they are read.

    Parameters
    ----------
    rows
        Features (n, d) of any real type.
    index
        Which of them, (m,), in this order.
    mean, scale
        What is subtracted, and what is divided by, (d,).
    """

    def __init__(
        self, rows: Features, index: Ints, mean: Floats, scale: Floats
    ) -> None:
        self._rows = rows
        self._index = index
        self._mean = mean.astype(np.float32)
        self._scale = scale.astype(np.float32)

    @property
    def shape(self) -> tuple[int, ...]:
        """Numbers of rows and of features."""
        return len(self._index), self._rows.shape[1]

    def __getitem__(self, part: slice) -> Features:
        """Return the rows of a slice, float32."""
        standardized = self._rows[self._index[part]] - self._mean
        standardized /= self._scale
        return standardized

    def copy(self) -> Features:
        """Return all rows as an array of their own, float32."""
        standardized = np.empty(self.shape, np.float32)
        for block in blocks(*self.shape):
            standardized[block] = self[block]
        return standardized

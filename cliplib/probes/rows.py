"""Rows of features, read block by block, and standardised."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cliplib.data.arrays import Features, Floats, Ints

BLOCK_NUMBERS = 1_000_000
"""In a block: 4 MB of float32, which stay in the processor's cache."""


def blocks(n_rows: int, n_features: int) -> Iterator[slice]:
    """Yield slices that divide `n_rows` rows into blocks; the last may end beyond them.

    A block has `BLOCK_NUMBERS` numbers at most, but one row at least.
    """
    rows_per_block = max(1, BLOCK_NUMBERS // n_features)
    for start in range(0, n_rows, rows_per_block):
        yield slice(start, start + rows_per_block)


def mean_and_scale(features: Features, row_numbers: Ints) -> tuple[Floats, Floats]:
    """Return mean and scale, (d,) each, of the rows (m,) of features (n, d).

    The scale is the standard deviation, or 1 for a constant feature, as in scikit-
    learn's StandardScaler. Features may be of any real type, and may be mapped from a
    file: they are read block by block.
    """
    n = len(row_numbers)
    d = features.shape[1]
    total = np.zeros(d)
    for block in blocks(n, d):
        total += features[row_numbers[block]].sum(axis=0, dtype=np.float64)
    mean = total / n
    squares = np.zeros(d)
    for block in blocks(n, d):
        centred = features[row_numbers[block]] - mean.astype(np.float32)
        squares += np.square(centred).sum(axis=0, dtype=np.float64)
    variance = squares / n
    scale = np.sqrt(np.where(variance == 0, 1, variance))
    return mean, scale


class StandardizedRows:
    """A view of some rows of features, which standardises them each time it is read.

    Parameters
    ----------
    features
        (n, d) of any real type.
    row_numbers
        Which rows the view holds, and in which order, (m,).
    mean, scale
        (d,): a row is read as (features - mean) / scale.
    """

    def __init__(
        self, features: Features, row_numbers: Ints, mean: Floats, scale: Floats
    ) -> None:
        self._features = features
        self._row_numbers = row_numbers
        self._mean = mean.astype(np.float32)
        self._scale = scale.astype(np.float32)

    @property
    def shape(self) -> tuple[int, ...]:
        """Numbers of rows and of features."""
        return len(self._row_numbers), self._features.shape[1]

    def __getitem__(self, part: slice) -> Features:
        """Return a slice of the view's rows, standardised, as a new float32 array."""
        standardized = self._features[self._row_numbers[part]] - self._mean
        standardized /= self._scale
        return standardized

    def copy(self) -> Features:
        """Return all rows of the view, standardised, as a float32 array (m, d)."""
        standardized = np.empty(self.shape, np.float32)
        for block in blocks(*self.shape):
            standardized[block] = self[block]
        return standardized


Rows = Features | StandardizedRows
"""What can be read in slices of rows: an array (n, d), or a view of one."""

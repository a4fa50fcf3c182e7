"""Pairs of hashes that differ in few bits, by XOR and a count of the set bits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from cliplib.data.arrays import Ints

Words = NDArray[np.uint64]

# Rows of a, and rows of b, that are compared at once: their distances fit into a core's
# cache.
ROWS_AT_ONCE = 32
COLUMNS_AT_ONCE = 4096


def close_hashes(
    bits_a: Words, bits_b: Words, max_distance: int, *, within: bool = False
) -> Iterator[tuple[Ints, Ints, int]]:
    """Yield the pairs that differ in at most `max_distance` bits, block by block.

    Each block's pairs are the rows of a and the rows of b, (p,) each, with the number
    of the orientation of a in which they are close.

    Parameters
    ----------
    bits_a
        Hashes of images in each orientation, (n, orientations, words).
    bits_b
        Hashes of upright images, (m, words).
    max_distance
        Largest number of differing bits.
    within
        Whether a and b are the same images. Then each pair is yielded once for each
        orientation, with the earlier row as a.
    """
    words_b = np.ascontiguousarray(bits_b.T)
    for first_row in range(0, len(bits_a), ROWS_AT_ONCE):
        block_a = bits_a[first_row : first_row + ROWS_AT_ONCE].transpose(1, 2, 0)
        # Within one collection, pairs with rows before this block were yielded earlier.
        start = first_row if within else 0
        for first_column in range(start, len(bits_b), COLUMNS_AT_ONCE):
            block_b = words_b[:, first_column : first_column + COLUMNS_AT_ONCE]
            for orientation, words_a in enumerate(block_a):
                distances = _distances(words_a, block_b)
                # `np.nonzero` of two dimensions takes longer than the distances.
                positions = np.flatnonzero(distances <= max_distance)
                n_columns = distances.shape[1]
                rows_a = first_row + positions // n_columns
                rows_b = first_column + positions % n_columns
                if within:
                    is_later = rows_b > rows_a
                    rows_a = rows_a[is_later]
                    rows_b = rows_b[is_later]
                if len(rows_a):
                    yield rows_a, rows_b, orientation


def _distances(words_a: Words, words_b: Words) -> NDArray[np.uint16]:
    """Return the number of differing bits of each pair of hashes, (n, m).

    The hashes are the columns of `words_a` (words, n) and `words_b` (words, m).
    """
    distance = np.zeros((words_a.shape[1], words_b.shape[1]), np.uint16)
    for word_a, word_b in zip(words_a, words_b, strict=True):
        distance += np.bitwise_count(word_a[:, None] ^ word_b)
    return distance

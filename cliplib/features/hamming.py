"""Pairs of hashes that differ in few bits, by XOR and a count of the bits left."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from cliplib.data.arrays import Ints

Words = NDArray[np.uint64]

# Pairs compared at once: so many that a core's cache holds them.
ROWS_AT_ONCE = 128
COLUMNS_AT_ONCE = 2048


def close_hashes(
    bits_a: Words, bits_b: Words, max_distance: int, *, within: bool = False
) -> Iterator[tuple[Ints, Ints, int]]:
    """Yield the pairs that differ in at most `max_distance` bits, some at a time.

    Each time it is rows of a, rows of b, (m,) both, and in which orientation of a they
    are close.

    Parameters
    ----------
    bits_a
        Hashes of images in each orientation, (n, orientations, words).
    bits_b
        Hashes of images as they are, (m, words).
    max_distance
        How many bits may differ.
    within
        Whether both are of the same images: each pair is yielded once for each
        orientation, with the earlier row as a.
    """
    words_b = np.ascontiguousarray(bits_b.T)
    for first_row in range(0, len(bits_a), ROWS_AT_ONCE):
        rows_of_block = slice(first_row, first_row + ROWS_AT_ONCE)
        words_by_orientation = bits_a[rows_of_block].transpose(1, 2, 0)
        # Within one collection nothing before the block is later than its rows.
        start = first_row if within else 0
        for first_column in range(start, len(bits_b), COLUMNS_AT_ONCE):
            block_b = words_b[:, first_column : first_column + COLUMNS_AT_ONCE]
            for orientation, words_a in enumerate(words_by_orientation):
                is_near = _distances(words_a, block_b) <= max_distance
                near_rows, near_columns = np.nonzero(is_near)
                rows_a = near_rows + first_row
                rows_b = near_columns + first_column
                if within:
                    is_later = rows_b > rows_a
                    rows_a = rows_a[is_later]
                    rows_b = rows_b[is_later]
                yield rows_a, rows_b, orientation


def _distances(words_a: Words, words_b: Words) -> NDArray[np.uint16]:
    """Return how many bits differ between hashes (words, n) and (words, m): (n, m)."""
    distance = np.zeros((words_a.shape[1], words_b.shape[1]), np.uint16)
    for word_a, word_b in zip(words_a, words_b, strict=True):
        distance += np.bitwise_count(word_a[:, None] ^ word_b)
    return distance

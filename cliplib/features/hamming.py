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
    for start in range(0, len(bits_a), ROWS_AT_ONCE):
        # (orientations, words, rows)
        block = bits_a[start : start + ROWS_AT_ONCE].transpose(1, 2, 0)
        for left in range(start if within else 0, len(bits_b), COLUMNS_AT_ONCE):
            columns = words_b[:, left : left + COLUMNS_AT_ONCE]
            for orientation, words in enumerate(block):
                distance = _distances(words, columns)
                near_rows, near_columns = np.nonzero(distance <= max_distance)
                rows = near_rows + start
                others = near_columns + left
                if within:
                    is_later = others > rows
                    rows, others = rows[is_later], others[is_later]
                yield rows, others, orientation


def _distances(words_a: Words, words_b: Words) -> NDArray[np.uint16]:
    """Return how many bits differ between hashes (words, n) and (words, m): (n, m)."""
    distance = np.zeros((words_a.shape[1], words_b.shape[1]), np.uint16)
    for word_a, word_b in zip(words_a, words_b, strict=True):
        distance += np.bitwise_count(word_a[:, None] ^ word_b)
    return distance

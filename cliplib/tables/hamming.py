"""Pairs of perceptual hashes that differ in few bits, in any of eight orientations.

All are found, as by comparing each hash of one image with one of the other, in a
fraction of the operations. A hash's bits say which of 16 × 16 frequencies are stronger
than their median, which is about 0; mirroring an image changes the sign of its odd
horizontal frequencies, flipping it that of its odd vertical ones. So four counts of
differing bits, one for each parity of the two frequencies, bound the distance in four
orientations at once, and a transposed hash gives the other four.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cliplib.images.arrays import Ints

Words = NDArray[np.uint64]

ROWS_AT_ONCE = 64
COLUMNS_AT_ONCE = 2048
"""Pairs compared at once: so many that a core's cache holds them."""

SIDE = 16
_ODD = np.arange(SIDE) % 2 == 1
_PARITY = (2 * _ODD[:, None] + _ODD).ravel()  # of frequencies, vertical and horizontal
_BY_PARITY = np.argsort(_PARITY, kind="stable")  # 64 bits, one word, for each of four
_MIRRORED = np.array([False, True, False, True])  # parities whose sign changes
_FLIPPED = np.array([False, False, True, True])


class Family(NamedTuple):
    """Four orientations that differ by mirroring and flipping, by number."""

    base: int
    mirrored: int
    flipped: int
    both: int


class Close(NamedTuple):
    """Pairs of rows, and the orientation of the first in which they are close."""

    rows_a: Ints
    rows_b: Ints
    orientation: Ints


def close_hashes(
    bits_a: Words,
    bits_b: Words,
    families: tuple[Family, ...],
    max_distance: int,
    *,
    within: bool = False,
) -> Iterator[Close]:
    """Yield the pairs that differ in at most so many bits, a few rows of a at a time.

    Parameters
    ----------
    bits_a
        Hashes (n, orientations, 4): 256 bits, rows of frequencies one after another.
    bits_b
        Hashes (m, 4), as they are.
    families
        The orientations of `bits_a`.
    max_distance
        Bits of 256.
    within
        Both are of the same images: each pair is given once, the earlier row first.
    """
    words_b = _by_parity(bits_b)
    bounds = [_Bound(bits_a, family, max_distance) for family in families]
    for start in range(0, len(bits_a), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        first = start if within else 0
        parts = []
        for bound in bounds:
            for i, j in bound.candidates(rows, words_b, first):
                later = j > i if within else np.ones(len(i), bool)
                parts += _confirmed(
                    bits_a, bits_b, i[later], j[later], bound.family, max_distance
                )
        if parts:
            yield _in_order(parts)


class _Bound:
    """What some images' hashes allow to be close, in a family of orientations."""

    def __init__(self, bits: Words, family: Family, max_distance: int) -> None:
        self.family = family
        self._words = _by_parity(bits[:, family.base])
        # The median is not quite 0: so many bits of a hash are not as its base says.
        odd = np.zeros(len(bits), np.int64)
        for number, changed in (
            (family.mirrored, _MIRRORED),
            (family.flipped, _FLIPPED),
            (family.both, _MIRRORED ^ _FLIPPED),
        ):
            expected = np.where(changed, ~self._words, self._words)
            differing = np.bitwise_count(_by_parity(bits[:, number]) ^ expected)
            odd = np.maximum(odd, differing.sum(axis=1))
        self._least = np.clip(128 - max_distance - odd, 0, 128).astype(np.uint8)

    def candidates(
        self, rows: slice, words_b: Words, first: int
    ) -> Iterator[tuple[Ints, Ints]]:
        """Yield pairs of these rows, and rows of b from `first` on, that may be close.

        Of 64 bits of one parity unrelated hashes differ in about 32; close ones are far
        from that, to one side or, of a parity whose sign changes, to the other.
        """
        words_a = self._words[rows]
        least = self._least[rows, None]
        for start in range(first, len(words_b), COLUMNS_AT_ONCE):
            columns = words_b[start : start + COLUMNS_AT_ONCE]
            far = np.zeros((len(words_a), len(columns)), np.uint8)
            for parity in range(4):
                differing = np.bitwise_count(
                    words_a[:, parity, None] ^ columns[:, parity]
                ).view(np.int8)
                differing -= 32
                far += np.abs(differing, out=differing).view(np.uint8)
            i, j = np.nonzero(far >= least)
            if len(i):
                yield i + rows.start, j + start


def _by_parity(bits: Words) -> Words:
    """Sort the bits of hashes (n, 4) by parity: a word for each, (n, 4)."""
    single = np.unpackbits(np.ascontiguousarray(bits).view(np.uint8), axis=1)
    sorted_bits = np.take(single, _BY_PARITY, axis=1)
    return np.packbits(sorted_bits, axis=1).view(np.uint64)


def _confirmed(
    bits_a: Words, bits_b: Words, i: Ints, j: Ints, family: Family, max_distance: int
) -> list[Close]:
    """Return the candidates that are close, by orientation."""
    found = []
    for number in family:
        differing = np.bitwise_count(bits_a[i, number] ^ bits_b[j]).sum(axis=1)
        close = differing <= max_distance
        if close.any():
            orientation = np.full(close.sum(), number)
            found.append(Close(i[close], j[close], orientation))
    return found


def _in_order(parts: list[Close]) -> Close:
    """Join parts, by orientation, then by row."""
    rows_a, rows_b, orientation = (
        np.concatenate(column) for column in zip(*parts, strict=True)
    )
    order = np.lexsort((rows_b, rows_a, orientation))
    return Close(rows_a[order], rows_b[order], orientation[order])

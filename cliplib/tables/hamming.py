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

ROWS_AT_ONCE = 128
COLUMNS_AT_ONCE = 512
"""Pairs compared at once: so many that a core's cache holds them."""
PAIRS_AT_ONCE = 10_000
"""That are confirmed, and yielded: so that memory stays flat for look-alikes."""

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
    """Yield the pairs that differ in at most so many bits, some thousands at a time.

    A pair that is close in several orientations is yielded in their order.

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
    words_b = _by_parity(bits_b).T.copy()
    bounds = [_Bound(bits_a, family, max_distance) for family in families]
    parts: list[Close] = []
    for start in range(0, len(bits_a), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        for bound in bounds:
            for i, j in bound.candidates(rows, words_b, start if within else 0):
                later = j > i if within else np.full(len(i), True)
                parts += _confirmed(bound, i[later], j[later], bits_b, max_distance)
            if sum(len(part.rows_a) for part in parts) >= PAIRS_AT_ONCE:
                yield _in_order(parts)
                parts = []
    if parts:
        yield _in_order(parts)


class _Bound:
    """What some images' hashes allow to be close, in a family of orientations.

    Of 64 bits of one parity unrelated hashes differ in about 32. Close ones are far
    from that: to one side, or to the other where an orientation changes all signs of
    the parity, which none does with the first one.
    """

    def __init__(self, bits: Words, family: Family, max_distance: int) -> None:
        self.family = family
        self.bits = bits[:, list(family)]  # (n, 4, 4)
        words = _by_parity(bits[:, family.base])
        # The median is not quite 0: so many bits of a hash are not as its base says.
        odd = np.zeros(len(bits), np.int64)
        for number, changed in (
            (family.mirrored, _MIRRORED),
            (family.flipped, _FLIPPED),
            (family.both, _MIRRORED ^ _FLIPPED),
        ):
            expected = np.where(changed, ~words, words)
            differing = np.bitwise_count(_by_parity(bits[:, number]) ^ expected)
            odd = np.maximum(odd, differing.sum(axis=1))
        self._words = words.T.copy()
        # Differing bits of the first parity + those of the others, turned to the side
        # of few: sum of (32 - |differing - 32|), must be at most max_distance + odd.
        self._least = np.clip(96 - max_distance - odd, -64, 96).astype(np.int8)
        pairs = (ROWS_AT_ONCE, COLUMNS_AT_ONCE)
        self._different = np.empty(pairs, np.uint64)
        self._count = np.empty(pairs, np.int8)
        self._far = np.empty(pairs, np.int8)

    def candidates(
        self, rows: slice, words_b: Words, first: int
    ) -> Iterator[tuple[Ints, Ints]]:
        """Yield pairs of these rows, and rows of b from `first` on, that may be close.

        `words_b` are (4, m), as of `_by_parity`, turned.
        """
        words_a = self._words[:, rows]
        least = self._least[rows, None]
        parts: list[tuple[Ints, Ints]] = []
        for start in range(first, words_b.shape[1], COLUMNS_AT_ONCE):
            columns = words_b[:, start : start + COLUMNS_AT_ONCE]
            found = np.flatnonzero(self._far_from_unrelated(words_a, columns) >= least)
            if len(found):
                i, j = np.divmod(found, columns.shape[1])
                parts.append((i + rows.start, j + start))
            if sum(len(i) for i, _ in parts) >= PAIRS_AT_ONCE:
                yield _joined(parts)
                parts = []
        if parts:
            yield _joined(parts)

    def _far_from_unrelated(self, words_a: Words, words_b: Words) -> NDArray[np.int8]:
        """Return how far each pair is, (r, c): the same array each time."""
        here = np.s_[: words_a.shape[1], : words_b.shape[1]]
        different = self._different[here]
        count = self._count[here]
        far = self._far[here]
        far.fill(0)
        for parity in (1, 2, 3, 0):
            np.bitwise_xor(words_a[parity, :, None], words_b[parity], out=different)
            np.bitwise_count(different, out=count.view(np.uint8))
            if parity == 0:
                np.subtract(far, count, out=far)
            else:
                np.subtract(count, 32, out=count)
                np.abs(count, out=count)
                np.add(far, count, out=far)
        return far


def _joined(parts: list[tuple[Ints, Ints]]) -> tuple[Ints, Ints]:
    rows_a, rows_b = zip(*parts, strict=True)
    return np.concatenate(rows_a), np.concatenate(rows_b)


def _by_parity(bits: Words) -> Words:
    """Sort the bits of hashes (n, 4) by parity: a word for each, (n, 4)."""
    single = np.unpackbits(np.ascontiguousarray(bits).view(np.uint8), axis=1)
    sorted_bits = np.take(single, _BY_PARITY, axis=1)
    return np.packbits(sorted_bits, axis=1).view(np.uint64)


def _confirmed(
    bound: _Bound, i: Ints, j: Ints, bits_b: Words, max_distance: int
) -> list[Close]:
    """Return the candidates that are close, by orientation."""
    differing = np.bitwise_count(bound.bits[i] ^ bits_b[j, None])  # (m, 4, 4)
    distance = differing[..., 0].astype(np.int16)
    for word in (1, 2, 3):  # a sum over so short an axis takes three times as long
        distance += differing[..., word]
    found = []
    for place, number in enumerate(bound.family):
        close = np.flatnonzero(distance[:, place] <= max_distance)
        if len(close):
            found.append(Close(i[close], j[close], np.full(len(close), number)))
    return found


def _in_order(parts: list[Close]) -> Close:
    """Join parts, by orientation, then by row."""
    rows_a, rows_b, orientation = (
        np.concatenate(column) for column in zip(*parts, strict=True)
    )
    order = np.lexsort((rows_b, rows_a, orientation))
    return Close(rows_a[order], rows_b[order], orientation[order])

"""Pairs of perceptual hashes that differ in few bits, in any of eight orientations.

All are found, as by comparing each hash of one image with one of the other, in a
fraction of the operations. A hash's bits say which of 16 × 16 frequencies are stronger
than their median, which is about 0. Mirroring an image changes the sign of its odd
horizontal frequencies, and so these bits; flipping it those of its odd vertical ones.
So of the 64 bits of one parity (even or odd, vertically and horizontally), d of which
differ between two images, d or 64 - d differ in other orientations: four counts d bound
the distance in four orientations at once. A transposed hash gives the other four.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cliplib.data.arrays import Ints

Words = NDArray[np.uint64]

ROWS_AT_ONCE = 128
COLUMNS_AT_ONCE = 512
"""Pairs compared at once: so many that a core's cache holds them."""
PAIRS_AT_ONCE = 10_000
"""Pairs confirmed and yielded at once, so that memory stays flat for look-alikes."""

SIDE = 16
_ODD = np.arange(SIDE) % 2 == 1
# Of each bit: 0 even in both directions, 1 odd horizontally, 2 odd vertically, 3 both.
_PARITY = (2 * _ODD[:, None] + _ODD).ravel()
_BITS_BY_PARITY = np.argsort(_PARITY, kind="stable")  # 64 bits of each parity
# Of each parity: whether its bits change.
_MIRRORED = np.array([False, True, False, True])
_FLIPPED = np.array([False, False, True, True])


class Family(NamedTuple):
    """Numbers of four orientations that differ by mirroring and flipping."""

    base: int
    mirrored: int
    flipped: int
    both: int


class Pairs(NamedTuple):
    """Pairs of a row of a and a row of b, (m,) each."""

    rows_a: Ints
    rows_b: Ints


class ClosePairs(NamedTuple):
    """Pairs of rows, and the orientation of a in which they are close, (m,) each."""

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
) -> Iterator[ClosePairs]:
    """Yield the pairs that differ in at most `max_distance` bits, thousands at a time.

    A pair that is close in several orientations is yielded once for each.

    Parameters
    ----------
    bits_a
        Hashes of images in each orientation, (n, orientations, 4): 256 bits in four
        words, rows of frequencies one after another.
    bits_b
        Hashes of images as they are, (m, 4).
    families
        The orientations of `bits_a`, by their places in its second axis.
    max_distance
        How many of 256 bits may differ.
    within
        Whether both are of the same images: each pair is yielded once, with the earlier
        row as a.
    """
    words_b = _words_by_parity(bits_b).T.copy()
    bounds = [_DistanceBound(bits_a, family, max_distance) for family in families]
    found: list[ClosePairs] = []
    for start in range(0, len(bits_a), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        for bound in bounds:
            # Within one collection, earlier rows are paired with these already.
            for pairs in bound.candidates(rows, words_b, start if within else 0):
                if within:
                    is_later = pairs.rows_b > pairs.rows_a
                    pairs = Pairs(pairs.rows_a[is_later], pairs.rows_b[is_later])
                found += _confirmed(pairs, bound, bits_b, max_distance)
            if sum(len(close.rows_a) for close in found) >= PAIRS_AT_ONCE:
                yield _in_order(found)
                found = []
    if found:
        yield _in_order(found)


class _DistanceBound:
    """A lower bound on how many of 256 bits differ between hashes of a and hashes of b.

    It holds for a in each of the four orientations of a family.

    If d of the 64 bits of one parity differ, d or 64 - d differ in each orientation:
    32 - |d - 32| at least. The bits of the first parity, of even frequencies, never
    change. So the distance is at least d₀ + Σ (32 - |d - 32|), summed over the three
    other parities: 96 less the `_closeness` Σ |d - 32| - d₀.

    Attributes
    ----------
    family
        The orientations that are bounded.
    bits
        The hashes of a in each of them, (n, 4, 4).
    """

    def __init__(self, bits: Words, family: Family, max_distance: int) -> None:
        """Prepare hashes of a, (n, orientations, 4), and the least closeness of each.

        A hash of b that is less close than that to it differs in more than
        `max_distance` bits.
        """
        self.family = family
        self.bits = bits[:, list(family)]
        words = _words_by_parity(bits[:, family.base])
        self._words = words.T.copy()
        # The median is not quite 0, so that some bits of a mirrored or flipped image's
        # hash are not what the base's bits predict. Counted are those of the
        # orientation that has most of them: by so many the bound is lower.
        n_exceptions = np.zeros(len(bits), np.int64)
        for number, is_changed in (
            (family.mirrored, _MIRRORED),
            (family.flipped, _FLIPPED),
            (family.both, _MIRRORED ^ _FLIPPED),
        ):
            expected = np.where(is_changed, ~words, words)
            unexpected = _words_by_parity(bits[:, number]) ^ expected
            n_unexpected = np.bitwise_count(unexpected).sum(axis=1)
            n_exceptions = np.maximum(n_exceptions, n_unexpected)
        least = 96 - max_distance - n_exceptions
        # Clipped to what a closeness can be, it fits into eight bits.
        self._least_closeness = np.clip(least, -64, 96).astype(np.int8)
        # Allocated once, for `_closeness`.
        shape = (ROWS_AT_ONCE, COLUMNS_AT_ONCE)
        self._differing_bits = np.empty(shape, np.uint64)
        self._count = np.empty(shape, np.int8)
        self._sum = np.empty(shape, np.int8)

    def candidates(
        self, rows_a: slice, words_b: Words, first_b: int
    ) -> Iterator[Pairs]:
        """Yield the pairs whose bound is at most `max_distance` bits, in parts.

        Paired are `rows_a` with the rows of b from `first_b` on. `words_b` (4, m) has a
        word for each parity of all hashes of b: `_words_by_parity`, transposed.
        """
        words_a = self._words[:, rows_a]
        least = self._least_closeness[rows_a, None]
        found: list[Pairs] = []
        for start in range(first_b, words_b.shape[1], COLUMNS_AT_ONCE):
            columns = words_b[:, start : start + COLUMNS_AT_ONCE]
            places = np.flatnonzero(self._closeness(words_a, columns) >= least)
            if len(places):
                row, column = np.divmod(places, columns.shape[1])
                found.append(Pairs(row + rows_a.start, column + start))
            if sum(len(pairs.rows_a) for pairs in found) >= PAIRS_AT_ONCE:
                yield _joined(found)
                found = []
        if found:
            yield _joined(found)

    def _closeness(self, words_a: Words, words_b: Words) -> NDArray[np.int8]:
        """Return the closeness Σ |d - 32| - d₀ of each pair of hashes, (r, c).

        Of the 64 bits of the first parity d₀ differ, of those of each other parity d,
        over which is summed. The hashes are words by parity, (4, r) and (4, c). The
        next call overwrites the array that is returned.
        """
        block = np.s_[: words_a.shape[1], : words_b.shape[1]]
        differing_bits = self._differing_bits[block]
        count = self._count[block]
        closeness = self._sum[block]

        def count_differing(parity: int) -> None:
            """Write to `count`, (r, c), how many of the 64 bits of a parity differ."""
            row_words = words_a[parity, :, None]
            np.bitwise_xor(row_words, words_b[parity], out=differing_bits)
            np.bitwise_count(differing_bits, out=count.view(np.uint8))

        count_differing(0)
        np.negative(count, out=closeness)
        for parity in (1, 2, 3):
            count_differing(parity)
            np.subtract(count, 32, out=count)
            np.abs(count, out=count)
            np.add(closeness, count, out=closeness)
        return closeness


def _joined(parts: list[Pairs]) -> Pairs:
    """Return the pairs of all parts, one after another."""
    rows_a = np.concatenate([pairs.rows_a for pairs in parts])
    rows_b = np.concatenate([pairs.rows_b for pairs in parts])
    return Pairs(rows_a, rows_b)


def _words_by_parity(bits: Words) -> Words:
    """Sort the 256 bits of hashes (n, 4) by parity: a word for each parity, (n, 4)."""
    single = np.unpackbits(np.ascontiguousarray(bits).view(np.uint8), axis=1)
    sorted_bits = np.take(single, _BITS_BY_PARITY, axis=1)
    return np.packbits(sorted_bits, axis=1).view(np.uint64)


def _confirmed(
    candidates: Pairs, bound: _DistanceBound, bits_b: Words, max_distance: int
) -> list[ClosePairs]:
    """Return the candidates that differ in at most `max_distance` bits of 256.

    The list has an entry for each orientation of the bound's family in which there are
    any. `bits_b`, (n, 4), are hashes of images as they are; the bound has those of a.
    """
    rows_a, rows_b = candidates
    differing = np.bitwise_count(bound.bits[rows_a] ^ bits_b[rows_b, None])
    # (m, orientations, words); a sum over so short an axis takes three times as long.
    distance = differing[..., 0].astype(np.int16)
    for word in (1, 2, 3):
        distance += differing[..., word]
    found = []
    for column, number in enumerate(bound.family):
        close = np.flatnonzero(distance[:, column] <= max_distance)
        if len(close):
            orientation = np.full(len(close), number)
            found.append(ClosePairs(rows_a[close], rows_b[close], orientation))
    return found


def _in_order(parts: list[ClosePairs]) -> ClosePairs:
    """Join parts, sorted by orientation, then by row of a, then of b."""
    rows_a = np.concatenate([close.rows_a for close in parts])
    rows_b = np.concatenate([close.rows_b for close in parts])
    orientation = np.concatenate([close.orientation for close in parts])
    order = np.lexsort((rows_b, rows_a, orientation))
    return ClosePairs(rows_a[order], rows_b[order], orientation[order])

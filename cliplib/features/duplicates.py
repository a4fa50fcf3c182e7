"""Near-duplicates: the same image, changed a little, turned, mirrored or cropped.

Two images are near-duplicates when a perceptual hash (``imagehash.phash``, 256 bits)
proposes them and their detail confirms it, in one of the eight orientations that flips
and quarter turns give. The hash alone would not do: slices through different heads look
alike to it. Images that are cropped, shifted or turned by a few degrees are proposed by
hashes of cropped and turned versions, or by like features, and confirmed by
`cliplib.features.registration`. It is the library's own code, since kept libraries
compare hashes alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cliplib.data.arrays import Bools, Features, Floats, Ints, row_batches
from cliplib.data.cache import map_images
from cliplib.data.image import Images
from cliplib.features.crops import confirmed_crops, proposed_crops
from cliplib.features.groups import connected_groups
from cliplib.features.hamming import close_hashes
from cliplib.features.hashes import (
    GREY_SIDE,
    MAX_SIMPLE_DIFFERENCE,
    ORIENTATIONS,
    are_drawings,
    hash_records,
    image_hash,
    largest_difference,
    one_is_simple,
    quantised_detail,
    tints,
)

# Differing bits of 256; unrelated images differ in about 128.
MAX_DISTANCE = 72
# Of detail; hardly any pair of MRI slices lies from 0.82 to 0.86.
MIN_CORRELATION = 0.82

# Flags and hearts of one shape agree in all detail: tints must be the same as well.
# Of 255, between the tints of any two parts, and of drawings.
MAX_COLOUR_DIFFERENCE = 40
MAX_DRAWN_COLOUR_DIFFERENCE = 25
# Of 255, the tint of each part of a grey image.
MAX_GREY_TINT = 10
# Of grey levels, on average, where an image became grey.
MAX_GREY_SHIFT = 4

# Icons that agree in most of their detail differ in one place, and by 160 grey levels
# in most pairs. Copies differ nowhere by more than 72, drawings by 25, simple ones 15.
MAX_DIFFERENCE = 75
MAX_DRAWN_DIFFERENCE = 30
EVERYWHERE = np.ones((GREY_SIDE, GREY_SIDE), bool)

# Pairs whose detail is in memory together.
PAIRS_AT_ONCE = 512

SAME_PIXELS = "exact"
# Of pairs, and their types.
PAIR_TYPES = {
    "index_a": "int64",
    "index_b": "int64",
    "kind": "str",
    "orientation": "str",
    "correlation": "float64",
}


def find_near_duplicates(
    images_a: Images | NDArray[np.uint8],
    images_b: Images | NDArray[np.uint8] | None = None,
    *,
    features: Features | None = None,
    copies: str | float = "near",
    cropped: bool = True,
) -> pd.DataFrame:
    """Find near-duplicates within a collection of images, or between two.

    Within one collection the first of several images of the same pixels is paired with
    the others and stands for all of them.

    Parameters
    ----------
    images_a, images_b
        Each collection: paths, or other images that `load_image` reads; or what
        `image_hash` gives for them, a row of ``HASH_RECORD.itemsize`` bytes each.
        Without the second, pairs are sought within the first.
    features
        Features of the images of one collection, (n, d), deep ones at best: like images
        are then tried as cropped copies as well. Without them, only crops that keep the
        centre, and small turns, are found.
    copies
        "off": none count as near-duplicates; "exact": those of the same pixels; "near":
        those that show the same, cropped, mirrored or turned too; or the smallest
        correlation of detail that makes one, above 0 and up to 1, in place of 0.82.
    cropped
        Whether copies that are cropped, shifted or turned a little are sought.

    Returns
    -------
    pd.DataFrame
        A row for each pair: index_a and index_b (rows of the hashes), kind ("exact":
        same pixels; "near"; "cropped": one shows a part of the other, or is turned by a
        few degrees), orientation (what b is of a: a key of `ORIENTATIONS`), and
        correlation (of detail); in the order of index_a, then of index_b. A cropped
        copy is listed where nothing else connects its two images.

    Raises
    ------
    ValueError
        If `copies` is something else, or features come with two collections.
    """
    strictness = parse_copies(copies)
    is_within = images_b is None
    if features is not None and not is_within:
        raise ValueError("features are those of one collection: leave images_b out.")
    records = _records_of(images_a)
    n_first = len(records)
    if images_b is not None:
        records = np.append(records, _records_of(images_b))
    pairs, index_a, index_b = _exact_pairs(records, n_first, is_within)
    if strictness == "off":
        pairs = pairs[:0]
    elif strictness != SAME_PIXELS:
        least = MIN_CORRELATION if strictness == "near" else float(strictness)
        near = _near_pairs(records, index_a, index_b, least, is_within)
        candidates = pd.concat([pairs, *near])
        pairs = candidates[_agree_beyond_detail(records, candidates)]
        if cropped:
            grey = records["grey"]
            proposed = proposed_crops(grey, index_a, index_b, features, is_within)
            # Whether others are copies was judged above, or follows from other pairs.
            is_new = ~_are_among(proposed, candidates)
            is_new &= ~_are_connected(proposed, pairs, len(records))
            crops = confirmed_crops(records, proposed[is_new], least)
            pairs = pd.concat([pairs, crops])
    pairs = _one_row_for_each_pair(pairs[[*PAIR_TYPES]])
    if not is_within:
        pairs["index_b"] -= n_first
    return pairs.astype(PAIR_TYPES).reset_index(drop=True)


def _records_of(images: Images | NDArray[np.uint8]) -> NDArray[Any]:
    """Return the records of images, or of their hashes."""
    if not (isinstance(images, np.ndarray) and images.ndim == 2):
        (images,) = map_images(images, image_hash)
    return hash_records(images)


def _exact_pairs(
    records: NDArray[Any], n_first: int, is_within: bool
) -> tuple[pd.DataFrame, Ints, Ints]:
    """Return the pairs of the same pixels, and the rows a and b that others may be of.

    Pairs are within all records; or of the first `n_first` with the others. Images that
    could not be read have none.
    """
    rows = np.flatnonzero(records["digest"] != b"")  # which an unreadable image lacks
    images = pd.DataFrame({"digest": records["digest"][rows], "index": rows})
    # Within a collection the first of several images of the same pixels stands for all
    # of them: the others are paired with it alone.
    is_first = ~images["digest"].duplicated()
    is_a = is_first if is_within else images["index"] < n_first
    pairs = images[is_a].merge(images[~is_a], on="digest", suffixes=("_a", "_b"))
    pairs = pairs.assign(kind=SAME_PIXELS, orientation="", correlation=1.0)
    index_a = images["index"][is_a].to_numpy()
    index_b = images["index"][~is_a].to_numpy()
    return pairs, index_a, index_a if is_within else index_b


def _are_among(proposed: Ints, pairs: pd.DataFrame) -> Bools:
    """Return which of the proposed pairs of rows, (p, 2), stand in a table of pairs."""
    known = pd.MultiIndex.from_frame(pairs[["index_a", "index_b"]])
    return np.asarray(pd.MultiIndex.from_arrays(proposed.T).isin(known))


def _are_connected(proposed: Ints, pairs: pd.DataFrame, n_rows: int) -> Bools:
    """Return which of the proposed pairs of rows, (p, 2), other pairs connect.

    Rows are from 0 to `n_rows` - 1.
    """
    groups = connected_groups(n_rows, pairs["index_a"], pairs["index_b"])
    return np.asarray(groups[proposed[:, 0]] == groups[proposed[:, 1]])


def _one_row_for_each_pair(pairs: pd.DataFrame) -> pd.DataFrame:
    """Keep of each pair the exact row, or else that of the highest correlation.

    Images of the same pixels correlate as well, and a symmetric one does so in several
    orientations. Rows are returned in the order of index_a, then of index_b.
    """
    best_first = pairs.assign(is_exact=pairs["kind"] == SAME_PIXELS).sort_values(
        ["is_exact", "correlation"], ascending=False, kind="stable"
    )
    pair = ["index_a", "index_b"]
    return best_first.drop_duplicates(pair).sort_values(pair).drop(columns="is_exact")


def _near_pairs(
    records: NDArray[Any],
    index_a: Ints,
    index_b: Ints,
    min_correlation: float,
    is_within: bool,
) -> Iterator[pd.DataFrame]:
    """Yield the pairs that hashes propose and detail confirms, some at a time.

    `index_a` and `index_b` are rows of the records; within one collection, the same.
    """
    bits = records["bits"]
    orientations = list(ORIENTATIONS)
    detail = quantised_detail(records["grey"])
    upright = orientations.index("")
    for rows_a, rows_b, number in close_hashes(
        bits[index_a], bits[index_b, upright], MAX_DISTANCE, within=is_within
    ):
        a = index_a[rows_a]
        b = index_b[rows_b]
        orientation = orientations[number]
        pairs = pd.DataFrame(
            {
                "index_a": a,
                "index_b": b,
                "kind": "near",
                "orientation": orientation,
                "correlation": _correlations(detail, a, b, orientation),
            }
        )
        yield pairs[pairs["correlation"] >= min_correlation]


def _agree_beyond_detail(records: NDArray[Any], pairs: pd.DataFrame) -> Bools:
    """Return whether each pair, which agrees in detail, agrees in all else.

    Both images must have the same tints, unless one is grey and has the same grey
    levels; and nowhere may their grey levels differ much, but for brightness and
    contrast. Limits are narrower for drawings and simple images.
    """
    rows_a = pairs["index_a"].to_numpy()
    rows_b = pairs["index_b"].to_numpy()
    max_tint, max_difference = _limits(records["grey"], rows_a, rows_b)
    agrees = np.array(pairs["kind"] == SAME_PIXELS)
    for orientation, turn in ORIENTATIONS.items():
        chosen = np.flatnonzero((pairs["orientation"] == orientation) & ~agrees)
        for batch in row_batches(len(chosen), PAIRS_AT_ONCE):
            batch_pairs = chosen[batch]
            a = records[rows_a[batch_pairs]]
            b = records[rows_b[batch_pairs]]
            grey_a = turn(a["grey"])
            tints_a = tints(turn(a["colours"]))
            tints_b = tints(b["colours"])
            tint_difference = np.abs(tints_a - tints_b).max(axis=(1, 2, 3))
            has_same_tints = tint_difference <= max_tint[batch_pairs]
            has_same_tints |= _one_became_grey(grey_a, b["grey"], tints_a, tints_b)
            difference = [
                largest_difference(first, second, EVERYWHERE)
                for first, second in zip(grey_a, b["grey"], strict=True)
            ]
            is_alike = difference <= max_difference[batch_pairs]
            agrees[batch_pairs] = has_same_tints & is_alike
    return agrees


def _limits(grey: NDArray[np.uint8], rows_a: Ints, rows_b: Ints) -> tuple[Ints, Ints]:
    """Return how much tints, and grey levels, of each pair of rows may differ, (p,)."""
    is_drawing = are_drawings(grey)
    both_are_drawings = is_drawing[rows_a] & is_drawing[rows_b]
    max_tint = np.where(
        both_are_drawings, MAX_DRAWN_COLOUR_DIFFERENCE, MAX_COLOUR_DIFFERENCE
    )
    max_difference = np.select(
        [one_is_simple(grey, rows_a, rows_b), both_are_drawings],
        [MAX_SIMPLE_DIFFERENCE, MAX_DRAWN_DIFFERENCE],
        MAX_DIFFERENCE,
    )
    return max_tint, max_difference


def _one_became_grey(
    grey_a: NDArray[np.uint8],
    grey_b: NDArray[np.uint8],
    tints_a: Floats,
    tints_b: Floats,
) -> Bools:
    """Return whether one image of each pair is grey, with the other's grey levels.

    Grey levels are (p, 64, 64), tints (p, 3, 4, 4).
    """
    strongest = np.abs([tints_a, tints_b]).max(axis=(2, 3, 4))
    one_is_grey = strongest.min(axis=0) <= MAX_GREY_TINT
    shift = np.abs(grey_a.astype(np.int16) - grey_b).mean(axis=(1, 2))
    return np.asarray(one_is_grey & (shift <= MAX_GREY_SHIFT))


def _correlations(
    squares: NDArray[Any], rows_a: Ints, rows_b: Ints, orientation: str
) -> Floats:
    """Return Pearson's correlation of each of p squares with its other, (p,).

    They are rows of squares of whole numbers (n, s, s), the first of which is turned
    first. It is -1 to 1, and 0 where one of both is flat.
    """
    orient = ORIENTATIONS[orientation]
    correlations = [np.zeros(0)]
    for batch in row_batches(len(rows_a), PAIRS_AT_ONCE):
        turned_a = orient(squares[rows_a[batch]])
        a = turned_a.astype(np.float64).reshape(len(turned_a), -1)
        b = squares[rows_b[batch]].astype(np.float64).reshape(a.shape)
        # The sums are of whole numbers: exact, and the same in whatever order.
        sum_a = a.sum(axis=1)
        sum_b = b.sum(axis=1)
        n_pixels = a.shape[1]
        covariance = np.einsum("pd,pd->p", a, b) - sum_a * sum_b / n_pixels
        variance_a = np.einsum("pd,pd->p", a, a) - sum_a**2 / n_pixels
        variance_b = np.einsum("pd,pd->p", b, b) - sum_b**2 / n_pixels
        # 1e-6 instead of 0 for a flat square, whose covariance is 0.
        spread = np.maximum(np.sqrt(variance_a * variance_b), 1e-6)
        correlations.append(covariance / spread)
    return np.concatenate(correlations)


def near_duplicate_groups(
    hashes: NDArray[np.uint8],
    *,
    features: Features | None = None,
    copies: str | float = "near",
) -> Ints:
    """Return each image's group number, (n,), from 0 by first appearance.

    Images are in one group if they are near-duplicates, or if pairs of near-duplicates
    connect them through other images. Parameters are those of `find_near_duplicates`.
    """
    pairs = find_near_duplicates(hashes, features=features, copies=copies)
    return connected_groups(len(hashes), pairs["index_a"], pairs["index_b"])


def parse_copies(copies: str | float) -> str | float:
    """Return "off", "exact", "near", or a correlation above 0 and up to 1.

    ValueError for anything else.
    """
    if copies in ("off", "exact", "near"):
        return str(copies)
    try:
        threshold = float(copies)
    except (TypeError, ValueError):
        threshold = np.nan
    if not 0 < threshold <= 1:
        raise ValueError(
            f"copies={copies!r} is none of off, exact and near, and no correlation "
            "above 0 and up to 1."
        )
    return threshold

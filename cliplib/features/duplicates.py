"""Near-duplicates: the same image, changed a little, turned, mirrored or cropped.

Two images are near-duplicates when a perceptual hash (``imagehash.phash``, 256 bits)
proposes them and their detail confirms it, in one of the eight orientations that flips
and quarter turns give. The hash alone does not suffice: slices through different heads
have similar hashes. Images that are cropped, shifted or turned by a few degrees are
proposed by hashes of cropped and turned versions, or by similar features, and confirmed
by `cliplib.features.registration`. The library does this itself, since existing
packages compare hashes alone.
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
    HASH_RECORD,
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

# Largest number of differing bits, of 256, at which hashes propose a pair. Unrelated
# images differ in about 128.
MAX_DISTANCE = 72
# Smallest correlation of the detail of two copies. Hardly any pair of MRI slices has a
# correlation from 0.82 to 0.86.
MIN_CORRELATION = 0.82

# Flags and hearts of one shape agree in all detail, so tints must agree as well. These
# are the largest differences between the tints of any cell of two copies, and of two
# drawn copies, on a scale of 0 to 255.
MAX_COLOUR_DIFFERENCE = 40
MAX_DRAWN_COLOUR_DIFFERENCE = 25
# Largest tint of any cell of a grey image, on a scale of 0 to 255.
MAX_GREY_TINT = 10
# Largest mean difference, in grey levels, between an image and its grey copy.
MAX_GREY_SHIFT = 4

# Icons that agree in most of their detail differ in one place, by 160 grey levels in
# most pairs. These are the largest differences anywhere of two copies, and of two drawn
# copies, in grey levels: copies differ by up to 72, drawn ones by up to 25.
MAX_DIFFERENCE = 75
MAX_DRAWN_DIFFERENCE = 30
WHOLE_IMAGE = np.ones((GREY_SIDE, GREY_SIDE), bool)

# Number of pairs whose detail is in memory at once.
PAIRS_AT_ONCE = 512

SAME_PIXELS = "exact"
# Columns of a table of pairs, with their types.
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

    Within one collection, the first of several images of the same pixels is paired with
    the others and stands for all of them.

    Parameters
    ----------
    images_a, images_b
        The collections: paths, or other images that `load_image` reads; or the result
        of `image_hash` for them, a row of ``HASH_RECORD.itemsize`` bytes each. Without
        the second, pairs are sought within the first.
    features
        Features of the images of one collection, (n, d), ideally deep ones. Images with
        similar features are then tried as cropped copies as well; without features,
        only crops that keep the centre, and small turns, are found.
    copies
        What counts as a near-duplicate. "off": nothing; "exact": the same pixels;
        "near": the same content, also cropped, mirrored or turned; a number above 0 and
        up to 1: as "near", with this smallest correlation of detail in place of 0.82.
    cropped
        Whether copies that are cropped, shifted or turned a little are sought.

    Returns
    -------
    pd.DataFrame
        A row for each pair: index_a and index_b (rows of the collections), kind
        ("exact": same pixels; "near"; "cropped": one shows a part of the other, or is
        turned by a few degrees), orientation (of b relative to a: a key of
        `ORIENTATIONS`), and correlation (of detail). Pairs are sorted by index_a, then
        by index_b. A cropped pair is listed only where no other pairs connect its two
        images.

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
    exact, index_a, index_b = _exact_pairs(records["digest"], n_first, is_within)
    if strictness == "off":
        pairs = exact[:0]
    elif strictness == SAME_PIXELS:
        pairs = exact
    else:
        least = MIN_CORRELATION if strictness == "near" else float(strictness)
        near = _near_pairs(records, index_a, index_b, least, is_within)
        candidates = pd.concat([exact, *near])
        pairs = candidates[_agree_beyond_detail(records, candidates)]
        if cropped:
            proposed = proposed_crops(
                records["grey"], index_a, index_b, features, is_within
            )
            is_judged = _are_among(proposed, candidates)
            is_connected = _are_connected(proposed, pairs, len(records))
            to_register = proposed[~is_judged & ~is_connected]
            crops = confirmed_crops(records, to_register, least)
            pairs = pd.concat([pairs, crops])
    pairs = _one_row_for_each_pair(pairs[[*PAIR_TYPES]])
    if not is_within:
        pairs["index_b"] -= n_first
    return pairs.astype(PAIR_TYPES).reset_index(drop=True)


def _records_of(images: Images | NDArray[np.uint8]) -> NDArray[Any]:
    """Return the records of images, or of their hashes."""
    if not (isinstance(images, np.ndarray) and images.ndim == 2):
        (images,) = map_images(images, image_hash)
        if not len(images):
            return np.zeros(0, HASH_RECORD)
    return hash_records(images)


def _exact_pairs(
    digests: NDArray[np.bytes_], n_first: int, is_within: bool
) -> tuple[pd.DataFrame, Ints, Ints]:
    """Return the pairs of the same pixels, and the rows a and the rows b to compare.

    Pairs are within all rows, or between the first `n_first` rows and the others.
    """
    rows = np.flatnonzero(digests != b"")  # an unreadable image has no digest
    images = pd.DataFrame({"digest": digests[rows], "index": rows})
    # Within a collection, the first of several images of the same pixels stands for all
    # of them: the others are paired with it alone.
    is_first = ~images["digest"].duplicated()
    is_a = is_first if is_within else images["index"] < n_first
    pairs = images[is_a].merge(images[~is_a], on="digest", suffixes=("_a", "_b"))
    pairs = pairs.assign(kind=SAME_PIXELS, orientation="", correlation=1.0)
    index_a = rows[is_a]
    index_b = index_a if is_within else rows[~is_a]
    return pairs, index_a, index_b


def _are_among(proposed: Ints, pairs: pd.DataFrame) -> Bools:
    """Return whether each proposed pair of rows, (p, 2), is in a table of pairs."""
    listed = pd.MultiIndex.from_frame(pairs[["index_a", "index_b"]])
    return np.asarray(pd.MultiIndex.from_arrays(proposed.T).isin(listed))


def _are_connected(proposed: Ints, pairs: pd.DataFrame, n_rows: int) -> Bools:
    """Return whether other pairs connect each proposed pair of rows, (p, 2).

    Rows are numbered from 0 to `n_rows` - 1.
    """
    groups = connected_groups(n_rows, pairs["index_a"], pairs["index_b"])
    return np.asarray(groups[proposed[:, 0]] == groups[proposed[:, 1]])


def _one_row_for_each_pair(pairs: pd.DataFrame) -> pd.DataFrame:
    """Keep the exact row of each pair, or else the one with the highest correlation.

    Images of the same pixels are found as "near" as well, and a symmetric image in
    several orientations. Rows are sorted by index_a, then by index_b.
    """
    # "exact" is sorted before "near"; a cropped pair occurs only once.
    best_first = pairs.sort_values(["kind", "correlation"], ascending=[True, False])
    pair = ["index_a", "index_b"]
    return best_first.drop_duplicates(pair).sort_values(pair)


def _near_pairs(
    records: NDArray[Any],
    index_a: Ints,
    index_b: Ints,
    min_correlation: float,
    is_within: bool,
) -> Iterator[pd.DataFrame]:
    """Yield tables of pairs that hashes propose and detail confirms.

    Images of the rows `index_a` are compared with those of `index_b`, which within one
    collection are the same rows.
    """
    bits_a = records["bits"][index_a]
    upright_bits_b = records["bits"][index_b, 0]
    detail = quantised_detail(records["grey"])
    orientations = list(ORIENTATIONS)
    for positions_a, positions_b, number in close_hashes(
        bits_a, upright_bits_b, MAX_DISTANCE, within=is_within
    ):
        rows_a = index_a[positions_a]
        rows_b = index_b[positions_b]
        orientation = orientations[number]
        pairs = pd.DataFrame(
            {
                "index_a": rows_a,
                "index_b": rows_b,
                "kind": "near",
                "orientation": orientation,
                "correlation": _correlations(detail, rows_a, rows_b, orientation),
            }
        )
        yield pairs[pairs["correlation"] >= min_correlation]


def _agree_beyond_detail(records: NDArray[Any], pairs: pd.DataFrame) -> Bools:
    """Return whether each pair that agrees in detail also agrees in all else, (p,)."""
    pairs = _with_limits(pairs, records["grey"])
    agree = [
        pair.kind == SAME_PIXELS
        or _agree(records[pair.index_a], records[pair.index_b], pair)
        for pair in pairs.itertuples()
    ]
    return np.array(agree, bool)


def _with_limits(pairs: pd.DataFrame, grey: NDArray[np.uint8]) -> pd.DataFrame:
    """Add how much tints and grey levels may differ: max_tint and max_difference.

    Limits are narrower for drawings and simple images.
    """
    rows_a = pairs["index_a"].to_numpy()
    rows_b = pairs["index_b"].to_numpy()
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
    return pairs.assign(max_tint=max_tint, max_difference=max_difference)


def _agree(a: NDArray[Any], b: NDArray[Any], pair: Any) -> bool:
    """Return whether the two records of a pair agree in tints and grey levels.

    The tints must be the same, unless one image is a grey copy of the other. The grey
    levels may not differ much anywhere, once brightness and contrast are matched. The
    pair is a row of `_with_limits`.
    """
    orient = ORIENTATIONS[pair.orientation]
    grey_a = orient(a["grey"])
    tints_a = tints(orient(a["colours"]))
    tints_b = tints(b["colours"])
    has_same_tints = np.abs(tints_a - tints_b).max() <= pair.max_tint
    if not has_same_tints and not _one_became_grey(grey_a, b["grey"], tints_a, tints_b):
        return False
    difference = largest_difference(grey_a, b["grey"], WHOLE_IMAGE)
    return bool(difference <= pair.max_difference)


def _one_became_grey(
    grey_a: NDArray[np.uint8],
    grey_b: NDArray[np.uint8],
    tints_a: Floats,
    tints_b: Floats,
) -> bool:
    """Return whether one of two images is grey, with the grey levels of the other.

    Grey levels are (64, 64), tints (3, 4, 4).
    """
    one_is_grey = min(np.abs(tints_a).max(), np.abs(tints_b).max()) <= MAX_GREY_TINT
    shift = np.abs(grey_a.astype(np.int16) - grey_b).mean()
    return bool(one_is_grey and shift <= MAX_GREY_SHIFT)


def _correlations(
    detail: NDArray[np.int8], rows_a: Ints, rows_b: Ints, orientation: str
) -> Floats:
    """Return Pearson's correlation of the detail of each pair of rows, (p,).

    The first image of each pair is turned to the orientation before. The correlation is
    0 where one of the images is flat.
    """
    orient = ORIENTATIONS[orientation]
    correlations = np.empty(len(rows_a))
    for batch in row_batches(len(rows_a), PAIRS_AT_ONCE):
        turned_a = orient(detail[rows_a[batch]])
        a = turned_a.astype(np.float64).reshape(len(turned_a), -1)
        b = detail[rows_b[batch]].astype(np.float64).reshape(a.shape)
        # All sums are of whole numbers, and so exact in whatever order they are added.
        n_pixels = a.shape[1]
        sum_a = a.sum(axis=1)
        sum_b = b.sum(axis=1)
        covariance = np.vecdot(a, b) - sum_a * sum_b / n_pixels
        variance_a = np.vecdot(a, a) - sum_a**2 / n_pixels
        variance_b = np.vecdot(b, b) - sum_b**2 / n_pixels
        # The covariance with a flat square is 0; its spread must not be.
        spread = np.maximum(np.sqrt(variance_a * variance_b), 1e-6)
        correlations[batch] = covariance / spread
    return correlations


def near_duplicate_groups(
    hashes: NDArray[np.uint8],
    *,
    features: Features | None = None,
    copies: str | float = "near",
) -> Ints:
    """Return each image's group number, (n,), from 0 by first appearance.

    Images are in one group if they are near-duplicates, or if pairs of near-duplicates
    connect them through other images. The parameters are those of
    `find_near_duplicates`.
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
        threshold = np.nan  # refused below
    if not 0 < threshold <= 1:
        raise ValueError(
            f"copies={copies!r} is none of off, exact and near, and no correlation "
            "above 0 and up to 1."
        )
    return threshold

"""Near-duplicates, contradicting labels, and leaks between splits.

Two images are near-duplicates when a perceptual hash (``imagehash.phash``, 256 bits)
proposes them and their detail confirms it, in one of the eight orientations that flips
and quarter turns give. The hash alone would not do: slices through different heads look
alike to it. The detail is the grey 64 × 64 image less its local mean, over its local
contrast (Jarrett et al., ICCV 2009, section 2.2): brightness hardly matters, a crop
does. It is the library's own code, since kept libraries compare hashes alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pandas as pd
import xxhash
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dct
from scipy.ndimage import gaussian_filter

from cliplib.data.arrays import Features, Floats, Ints
from cliplib.data.cache import FeatureCache, ImageFunction, cached_array, map_images
from cliplib.data.image import file_facts
from cliplib.features.groups import connected_groups
from cliplib.features.hamming import Family, close_hashes

MAX_DISTANCE = 72  # differing bits of 256; unrelated images differ in about 128
# Of detail; hardly any pair of MRI slices lies from 0.82 to 0.86.
MIN_CORRELATION = 0.82

GREY_SIDE = 64  # pixels of the small grey image
HASH_SIDE = 16  # lowest frequencies in each direction, which the hash keeps


def _as_it_is(square: NDArray[Any]) -> NDArray[Any]:
    return square


def _mirrored(square: NDArray[Any]) -> NDArray[Any]:
    return square[..., ::-1]


def _flipped(square: NDArray[Any]) -> NDArray[Any]:
    return square[..., ::-1, :]


def _half_turned(square: NDArray[Any]) -> NDArray[Any]:
    return square[..., ::-1, ::-1]


def _transposed(square: NDArray[Any]) -> NDArray[Any]:
    return square.swapaxes(-1, -2)


def _quarter_turned_left(square: NDArray[Any]) -> NDArray[Any]:
    return _flipped(_transposed(square))


def _quarter_turned_right(square: NDArray[Any]) -> NDArray[Any]:
    return _mirrored(_transposed(square))


def _transversed(square: NDArray[Any]) -> NDArray[Any]:
    return _half_turned(_transposed(square))


ORIENTATIONS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "": _as_it_is,
    "mirrored": _mirrored,
    "flipped": _flipped,
    "turned 180°": _half_turned,
    "turned 90° left": _quarter_turned_left,
    "turned 90° right": _quarter_turned_right,
    "transposed": _transposed,
    "transversed": _transversed,
}
"""What image b may be of image a, such as "mirrored", and the function that turns
squares of pixels (…, s, s) into that."""

_NUMBER = {name: number for number, name in enumerate(ORIENTATIONS)}
FAMILIES = (
    Family(
        base=_NUMBER[""],
        mirrored=_NUMBER["mirrored"],
        flipped=_NUMBER["flipped"],
        both=_NUMBER["turned 180°"],
    ),
    Family(
        base=_NUMBER["transposed"],
        mirrored=_NUMBER["turned 90° right"],
        flipped=_NUMBER["turned 90° left"],
        both=_NUMBER["transversed"],
    ),
)

_SAME_PIXELS = "exact"
_SAME_IMAGE = "near"

# What is kept of an image: a digest of its size and pixels; its hash in each
# orientation, 256 bits in four words; its detail, from -127 to 127.
HASH_RECORD = np.dtype(
    [
        ("digest", "S16"),
        ("bits", "u8", (len(ORIENTATIONS), 4)),
        ("detail", "i1", (GREY_SIDE, GREY_SIDE)),
    ]
)


def _hash(images: list[Image.Image]) -> NDArray[np.uint8]:
    """Return digest, hash bits and detail of n images, a `HASH_RECORD` each, as bytes.

    The answer is (n, 4368) uint8.
    """
    grey = np.stack([_small_grey(image) for image in images])
    records = np.zeros(len(images), HASH_RECORD)
    records["digest"] = [_pixel_digest(image) for image in images]
    records["bits"] = _hash_bits(grey)
    records["detail"] = _detail(grey)
    return records.view(np.uint8).reshape(len(images), -1)


def _pixel_digest(image: Image.Image) -> bytes:
    """Return 16 bytes that only RGB images of the same size and pixels share."""
    return xxhash.xxh3_128_digest(f"{image.size}".encode() + image.tobytes())


def _small_grey(image: Image.Image) -> Features:
    """Return an image's grey levels, 0 to 255, squeezed to a square, (64, 64)."""
    grey = image.convert("L")
    size = (GREY_SIDE, GREY_SIDE)
    # A large image is first shrunk by a whole factor, which is fast, to three times
    # this size or more, so that the answer hardly changes.
    small = grey.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    return np.asarray(small, np.float32)


def _hash_bits(grey: Features) -> NDArray[np.uint64]:
    """Hash grey images (n, s, s) in each of 8 orientations: (n, 8, 4) words of 64 bits.

    Each bit says whether one of the 16 × 16 lowest frequencies is above their median.
    """
    turned = [orient(grey) for orient in ORIENTATIONS.values()]
    pixels = np.stack(turned, axis=1).astype(np.float64)  # (n, 8, s, s)
    rows = dct(pixels, axis=2)[:, :, :HASH_SIDE]
    low = dct(rows, axis=3)[..., :HASH_SIDE].reshape(len(grey), len(ORIENTATIONS), -1)
    above_median = low > np.median(low, axis=2, keepdims=True)  # (n, 8, 256)
    return np.packbits(above_median, axis=2).view(np.uint64)


def _detail(grey: Features) -> NDArray[np.int8]:
    """Return grey images (n, s, s) less their local mean, over their local contrast.

    The contrast is the root mean square of what is left. Local means are Gaussian, of
    sigma 1 pixel. Each image is scaled to a largest absolute value of 127; a flat one
    is all 0.
    """
    sigma = (0, 1, 1)  # not across images
    noise = 16  # grey levels, added so that noise in even parts does not become detail
    fine = grey - gaussian_filter(grey, sigma)
    fine /= np.sqrt(gaussian_filter(fine**2, sigma)) + noise
    peak = np.abs(fine).max(axis=(1, 2), keepdims=True)
    return np.asarray(np.rint(127 * fine / np.maximum(peak, 1e-3)), np.int8)


image_hash = ImageFunction("image_hash_2", _hash)
"""What near-duplicates are found by, (n, 4368) uint8. The row of an unreadable image is
zeros, which match nothing."""


def find_near_duplicates(
    hashes_a: NDArray[np.uint8],
    hashes_b: NDArray[np.uint8] | None = None,
    *,
    max_distance: int = MAX_DISTANCE,
    min_correlation: float = MIN_CORRELATION,
    cache: FeatureCache | None = None,
) -> pd.DataFrame:
    """Find near-duplicates within a collection, or between two, from `image_hash`.

    Within one collection the first of several images of the same pixels is paired with
    the others and stands for all of them.

    Parameters
    ----------
    hashes_a, hashes_b
        What `image_hash` gives for each collection, (n, 4368) and (m, 4368); without
        the second, pairs are sought within the first.
    max_distance
        Up to how many of the hash's 256 bits may differ.
    min_correlation
        Smallest correlation of detail, at most 1, that confirms a pair.
    cache
        Where the pairs are kept: the same hashes are compared once.

    Returns
    -------
    pd.DataFrame
        A row for each pair: index_a and index_b (rows of the hashes), kind ("exact":
        same pixels; "near"), orientation (what b is of a: a key of `ORIENTATIONS`), and
        correlation (of detail); in the order of index_a, then of index_b.
    """
    # Pairs are kept under all that they depend on: the thresholds and the hashes.
    contents = [hashes_a] if hashes_b is None else [hashes_a, hashes_b]
    digests = [
        xxhash.xxh3_128_hexdigest(np.ascontiguousarray(content).data)
        for content in contents
    ]
    thresholds = f"{max_distance}:{min_correlation}"
    key = ":".join(["near_duplicates_2", thresholds, *digests])
    # What the cache holds under the key, or else what the function returns.
    numbers = cached_array(
        cache, key, lambda: _pairs(hashes_a, hashes_b, max_distance, min_correlation)
    )
    pairs = pd.DataFrame(numbers, columns=_PAIR_COLUMNS)
    orientations = np.array(list(ORIENTATIONS))[pairs["orientation"].astype(np.int64)]
    kinds = np.where(pairs["exact"] == 1, _SAME_PIXELS, _SAME_IMAGE)
    return pd.DataFrame(
        {
            "index_a": pairs["index_a"].astype(np.int64),
            "index_b": pairs["index_b"].astype(np.int64),
            "kind": pd.Series(kinds, dtype="str"),
            "orientation": pd.Series(orientations, dtype="str"),
            "correlation": pairs["correlation"],
        }
    )


# Of pairs as they are found and kept, in numbers: exact is 1 or 0, the orientation its
# place in ORIENTATIONS.
_PAIR_COLUMNS = ["index_a", "index_b", "exact", "orientation", "correlation"]


def _pairs(
    hashes_a: NDArray[np.uint8],
    hashes_b: NDArray[np.uint8] | None,
    max_distance: int,
    min_correlation: float,
) -> Floats:
    """Return the near-duplicates within `hashes_a`, or between these and `hashes_b`.

    A row for each pair, (p, 5), with the columns `_PAIR_COLUMNS`, in the order of
    index_a, then of index_b. Images that could not be read have no pairs.
    """
    records_a = _records(hashes_a)
    readable_a = _readable(records_a)
    if hashes_b is None:
        records_b = records_a
        # The first of several images of the same pixels stands for all of them: the
        # others are paired with it alone.
        is_repeated = readable_a["digest"].duplicated()
        repeated = readable_a[is_repeated]
        readable_a = readable_a[~is_repeated]
        readable_b = readable_a
        exact = _pairs_of_same_pixels(readable_a, repeated)
    else:
        records_b = _records(hashes_b)
        readable_b = _readable(records_b)
        exact = _pairs_of_same_pixels(readable_a, readable_b)
    rows_a = readable_a["index"].to_numpy()
    rows_b = readable_b["index"].to_numpy()
    as_they_are = _NUMBER[""]
    # Hashes propose pairs, and detail confirms them.
    near = []
    for close in close_hashes(
        records_a["bits"][rows_a],
        records_b["bits"][rows_b, as_they_are],
        FAMILIES,
        max_distance,
        within=hashes_b is None,
    ):
        candidates = pd.DataFrame(
            {
                "index_a": rows_a[close.rows_a],
                "index_b": rows_b[close.rows_b],
                "exact": 0,
                "orientation": close.orientation,
            }
        )
        correlation = _detail_correlation(records_a, records_b, candidates)
        candidates["correlation"] = correlation
        near.append(candidates[correlation >= min_correlation])
    pairs = _one_row_for_each_pair(pd.concat([exact, *near]))
    return np.asarray(pairs[_PAIR_COLUMNS], np.float64)


def _one_row_for_each_pair(pairs: pd.DataFrame) -> pd.DataFrame:
    """Keep of each pair the exact row, or else that of the highest correlation.

    Images of the same pixels correlate as well, and a symmetric one does so in several
    orientations. Rows are returned in the order of index_a, then of index_b.
    """
    order = ["exact", "correlation"]
    best_first = pairs.sort_values(order, ascending=False, kind="stable")
    pair = ["index_a", "index_b"]
    return best_first.drop_duplicates(pair).sort_values(pair)


def _records(hashes: NDArray[np.uint8]) -> NDArray[Any]:
    """View what `image_hash` returns, (n, 4368), as records of `HASH_RECORD`, (n,)."""
    return np.ascontiguousarray(hashes).view(HASH_RECORD)[:, 0]


def _readable(records: NDArray[Any]) -> pd.DataFrame:
    """Return digest and index, the row number, of each image that could be read.

    The records (n,) of all other images are zeros.
    """
    rows = np.flatnonzero(records["digest"] != b"")
    return pd.DataFrame({"digest": records["digest"][rows], "index": rows})


def _pairs_of_same_pixels(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """Pair each image of `a` with each image of `b` that has the same digest.

    Both have the columns digest and index; the pairs have `_PAIR_COLUMNS`.
    """
    pairs = a.merge(b, on="digest", suffixes=("_a", "_b"))
    indices = pairs[["index_a", "index_b"]]
    return indices.assign(exact=1, orientation=_NUMBER[""], correlation=1.0)


def _detail_correlation(
    a: NDArray[Any], b: NDArray[Any], pairs: pd.DataFrame
) -> Features:
    """Return each pair's correlation of detail, (p,): of image a, turned as b, with b.

    It is -1 to 1, and 0 where one of both images is flat. `a` and `b` are records of
    `HASH_RECORD`; `pairs` has index_a and index_b, rows of these, and orientation, a
    place in `ORIENTATIONS`.
    """
    correlation = np.zeros(len(pairs), np.float32)
    orient_functions = list(ORIENTATIONS.values())
    index_a = pairs["index_a"].to_numpy()
    index_b = pairs["index_b"].to_numpy()
    for orientation, pair_rows in pairs.groupby("orientation").indices.items():
        orient = orient_functions[orientation]
        # Each image a is multiplied with each image b of a chunk. They are so few that
        # few of these products are of no pair, and that memory stays flat.
        for some_pairs in _by_image(pair_rows, index_a, 32):
            for chunk in _by_image(some_pairs, index_b, 512):
                rows_a, place_a = np.unique(index_a[chunk], return_inverse=True)
                rows_b, place_b = np.unique(index_b[chunk], return_inverse=True)
                detail_a = orient(a["detail"][rows_a])
                each_with_each = _correlation(detail_a, b["detail"][rows_b])
                correlation[chunk] = each_with_each[place_a, place_b]
    return correlation


def _by_image(pair_rows: Ints, image_of_pair: Ints, size: int) -> Iterator[Ints]:
    """Yield some of `pair_rows` at a time: the pairs of the next `size` images.

    `image_of_pair` (p,) holds the first image of all pairs, or the second.
    """
    _, number = np.unique(image_of_pair[pair_rows], return_inverse=True)
    part = number // size  # images are numbered from 0
    by_part = np.argsort(part, kind="stable")
    starts = np.flatnonzero(np.diff(part[by_part])) + 1  # but the first
    yield from np.split(pair_rows[by_part], starts)


def _correlation(detail_a: NDArray[np.int8], detail_b: NDArray[np.int8]) -> Floats:
    """Return Pearson's correlation of each detail of a with each of b, (m, n).

    Details are squares of whole numbers, (m, s, s) and (n, s, s), as in `HASH_RECORD`.
    It is 0 where one of both is flat.
    """
    rows_a = detail_a.reshape(len(detail_a), -1).astype(np.float32)
    rows_b = detail_b.reshape(len(detail_b), -1).astype(np.float32)
    n_pixels = rows_a.shape[1]
    # Whole numbers are added in float32 without rounding, in whatever order, while
    # their sums are below 2²⁴, as they are for all but the strongest details.
    products = (rows_a @ rows_b.T).astype(float)
    sums_a = rows_a.sum(axis=1, dtype=float)
    sums_b = rows_b.sum(axis=1, dtype=float)
    squares_a = np.einsum("md,md->m", rows_a, rows_a).astype(float)
    squares_b = np.einsum("nd,nd->n", rows_b, rows_b).astype(float)
    covariance = products - np.outer(sums_a, sums_b) / n_pixels
    variance_a = squares_a - sums_a**2 / n_pixels
    variance_b = squares_b - sums_b**2 / n_pixels
    scale = np.sqrt(np.outer(variance_a, variance_b))
    # 1e-6 instead of 0 for a flat square, whose covariance is 0.
    return np.asarray(covariance / np.maximum(scale, 1e-6))


def near_duplicate_groups(
    hashes: NDArray[np.uint8],
    pairs: pd.DataFrame | None = None,
    *,
    cache: FeatureCache | None = None,
) -> Ints:
    """Return each image's group number, (n,), from 0 by first appearance.

    Images are in one group if they are near-duplicates, or if pairs of near-duplicates
    connect them through other images. `pairs` are rows of what `find_near_duplicates`
    returns for these hashes (n, 4368); by default all are found, and kept in the
    `cache`.
    """
    if pairs is None:
        pairs = find_near_duplicates(hashes, cache=cache)
    return connected_groups(len(hashes), pairs["index_a"], pairs["index_b"])


LEVELS = ("bytes", "exact", "near", "reoriented")
"""How alike copies are, the most alike first: the same file; the same pixels; the same
image, upright; or turned. Copies at one level are copies at those after it."""


@dataclass(frozen=True, eq=False, repr=False)
class Audit:
    """What `audit_dataset` found; it shows as its summary.

    `images` has a row for each image: id, label, split, group, error, and what
    `cliplib.data.image.file_facts` says. `pairs` are those of `find_near_duplicates`,
    with id, label and split of both (``_a``, ``_b``); `conflicts` those of different
    labels. `leaks` are the images that have a copy in an earlier split, with the first
    of the `LEVELS` that has one, and the id and split of that copy. `summary` has the
    column count, by measure.
    """

    images: pd.DataFrame
    pairs: pd.DataFrame
    conflicts: pd.DataFrame
    leaks: pd.DataFrame
    summary: pd.DataFrame

    def __repr__(self) -> str:
        """Show the counts that are not 0."""
        return str(self.summary[self.summary["count"] > 0].to_string())


def audit_dataset(
    dataset: datasets.Dataset, *, cache: FeatureCache | None = None
) -> Audit:
    """Find near-duplicates, contradicting labels, leaks, and unreadable files.

    `dataset` has the columns id, image, label and split, as `cliplib.load_dataset`
    returns it. Hashes and pairs are kept in the `cache`. A ValueError says if not one
    image can be read.
    """
    sources = list(dataset["image"])
    errors_by_row: dict[int, str] = {}
    (hashes,) = map_images(sources, image_hash, cache=cache, errors=errors_by_row)
    if len(errors_by_row) == len(sources):
        reason = errors_by_row.get(0, "The data set is empty.")
        raise ValueError(f"No image can be read. {reason}")
    images = _image_rows(dataset, sources, errors_by_row)
    # A file that cannot be read has no digest: with its id instead, it has no copy.
    file_groups = pd.factorize(images["digest"].fillna(images["id"]))[0]
    images = images.drop(columns="digest")
    pairs = _with_names(find_near_duplicates(hashes, cache=cache), images)
    groups_by_level = _groups_by_level(hashes, pairs, file_groups)
    images["group"] = groups_by_level["reoriented"]
    conflicts = pairs[pairs["label_a"] != pairs["label_b"]].reset_index(drop=True)
    leaks = _leaks(images, groups_by_level)
    summary = _summary(images, pairs, conflicts, leaks, file_groups)
    return Audit(images, pairs, conflicts, leaks, summary)


def _image_rows(
    dataset: datasets.Dataset, sources: list[Any], errors_by_row: dict[int, str]
) -> pd.DataFrame:
    """Return a row for each image: id, label, split, error, and what its file tells.

    The label is the class's name, the error "" for an image that could be read. The
    other columns are the `file_facts` of its source, NaN if it could not be read.
    """
    images = dataset.select_columns(["id", "label", "split"]).to_pandas()
    images["label"] = dataset.features["label"].int2str(list(images["label"]))
    images["error"] = [errors_by_row.get(row, "") for row in images.index]
    facts = [
        {} if row in errors_by_row else file_facts(source)
        for row, source in enumerate(sources)
    ]
    return images.join(pd.DataFrame(facts))


def _with_names(pairs: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    """Return the pairs with id, label and split of both images, as id_a and id_b.

    Their index_a and index_b are row numbers of `images`.
    """
    for side in ("a", "b"):
        of_side = images.loc[pairs[f"index_{side}"], ["id", "label", "split"]]
        of_side.index = pairs.index
        pairs = pairs.join(of_side.add_suffix(f"_{side}"))
    return pairs


def _groups_by_level(
    hashes: NDArray[np.uint8], pairs: pd.DataFrame, file_groups: Ints
) -> dict[str, Ints]:
    """Return each image's group number, (n,), at each of `LEVELS`, equal for copies.

    `pairs` are all near-duplicates; `file_groups` (n,) are the numbers at the first
    level, equal for equal files.
    """
    exact = pairs[pairs["kind"] == _SAME_PIXELS]
    upright = pairs[pairs["orientation"] == ""]
    return {
        "bytes": file_groups,
        "exact": near_duplicate_groups(hashes, exact),
        "near": near_duplicate_groups(hashes, upright),
        "reoriented": near_duplicate_groups(hashes, pairs),
    }


def _leaks(images: pd.DataFrame, groups_by_level: dict[str, Ints]) -> pd.DataFrame:
    """Return the images with a copy in an earlier split, each with one such copy.

    It is the first in the earliest split, at the level of the most alike copies; at the
    last two levels other images may connect the two. Splits are ordered train, val,
    test. Validation images leak as well: something is chosen on them. Images without a
    split are no leaks, and nothing leaks from them. `groups_by_level` has the group
    number of each image, (n,), at each of `LEVELS`.
    """
    in_splits = images[["id", "label", "split", "group"]].rename_axis("row")
    in_splits = in_splits.reset_index()
    in_splits["order"] = in_splits["split"].map({"train": 0, "val": 1, "test": 2})
    in_splits = in_splits.dropna(subset="order")
    by_level = []
    for level, group_of_row in groups_by_level.items():
        copy_group = group_of_row[in_splits["row"]]
        by_level.append(
            _with_earlier_copy(in_splits.assign(level=level, copy_group=copy_group))
        )
    # An image that leaks at several levels is kept at the first, of the most alike.
    leaks = pd.concat(by_level).drop_duplicates("row").sort_values("row")
    columns = ["id", "label", "split", "group", "level"]
    columns += ["duplicate_id", "duplicate_split"]
    return leaks[columns].reset_index(drop=True)


def _with_earlier_copy(images: pd.DataFrame) -> pd.DataFrame:
    """Return the images with a copy in an earlier split, and that copy's id and split.

    `images` has the columns id, split, order (of the split, from 0) and copy_group,
    equal for copies. Added are duplicate_id, duplicate_split and duplicate_order, of
    the first copy in the earliest split.
    """
    earliest_first = images.sort_values("order", kind="stable")
    earliest = earliest_first.drop_duplicates("copy_group").set_index("copy_group")
    duplicates = earliest[["id", "split", "order"]].add_prefix("duplicate_")
    beside = images.join(duplicates, on="copy_group")
    return beside[beside["duplicate_order"] < beside["order"]]


def _summary(
    images: pd.DataFrame,
    pairs: pd.DataFrame,
    conflicts: pd.DataFrame,
    leaks: pd.DataFrame,
    file_groups: Ints,
) -> pd.DataFrame:
    """Count images, pairs, groups and leaks: a column count, indexed by measure.

    ``byte_copies`` are images whose file equals that of an earlier image, by
    `file_groups` (n,), equal for equal files; ``exact_copies`` and the next three are
    pairs. Leaks of test images are counted up to each of `LEVELS`: at it, or at one
    before it.
    """
    group_sizes = images["group"].value_counts()
    is_exact = pairs["kind"] == _SAME_PIXELS
    is_reoriented = pairs["orientation"] != ""
    counts: dict[str, int] = {
        "images": len(images),
        "unreadable": (images["error"] != "").sum(),
        "modes": images["mode"].nunique(),  # how many colour modes, such as RGB
        "sizes": len(images[["width", "height"]].dropna().drop_duplicates()),
        "byte_copies": pd.Series(file_groups).duplicated().sum(),
        "exact_copies": is_exact.sum(),
        "near_pairs": (~is_exact & ~is_reoriented).sum(),
        "mirrored_pairs": (pairs["orientation"] == "mirrored").sum(),
        "turned_pairs": (is_reoriented & (pairs["orientation"] != "mirrored")).sum(),
        "groups": len(group_sizes),
        "groups_of_several": (group_sizes > 1).sum(),
        "largest_group": group_sizes.max(),
        "label_conflicts": len(conflicts),
        "val_leaks": (leaks["split"] == "val").sum(),
    }
    at_level = leaks.loc[leaks["split"] == "test", "level"].value_counts()
    up_to_level = at_level.reindex(LEVELS, fill_value=0).cumsum()
    counts |= {f"test_leaks_{level}": up_to_level[level] for level in LEVELS}
    summary = pd.DataFrame({"count": counts}).rename_axis("measure")
    return summary.astype(np.int64)

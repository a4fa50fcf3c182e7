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

from cliplib.arrays import Features, Ints
from cliplib.images.cache import FeatureCache, ImageFunction, map_images
from cliplib.images.image import file_facts
from cliplib.tables.groups import connected_groups

MAX_DISTANCE = 72  # differing bits of 256; unrelated images differ in about 128
MIN_CORRELATION = (
    0.82  # of detail; hardly any pair of MRI slices lies from 0.82 to 0.86
)

SIDE = 64  # pixels of the small grey image
LOW = 16  # of its frequencies, in each direction, the hash keeps the lowest


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
"""What one image may be of another, and how a square of pixels (…, s, s) becomes it."""

_SAME_PIXELS = "exact"
_SAME_IMAGE = "near"

# What is known of an image: its size and pixels; its hash in each orientation, 256 bits
# in four words; its detail.
_HASH = np.dtype(
    [
        ("digest", "S16"),
        ("bits", "u8", (len(ORIENTATIONS), 4)),
        ("detail", "i1", (SIDE, SIDE)),
    ]
)


def _hash(images: list[Image.Image]) -> NDArray[np.uint8]:
    """Describe n images: rows of `_HASH`, as bytes, (n, 4368)."""
    grey = np.stack([_small_grey(image) for image in images])
    rows = np.zeros(len(images), _HASH)
    rows["digest"] = [_pixel_digest(image) for image in images]
    rows["bits"] = _hash_bits(grey)
    rows["detail"] = _detail(grey)
    return rows.view(np.uint8).reshape(len(images), -1)


def _pixel_digest(image: Image.Image) -> bytes:
    return xxhash.xxh3_128_digest(f"{image.size}".encode() + image.tobytes())


def _small_grey(image: Image.Image) -> Features:
    grey = image.convert("L")
    small = grey.resize((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return np.asarray(small, np.float32)


def _hash_bits(grey: Features) -> NDArray[np.uint64]:
    """Hash grey images (n, s, s) in each orientation, (n, 8, 4)."""
    turned = [orient(grey) for orient in ORIENTATIONS.values()]
    pixels = np.stack(turned, axis=1).astype(np.float64)
    rows = dct(pixels, axis=2)[:, :, :LOW]
    low = dct(rows, axis=3)[..., :LOW].reshape(len(grey), len(ORIENTATIONS), -1)
    above_median = low > np.median(low, axis=2, keepdims=True)
    return np.packbits(above_median, axis=2).view(np.uint64)


def _detail(grey: Features) -> NDArray[np.int8]:
    """Return what is left of grey images (n, s, s) without light and local contrast."""
    sigma = (0, 1, 1)  # pixels of the small image
    noise = 16  # grey levels that are no detail
    fine = grey - gaussian_filter(grey, sigma)
    fine /= np.sqrt(gaussian_filter(fine**2, sigma)) + noise
    peak = np.abs(fine).max(axis=(1, 2), keepdims=True)
    return np.asarray(np.rint(127 * fine / np.maximum(peak, 1e-3)), np.int8)


image_hash = ImageFunction("image_hash_2", _hash)
"""What near-duplicates are found by, (n, 4368) uint8; zeros, an unreadable image, match
nothing."""


def find_near_duplicates(
    hashes_a: NDArray[np.uint8],
    hashes_b: NDArray[np.uint8] | None = None,
    *,
    max_distance: int = MAX_DISTANCE,
    min_correlation: float = MIN_CORRELATION,
) -> pd.DataFrame:
    """Find near-duplicates within a collection, or between two, from `image_hash`.

    Columns: index_a, index_b, kind ("exact": same pixels; "near"), orientation (what b
    is of a: a key of `ORIENTATIONS`), and correlation of detail. Within one collection
    the first of several images of the same pixels is paired with the others and stands
    for all of them.
    """
    a = _described(hashes_a)
    if hashes_b is None:
        exact, distinct = _repeated_pixels(a)
        proposed = _proposed_within(a, distinct, max_distance)
        b = a
    else:
        b = _described(hashes_b)
        exact = _shared_pixels(a, b)
        proposed = _proposed_between(a, b, max_distance)
    correlation = _detail_correlation(a, b, proposed)
    near = proposed.assign(kind=_SAME_IMAGE, correlation=correlation)
    near = near[near["correlation"] >= min_correlation]
    near = near.sort_values("correlation", ascending=False, kind="stable")
    # Images of the same pixels correlate as well, and a symmetric one in several
    # orientations: of each pair the first row counts.
    pair = ["index_a", "index_b"]
    pairs = pd.concat([exact, near]).drop_duplicates(pair)
    return pairs.sort_values(pair, ignore_index=True)


def _described(hashes: NDArray[np.uint8]) -> NDArray[Any]:
    return np.ascontiguousarray(hashes).view(_HASH)[:, 0]


def _readable(described: NDArray[Any]) -> Ints:
    return np.flatnonzero(described["digest"] != b"")


def _by_digest(described: NDArray[Any], rows: Ints) -> pd.DataFrame:
    return pd.DataFrame({"digest": described["digest"][rows], "index": rows})


def _exact_pairs(ours: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
    pairs = ours.merge(theirs, on="digest", suffixes=("_a", "_b")).drop(
        columns="digest"
    )
    return pairs.assign(kind=_SAME_PIXELS, orientation="", correlation=1.0)


def _repeated_pixels(described: NDArray[Any]) -> tuple[pd.DataFrame, Ints]:
    """Pair the first image of the same pixels with the others; return it as well."""
    known = _by_digest(described, _readable(described))
    repeated = known["digest"].duplicated()
    first = known[~repeated]
    return _exact_pairs(first, known[repeated]), first["index"].to_numpy()


def _shared_pixels(
    described_a: NDArray[Any], described_b: NDArray[Any]
) -> pd.DataFrame:
    """Pair the images of two collections that have the same pixels."""
    ours = _by_digest(described_a, _readable(described_a))
    theirs = _by_digest(described_b, _readable(described_b))
    return _exact_pairs(ours, theirs)


def _proposed_within(a: NDArray[Any], rows: Ints, max_distance: int) -> pd.DataFrame:
    """Return the pairs of some rows of one collection whose hashes are close."""
    parts = []
    for start, chunk in _chunks(rows, len(rows)):
        pairs = _close_hashes(a, a, chunk, rows[start:], max_distance)
        parts.append(pairs[pairs["index_a"] < pairs["index_b"]])
    return pd.concat(parts, ignore_index=True)


def _proposed_between(
    a: NDArray[Any], b: NDArray[Any], max_distance: int
) -> pd.DataFrame:
    """Return the pairs of rows of two collections whose hashes are close."""
    rows_b = _readable(b)
    parts = []
    for _, chunk in _chunks(_readable(a), len(rows_b)):
        parts.append(_close_hashes(a, b, chunk, rows_b, max_distance))
    return pd.concat(parts, ignore_index=True)


def _chunks(rows: Ints, others: int) -> Iterator[tuple[int, Ints]]:
    """Yield rows in parts of about a million comparisons, at least one part."""
    step = max(1, 2**20 // max(1, others))
    for start in range(0, max(1, len(rows)), step):
        yield start, rows[start : start + step]


def _close_hashes(
    a: NDArray[Any], b: NDArray[Any], rows_a: Ints, rows_b: Ints, max_distance: int
) -> pd.DataFrame:
    """Return the pairs of rows whose hashes are close, in some orientation of a."""
    bits_b = b["bits"][rows_b, 0]
    parts = []
    for number, orientation in enumerate(ORIENTATIONS):
        bits_a = a["bits"][rows_a, number]
        distance = np.zeros((len(rows_a), len(rows_b)), np.uint16)
        for word in range(bits_a.shape[1]):
            differing = bits_a[:, None, word] ^ bits_b[None, :, word]
            distance += np.bitwise_count(differing)
        i, j = np.nonzero(distance <= max_distance)
        rows = {"index_a": rows_a[i], "index_b": rows_b[j], "orientation": orientation}
        parts.append(pd.DataFrame(rows))
    return pd.concat(parts, ignore_index=True)


def _detail_correlation(
    a: NDArray[Any], b: NDArray[Any], pairs: pd.DataFrame
) -> Features:
    """Correlate the detail of both images of each pair, (n,); a flat one has 0."""
    correlation = np.zeros(len(pairs), np.float32)
    for orientation, rows in pairs.groupby("orientation").indices.items():
        orient = ORIENTATIONS[str(orientation)]
        for start in range(0, len(rows), 1024):
            chunk = rows[start : start + 1024]
            detail_a = orient(a["detail"][pairs["index_a"].to_numpy()[chunk]])
            detail_b = b["detail"][pairs["index_b"].to_numpy()[chunk]]
            correlation[chunk] = _correlation(detail_a, detail_b)
    return correlation


def _correlation(detail_a: NDArray[np.int8], detail_b: NDArray[np.int8]) -> Features:
    """Correlate n squares with n others, pixel by pixel, (n,)."""
    centred_a = _centred(detail_a)
    centred_b = _centred(detail_b)
    product = np.einsum("nd,nd->n", centred_a, centred_b)
    square_a = np.einsum("nd,nd->n", centred_a, centred_a)
    square_b = np.einsum("nd,nd->n", centred_b, centred_b)
    return np.asarray(product / np.maximum(np.sqrt(square_a * square_b), 1e-6))


def _centred(detail: NDArray[np.int8]) -> Features:
    rows = detail.reshape(len(detail), -1).astype(np.float32)
    return np.asarray(rows - rows.mean(axis=1, keepdims=True))


def near_duplicate_groups(
    hashes: NDArray[np.uint8], pairs: pd.DataFrame | None = None
) -> Ints:
    """Return each image's group (n,): its near-duplicates, and theirs, from 0.

    Groups are numbered by first appearance; `pairs` are those of
    `find_near_duplicates`, if they are known already.
    """
    pairs = find_near_duplicates(hashes) if pairs is None else pairs
    return connected_groups(len(hashes), pairs["index_a"], pairs["index_b"])


LEVELS = ("bytes", "exact", "near", "reoriented")
"""Kinds of leaks, from the narrowest on; each includes those before it."""


@dataclass(frozen=True, eq=False, repr=False)
class Audit:
    """What `audit_dataset` found; it shows as its summary.

    `images` has a row for each image: id, label, split, group, error, and what
    `cliplib.images.image.file_facts` says. `pairs` are those of `find_near_duplicates`,
    with id, label and split of both (``_a``, ``_b``); `conflicts` those of different
    labels. `leaks` are images with one of an earlier split in their group, by
    narrowest level.
    """

    images: pd.DataFrame
    pairs: pd.DataFrame
    conflicts: pd.DataFrame
    leaks: pd.DataFrame
    summary: pd.DataFrame

    def __repr__(self) -> str:
        """Show what was found, without what was not."""
        return str(self.summary[self.summary["count"] > 0].to_string())


def audit_dataset(
    dataset: datasets.Dataset, *, cache: FeatureCache | None = None
) -> Audit:
    """Find near-duplicates, contradicting labels, leaks, and unreadable files.

    `dataset` is as from `cliplib.load_dataset`. A ValueError is raised where none of
    its images can be read.
    """
    sources = list(dataset["image"])
    errors: dict[int, str] = {}
    (hashes,) = map_images(sources, image_hash, cache=cache, errors=errors)
    if len(errors) == len(sources):
        reason = errors.get(0, "The data set is empty.")
        raise ValueError(f"No image can be read. {reason}")
    images = _image_rows(dataset, sources, errors)
    pairs = _with_names(find_near_duplicates(hashes), images)
    files = pd.factorize(images.pop("digest").fillna(images["id"]))[0]
    groups = _groups_by_level(hashes, pairs, files)
    images["group"] = groups["reoriented"]
    conflicts = pairs[pairs["label_a"] != pairs["label_b"]].reset_index(drop=True)
    leaks = _leaks(images, groups)
    summary = _summary(images, pairs, conflicts, leaks, files)
    return Audit(images, pairs, conflicts, leaks, summary)


def _image_rows(
    dataset: datasets.Dataset, sources: list[Any], errors: dict[int, str]
) -> pd.DataFrame:
    """Return id, label, split and error of each image, and the facts of its file."""
    images = dataset.select_columns(["id", "label", "split"]).to_pandas()
    images["label"] = dataset.features["label"].int2str(list(images["label"]))
    images["error"] = [errors.get(row, "") for row in images.index]
    facts = [
        {} if row in errors else file_facts(source)
        for row, source in enumerate(sources)
    ]
    return images.join(pd.DataFrame(facts))


def _with_names(pairs: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    """Join id, label and split of both images to each pair."""
    for side in ("a", "b"):
        named = images.loc[pairs[f"index_{side}"], ["id", "label", "split"]]
        pairs = pairs.join(named.add_suffix(f"_{side}").set_index(pairs.index))
    return pairs


def _groups_by_level(
    hashes: NDArray[np.uint8], pairs: pd.DataFrame, files: Ints
) -> dict[str, Ints]:
    """Return the groups that each of `LEVELS` makes of the images."""
    exact = pairs[pairs["kind"] == _SAME_PIXELS]
    upright = pairs[pairs["orientation"] == ""]
    return {
        "bytes": files,
        "exact": near_duplicate_groups(hashes, exact),
        "near": near_duplicate_groups(hashes, upright),
        "reoriented": near_duplicate_groups(hashes, pairs),
    }


def _leaks(images: pd.DataFrame, groups: dict[str, Ints]) -> pd.DataFrame:
    """Find the images with a copy in an earlier split, each at its narrowest level.

    Validation images leak as well: something is chosen on them. Images without a split
    neither leak nor are leaked.
    """
    known = images[["id", "label", "split", "group"]].rename_axis("row").reset_index()
    known["order"] = known["split"].map({"train": 0, "val": 1, "test": 2})
    parts = []
    for level, copies in groups.items():
        members = known.assign(copies=copies).dropna(subset="order")
        in_order = members.sort_values("order", kind="stable")
        earliest = in_order.drop_duplicates("copies").set_index("copies")
        earliest = earliest[["id", "split", "order"]].add_prefix("duplicate_")
        pairs = members.join(earliest, on="copies")
        leaked = pairs[pairs["duplicate_order"] < pairs["order"]]
        parts.append(leaked.assign(level=level))
    leaks = pd.concat(parts).drop_duplicates("row").sort_values("row")
    columns = ["id", "label", "split", "group", "level"]
    columns += ["duplicate_id", "duplicate_split"]
    return leaks[columns].reset_index(drop=True)


def _summary(
    images: pd.DataFrame,
    pairs: pd.DataFrame,
    conflicts: pd.DataFrame,
    leaks: pd.DataFrame,
    files: Ints,
) -> pd.DataFrame:
    """Count all that was found."""
    group_sizes = images["group"].value_counts()
    exact = pairs["kind"] == _SAME_PIXELS
    reoriented = pairs["orientation"] != ""
    counts: dict[str, int] = {
        "images": len(images),
        "unreadable": (images["error"] != "").sum(),
        "modes": images["mode"].nunique(),
        "sizes": len(images[["width", "height"]].dropna().drop_duplicates()),
        "byte_copies": pd.Series(files).duplicated().sum(),
        "exact_copies": exact.sum(),
        "near_pairs": (~exact & ~reoriented).sum(),
        "mirrored_pairs": (pairs["orientation"] == "mirrored").sum(),
        "turned_pairs": (reoriented & (pairs["orientation"] != "mirrored")).sum(),
        "groups": len(group_sizes),
        "groups_of_several": (group_sizes > 1).sum(),
        "largest_group": group_sizes.max(),
        "label_conflicts": len(conflicts),
        "val_leaks": (leaks["split"] == "val").sum(),
    }
    of_test = leaks.loc[leaks["split"] == "test", "level"].value_counts()
    up_to = of_test.reindex(LEVELS, fill_value=0).cumsum()
    counts |= {f"test_leaks_{level}": up_to[level] for level in LEVELS}
    summary = pd.DataFrame({"count": counts}).rename_axis("measure")
    return summary.astype(np.int64)

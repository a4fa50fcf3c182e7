"""Near-duplicates, contradicting labels, and leaks between splits.

Two images are near-duplicates when a perceptual hash (``imagehash.phash``, 256 bits) proposes them
and their detail confirms it, as they are or with one of them mirrored: slices through different
heads look alike to the hash alone. The detail is the grey 64 × 64 image less its local mean, over
its local contrast (Jarrett et al., ICCV 2009, section 2.2): brightness hardly matters, a crop does.
"""

from __future__ import annotations

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

from cliplib.arrays import Ints
from cliplib.cache import FeatureCache, ImageFunction, map_images
from cliplib.groups import connected_groups
from cliplib.images import file_facts

MAX_DISTANCE = 72  # differing bits of 256; unrelated images differ in about 128


MIN_CORRELATION = (
    0.82  # of detail; hardly any pair of MRI slices lies between 0.82 and 0.86
)


LEVELS = [
    "bytes",
    "exact",
    "near",
    "mirrored",
]  # of leaks; each includes those before it


# Of size and pixels; of the image and its mirror image; without light and contrast.
_HASH = np.dtype(
    [("digest", "S16"), ("bits", "u8", (2, 4)), ("detail", "i1", (64, 64))]
)


def _hash(images: list[Image.Image]) -> NDArray[np.uint8]:
    out = np.zeros(len(images), _HASH)
    grey = np.empty((len(images), 64, 64), np.float32)
    for k, image in enumerate(images):
        out["digest"][k] = xxhash.xxh3_128_digest(
            f"{image.size}".encode() + image.tobytes()
        )
        small = image.convert("L").resize(
            (64, 64), Image.Resampling.LANCZOS, reducing_gap=3.0
        )
        grey[k] = np.asarray(small)
    sides = np.stack([grey, grey[:, :, ::-1]], axis=1).astype(np.float64)
    low = dct(dct(sides, axis=2)[:, :, :16], axis=3)[..., :16].reshape(
        len(images), 2, 256
    )
    out["bits"] = np.packbits(low > np.median(low, axis=2, keepdims=True), axis=2).view(
        np.uint64
    )
    fine = grey - gaussian_filter(grey, (0, 1, 1))  # sigma in pixels of the small image
    fine /= (
        np.sqrt(gaussian_filter(fine**2, (0, 1, 1))) + 16
    )  # grey levels: noise is no detail
    peak = np.abs(fine).max(axis=(1, 2), keepdims=True)
    out["detail"] = np.rint(127 * fine / np.maximum(peak, 1e-3))
    return out.view(np.uint8).reshape(len(images), -1)


image_hash = ImageFunction("image_hash_1", _hash)
"""What near-duplicates are found by, (n, 4176) uint8; zeros, an unreadable image, match nothing."""


def find_near_duplicates(
    hashes_a: NDArray[np.uint8], hashes_b: NDArray[np.uint8] | None = None
) -> pd.DataFrame:
    """Find near-duplicates within a collection, or between two, from their `image_hash`.

    Columns: index_a, index_b, kind ("exact": same pixels; "near"), mirrored, and correlation of
    detail. Of several images of the same pixels in one collection the first is paired with the
    others and stands for all.
    """
    a = np.ascontiguousarray(hashes_a).view(_HASH)[:, 0]
    b = a if hashes_b is None else np.ascontiguousarray(hashes_b).view(_HASH)[:, 0]
    frames = (
        pd.DataFrame({"digest": x["digest"], "index": np.arange(len(x))})
        for x in (a, b)
    )
    known_a, known_b = (frame[frame["digest"] != b""] for frame in frames)
    if a is b:
        repeated = known_a["digest"].duplicated()
        known_a, known_b = known_a[~repeated], known_a[repeated]
    exact = known_a.merge(known_b, on="digest", suffixes=("_a", "_b")).drop(
        columns="digest"
    )
    exact = exact.assign(kind="exact", mirrored=False, correlation=1.0)
    rows_a = known_a["index"].to_numpy()
    rows_b = rows_a if a is b else known_b["index"].to_numpy()
    step = max(
        1, 2**20 // max(1, len(rows_b))
    )  # about a million comparisons in memory at once
    found = []
    for k in range(0, max(1, len(rows_a)), step):
        others = rows_b[k:] if a is b else rows_b  # earlier ones are done
        found.append(_compare(a, b, rows_a[k : k + step], others).assign(kind="near"))
    near = pd.concat(found).sort_values("correlation", ascending=False, kind="stable")
    pairs = pd.concat([exact, near])
    # Exact copies correlate, too, and symmetric images also do mirrored: the first row counts.
    rows = ["index_a", "index_b"]
    return pairs.drop_duplicates(rows).sort_values(rows, ignore_index=True)


def _compare(
    a: NDArray[Any], b: NDArray[Any], rows_a: Ints, rows_b: Ints
) -> pd.DataFrame:
    """Return the pairs of some rows that hash and detail agree on; no detail correlates with 0."""
    x, y = a["bits"][rows_a], b["bits"][rows_b]
    distance = np.zeros((2, len(x), len(y)), np.uint16)
    for side, word in np.ndindex(2, 4):
        distance[side] += np.bitwise_count(x[:, 0, word, None] ^ y[None, :, side, word])
    sides, i, j = np.nonzero(distance <= MAX_DISTANCE)
    pairs = pd.DataFrame(
        {"index_a": rows_a[i], "index_b": rows_b[j], "mirrored": sides == 1}
    )
    if a is b:
        pairs = pairs[pairs["index_a"] < pairs["index_b"]]
    correlation = np.zeros(len(pairs))
    for k in range(0, len(pairs), 1024):
        part = pairs[k : k + 1024]
        left, right = a["detail"][part["index_a"]], b["detail"][part["index_b"]]
        right[part["mirrored"]] = right[part["mirrored"], :, ::-1]
        p, q = (side.reshape(-1, 64 * 64).astype(np.float32) for side in (left, right))
        p -= p.mean(axis=1, keepdims=True)
        q -= q.mean(axis=1, keepdims=True)
        norm = np.sqrt(np.einsum("nd,nd->n", p, p) * np.einsum("nd,nd->n", q, q))
        correlation[k : k + 1024] = np.einsum("nd,nd->n", p, q) / np.maximum(norm, 1e-6)
    pairs = pairs.assign(correlation=correlation)
    return pairs[pairs["correlation"] >= MIN_CORRELATION]


def near_duplicate_groups(
    hashes: NDArray[np.uint8], pairs: pd.DataFrame | None = None
) -> Ints:
    """Return each image's group (n,): its near-duplicates, and theirs; by first appearance."""
    pairs = find_near_duplicates(hashes) if pairs is None else pairs
    return connected_groups(len(hashes), pairs["index_a"], pairs["index_b"])


@dataclass(frozen=True, eq=False, repr=False)
class Audit:
    """What `audit` found; it shows as its summary."""

    images: pd.DataFrame  # id, label, split, group, error, and what `file_facts` tells
    pairs: (
        pd.DataFrame
    )  # as from `find_near_duplicates`, with id, label and split of both (_a, _b)
    conflicts: pd.DataFrame  # pairs whose labels differ
    leaks: (
        pd.DataFrame
    )  # images with one of an earlier split in their group, by narrowest level
    summary: pd.DataFrame

    def __repr__(self) -> str:
        return self.summary[self.summary["count"] > 0].to_string()


def audit_dataset(
    dataset: datasets.Dataset, *, cache: FeatureCache | None = None
) -> Audit:
    """Find near-duplicates, contradicting labels, leaks between splits, and unreadable files."""
    sources, errors = list(dataset["image"]), dict[int, str]()
    (hashes,) = map_images(sources, image_hash, cache=cache, errors=errors)
    if len(errors) == len(sources):
        raise ValueError(
            f"No image can be read. {errors.get(0, 'The data set is empty.')}"
        )
    images = dataset.select_columns(["id", "label", "split"]).to_pandas()
    images["label"] = dataset.features["label"].int2str(list(images["label"]))
    images["error"] = [errors.get(row, "") for row in images.index]
    facts = [
        {} if row in errors else file_facts(source)
        for row, source in enumerate(sources)
    ]
    images = images.join(pd.DataFrame(facts))
    pairs = find_near_duplicates(hashes)
    for side in "ab":
        both = images.loc[pairs[f"index_{side}"], ["id", "label", "split"]]
        pairs = pairs.join(both.add_suffix(f"_{side}").set_index(pairs.index))
    exact, direct = pairs[pairs["kind"] == "exact"], pairs[~pairs["mirrored"]]
    groups = [near_duplicate_groups(hashes, some) for some in (exact, direct, pairs)]
    images["group"] = groups[-1]
    files = pd.factorize(images.pop("digest").fillna(images["id"]))[0]
    leaks = _leaks(images, [files, *groups])
    conflicts = pairs[pairs["label_a"] != pairs["label_b"]].reset_index(drop=True)
    sizes = images["group"].value_counts()
    counts: dict[Any, Any] = {
        "images": len(images),
        "unreadable": len(errors),
        "modes": images["mode"].nunique(),
        "sizes": len(images[["width", "height"]].dropna().drop_duplicates()),
        "byte_copies": pd.Series(files).duplicated().sum(),
        "exact_copies": len(exact),
        "near_pairs": len(direct) - len(exact),
        "mirrored_pairs": pairs["mirrored"].sum(),
        "groups": len(sizes),
        "groups_of_several": (sizes > 1).sum(),
        "largest_group": sizes.max(),
        "label_conflicts": len(conflicts),
        "val_leaks": (leaks["split"] == "val").sum(),
    }
    test = (
        leaks.loc[leaks["split"] == "test", "level"]
        .value_counts()
        .reindex(LEVELS, fill_value=0)
    )
    counts |= test.cumsum().add_prefix("test_leaks_").to_dict()
    summary = pd.DataFrame({"count": counts}).rename_axis("measure").astype(np.int64)
    return Audit(images, pairs, conflicts, leaks, summary)


def _leaks(images: pd.DataFrame, groups: list[Ints]) -> pd.DataFrame:
    rank = images["split"].map(
        {"train": 0, "val": 1, "test": 2}
    )  # val leaks too: it chooses
    rows = rank.sort_values(
        kind="stable"
    ).index.to_series()  # those without a split come last
    found = []
    for level, group in zip(LEVELS, groups, strict=True):
        source = rows.groupby(group[rows]).transform("first").sort_index()
        part = images[["id", "label", "split", "group"]].assign(level=level)
        part[["duplicate_id", "duplicate_split"]] = images.loc[
            source, ["id", "split"]
        ].to_numpy()
        found.append(part[rank[source].to_numpy() < rank])
    leaks = pd.concat(found)
    return leaks[~leaks.index.duplicated()].sort_index(ignore_index=True)

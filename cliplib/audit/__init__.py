"""What a sceptic asks of a data set first: copies, labels that contradict each other, test images seen in training.

One call, :func:`audit`, gives it as tables, and a group for each image, so that no image and its copy ever stand on
both sides of a split. How copies are found: :mod:`cliplib.audit.twins`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from cliplib.audit.sequences import components, neighbours, sequence_groups
from cliplib.audit.twins import MAX_DISTANCE, MIN_CORRELATION, Prints, Source, find_twins, near_pairs, take_prints
from cliplib.errors import CliplibError

__all__ = ["Audit", "audit", "find_twins", "sequence_groups"]

SPLIT_ORDER = {"train": 0, "val": 1, "test": 2}
"""A split leaks into the ones after it: val chooses what test judges, so a twin in val taints a test image, too."""

LEVELS = ("bytes", "exact", "near", "mirrored", "sequence")
"""Ever wider senses of "the same picture"; each includes the ones before."""

_PAIR_TYPES = {"index_a": "int64", "index_b": "int64", "kind": "str", "mirrored": "bool", "same_bytes": "bool",
               "correlation": "float64", "hash_distance": "int64"}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Audit:
    """What :func:`audit` found. Every table has its columns even when it is empty.

    Attributes
    ----------
    images : pandas.DataFrame
        One row per image, in the data set's order: ``id``, ``label`` (name), ``split``, ``group``, ``format``,
        ``mode``, ``width``, ``height`` (as stored, before EXIF rotation), ``bytes``, ``file_digest``, ``digest``
        (of the pixels), ``extension_lies`` (the file is of another format than its name says), ``error`` (why it
        could not be read; else empty).
    pairs : pandas.DataFrame
        ``id_a``, ``id_b``, ``kind`` ("exact": same pixels; "near"; "sequence"), ``mirrored``, ``same_bytes``,
        ``correlation`` (of detail, or cosine of features for "sequence"; 1 for exact), ``hash_distance`` (bits of
        256; -1 for "sequence"), ``label_a``, ``label_b``, ``label_conflict``, ``split_a``, ``split_b``,
        ``split_leak``, ``group``. Of k images with the same pixels, the first is paired with each of the others,
        and stands for them in near pairs: as many rows as connect a group, not all k(k - 1)/2. In any group with
        two labels (or splits) at least one row says so.
    groups : ndarray of int64, shape (n,)
        Connected components of ``pairs``, numbered by first appearance, aligned with the data set's rows.
    conflicts : pandas.DataFrame
        The rows of ``pairs`` whose labels differ.
    leaks : pandas.DataFrame
        One row per image whose group holds an image of an earlier split (train, val, test): ``id``, ``label``,
        ``split``, ``level`` (the narrowest of :data:`LEVELS` at which that is so), ``twin_id``, ``twin_label``,
        ``twin_split`` (the first such image), ``group``.
    summary : pandas.DataFrame
        Indexed by ``measure``: ``count`` and ``meaning``.
    """

    images: pd.DataFrame
    pairs: pd.DataFrame
    groups: NDArray[np.int64]
    conflicts: pd.DataFrame
    leaks: pd.DataFrame
    summary: pd.DataFrame


def audit(
    dataset: datasets.Dataset,
    *,
    features: ArrayLike | None = None,
    near: bool = True,
    max_distance: int = MAX_DISTANCE,
    min_correlation: float = MIN_CORRELATION,
    min_similarity: float | None = None,
    progress: bool = True,
    n_jobs: int | None = None,
) -> Audit:
    """Find copies, contradicting labels, leaks between splits, and unreadable or misnamed files.

    Every image is decoded once, and about 4 kB are kept of each distinct one; the rest of the memory does not depend
    on how many there are. Images that cannot be read stay in the tables, each in its own group.

    Parameters
    ----------
    dataset : datasets.Dataset
        As from :func:`cliplib.data.load_dataset`: ``image`` (not decoded), ``label``, ``id``, ``split``.
    features : array-like of float, shape (n, d), optional
        Of the same rows. If given, consecutive file numbers with close features are in one group, too, at the level
        "sequence": see :func:`sequence_groups`.
    near : bool
        Whether to look for near and mirrored copies, or only for exact ones.
    max_distance, min_correlation : int, float
        When two pictures are near copies: bits of 256 in which their hashes may differ, and correlation of their
        detail. See :mod:`cliplib.audit.twins` for how they were chosen.
    min_similarity : float, optional
        As `similarity` in :func:`sequence_groups`.
    progress : bool
    n_jobs : int, optional
        Threads; default: one per core.

    Raises
    ------
    CliplibError
        The data set lacks a column.
    ValueError
        `features` has not one row per image.
    """
    if lack := {"image", "label", "id", "split"} - set(dataset.column_names):
        raise CliplibError(f"The data set lacks the column {sorted(lack)[0]!r}: use cliplib.data.load_dataset.")
    n = len(dataset)
    prints = take_prints(_images(dataset), total=n, progress=progress, n_jobs=n_jobs)
    columns = {name: np.asarray(dataset[name], dtype=object) for name in ("id", "split")}
    names = dataset.features["label"].names
    columns["label"] = np.asarray([names[k] if k is not None and k >= 0 else "" for k in dataset["label"]], object)
    images = pd.DataFrame({key: columns[key] for key in ("id", "label", "split")}, dtype=str)
    parts = [_copies(prints)]
    if near:
        found = near_pairs(prints, max_distance=max_distance, min_correlation=min_correlation, n_jobs=n_jobs)
        parts.append(found.assign(same_bytes=False))
    if features is not None:
        i, j, cosine = neighbours(list(images["id"]), features, 1, min_similarity)
        parts.append(pd.DataFrame({"index_a": i, "index_b": j, "kind": "sequence", "correlation": cosine,
                                   "mirrored": False, "same_bytes": False, "hash_distance": -1}))  # fmt: skip
    pairs = pd.concat([part.astype(_PAIR_TYPES)[list(_PAIR_TYPES)] for part in parts], ignore_index=True)
    steps = {
        "bytes": pairs["same_bytes"],
        "exact": pairs["kind"] == "exact",
        "near": (pairs["kind"] != "sequence") & ~pairs["mirrored"],
        "mirrored": pairs["kind"] != "sequence",
        "sequence": pairs["kind"] != "",
    }
    edges = pairs[["index_a", "index_b"]].to_numpy()
    groups = {level: components(n, edges[step.to_numpy()]) for level, step in steps.items()}
    final = groups["sequence"]
    images = pd.concat([images.assign(group=final), prints.facts], axis=1)
    table = _describe(pairs, images)
    leaks = _leaks(images, groups)
    conflicts = table[table["label_conflict"]].reset_index(drop=True)
    return Audit(images, table, final, conflicts, leaks, _summary(images, table, leaks))


def _images(dataset: datasets.Dataset) -> Iterator[Source]:
    for start in range(0, len(dataset), 256):
        yield from dataset[start : start + 256]["image"]


def _copies(prints: Prints) -> pd.DataFrame:
    """Each image with the first one of the same pixels."""
    rows = np.flatnonzero(prints.distinct >= 0)
    first = prints.first[prints.distinct[rows]]
    a, b = first[first != rows], rows[first != rows]
    files = prints.facts["file_digest"].to_numpy()
    return pd.DataFrame({"index_a": a, "index_b": b, "kind": "exact", "mirrored": False,
                         "same_bytes": files[a] == files[b], "correlation": 1.0, "hash_distance": 0})  # fmt: skip


def _describe(pairs: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    """Pairs by id, with what differs between the two."""
    a, b = (images.iloc[pairs[key]].reset_index(drop=True) for key in ("index_a", "index_b"))
    out = pairs.drop(columns=["index_a", "index_b"])
    out.insert(0, "id_a", a["id"])
    out.insert(1, "id_b", b["id"])
    for key, flag in (("label", "label_conflict"), ("split", "split_leak")):
        out[f"{key}_a"], out[f"{key}_b"] = a[key], b[key]
        out[flag] = (a[key] != b[key]) & (a[key] != "") & (b[key] != "")
    return out.assign(group=a["group"])


def _leaks(images: pd.DataFrame, groups: dict[str, NDArray[np.int64]]) -> pd.DataFrame:
    """Images with a twin in an earlier split, at the narrowest level."""
    rank = images["split"].map(SPLIT_ORDER).to_numpy(dtype=float)  # NaN: no split, so it can neither leak nor be leaked
    parts, seen = [], np.zeros(len(images), bool)
    order = np.argsort(rank, kind="stable")  # NaN last
    for level in LEVELS:
        _, position, inverse = np.unique(groups[level][order], return_index=True, return_inverse=True)
        twin = np.empty(len(images), np.int64)
        twin[order] = order[position[inverse]]  # the first image of the earliest split in each group
        rows = np.flatnonzero((rank[twin] < rank) & ~seen)
        seen[rows] = True
        other = images.iloc[twin[rows]].reset_index(drop=True)
        part = images.iloc[rows][["id", "label", "split"]].reset_index(drop=True).assign(level=level)
        for key in ("id", "label", "split"):
            part[f"twin_{key}"] = other[key]
        parts.append(part.assign(group=images["group"].to_numpy()[rows], row=rows))
    return pd.concat(parts).sort_values("row", ignore_index=True).drop(columns="row")


def _summary(images: pd.DataFrame, pairs: pd.DataFrame, leaks: pd.DataFrame) -> pd.DataFrame:
    read = images[images["error"] == ""]
    sizes = images["group"].value_counts()
    rows: list[tuple[str, Any, str]] = [
        ("images", len(images), "images in the data set"),
        ("unreadable", len(images) - len(read), "images that cannot be decoded"),
        ("extension_lies", images["extension_lies"].sum(), "files of another format than their name says"),
        ("modes", read["mode"].nunique(), "different pixel modes"),
        ("sizes", len(read[["width", "height"]].drop_duplicates()), "different sizes in pixels"),
        ("byte_copies", read["file_digest"].duplicated().sum(), "images whose file repeats an earlier one"),
        ("exact_copies", read["digest"].duplicated().sum(), "images whose pixels repeat an earlier one's"),
        ("near_pairs", ((pairs["kind"] == "near") & ~pairs["mirrored"]).sum(), "near pairs of distinct pictures"),
        ("mirrored_pairs", pairs["mirrored"].sum(), "mirrored pairs of distinct pictures"),
        ("sequence_pairs", (pairs["kind"] == "sequence").sum(), "neighbours in file number with close features"),
        ("groups", len(sizes), "groups, single images included"),
        ("groups_of_several", (sizes > 1).sum(), "groups of two images or more"),
        ("largest_group", sizes.max() if len(sizes) else 0, "images in the largest group"),
        ("label_conflicts", pairs["label_conflict"].sum(), "pairs with different labels"),
        ("groups_in_conflict", (images.groupby("group")["label"].nunique() > 1).sum(), "groups with several labels"),
    ]
    for split, earlier in (("val", "train"), ("test", "train or val")):
        rows.append((f"{split}_images", (images["split"] == split).sum(), f"images in {split}"))
        for k, level in enumerate(LEVELS):
            wide = (leaks["split"] == split) & leaks["level"].isin(LEVELS[: k + 1])
            meaning = f"{split} images with a twin in {earlier}, up to level {level}"
            rows.append((f"{split}_leaks_{level}", wide.sum(), meaning))
    frame = pd.DataFrame(rows, columns=["measure", "count", "meaning"]).astype({"count": "int64"})
    return frame.set_index("measure")

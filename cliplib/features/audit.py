"""Contradicting labels, leaks between splits, and unreadable files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pandas as pd

from cliplib.data.arrays import Ints
from cliplib.data.cache import ResultCache, map_images
from cliplib.data.datasets import Source, load_dataset
from cliplib.data.image import file_facts
from cliplib.features.duplicates import SAME_PIXELS, find_near_duplicates
from cliplib.features.groups import connected_groups
from cliplib.features.hashes import image_hash
from cliplib.features.table import FeatureTable

LEVELS = ("bytes", "exact", "near", "reoriented")
"""How alike copies are, the most alike first: the same file; the same pixels; the same
image, upright; or turned. Copies at one level are copies at those after it."""


@dataclass(frozen=True, eq=False, repr=False)
class Audit:
    """What `audit_dataset` found; it shows as its summary.

    `images` has a row for each image: id, label, split, group, error, and what
    `cliplib.data.image.file_facts` says, but for the digest. `pairs` are those of
    `find_near_duplicates`, with id, label and split of both (``_a``, ``_b``);
    `conflicts` those of different labels. `leaks` are the images that have a copy in an
    earlier split, with the first of the `LEVELS` that has one, and the id and split of
    that copy. `summary` has the column count, by measure.
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
    source: Source,
    *,
    copies: str | float = "near",
    table: FeatureTable | None = None,
    cache: ResultCache | None = None,
    **columns: str,
) -> Audit:
    """Find near-duplicates, contradicting labels, leaks, and unreadable files.

    `source` and `columns` are those of `load_dataset`. `copies` says what counts as
    one: "off", "exact", "near" or a threshold, see
    `find_near_duplicates`. With a `table` of these images, or of some,
    like ones are tried as cropped copies wherever the crop lies. Hashes and pairs are
    kept in the `cache`. A ValueError says if not one image can be read.
    """
    dataset = load_dataset(source, **columns)
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
    features = None
    if table is not None:  # NaN for images that it lacks
        of_table = pd.DataFrame(table.features, table.ids)
        features = of_table.reindex(images["id"]).to_numpy(np.float32)
    pairs = find_near_duplicates(hashes, features=features, copies=copies, cache=cache)
    pairs = _with_names(pairs, images)
    groups_by_level = _groups_by_level(pairs, file_groups)
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


def _groups_by_level(pairs: pd.DataFrame, file_groups: Ints) -> dict[str, Ints]:
    """Return each image's group number, (n,), at each of `LEVELS`, equal for copies.

    `pairs` are all near-duplicates; `file_groups` (n,) are the numbers at the first
    level, equal for equal files.
    """
    alike = {
        "exact": pairs[pairs["kind"] == SAME_PIXELS],
        "near": pairs[pairs["orientation"] == ""],
        "reoriented": pairs,
    }
    n = len(file_groups)
    return {"bytes": file_groups} | {
        level: connected_groups(n, of_level["index_a"], of_level["index_b"])
        for level, of_level in alike.items()
    }


def _leaks(images: pd.DataFrame, groups_by_level: dict[str, Ints]) -> pd.DataFrame:
    """Return the images with a copy in an earlier split, each with one such copy.

    It is the first in the earliest split, at the level of the most alike copies; at the
    last two levels other images may connect the two. Splits are ordered train, val,
    test. Validation images leak as well: something is chosen on them. Images without a
    split are no leaks, and nothing leaks from them. `groups_by_level` has the group
    number of each image, (n,), at each of `LEVELS`.
    """
    place_of_split = {"train": 0, "val": 1, "test": 2}
    known = images[["id", "label", "split", "group"]].assign(
        place=images["split"].map(place_of_split)
    )
    # The index stays the row of `images`.
    earliest_first = known.dropna(subset="place").sort_values("place", kind="stable")
    by_level = []
    for level, group_of_row in groups_by_level.items():
        at_level = earliest_first.assign(
            level=level, alike=group_of_row[earliest_first.index]
        )
        first_of_alike = at_level.drop_duplicates("alike").set_index("alike")
        duplicate = first_of_alike[["id", "split", "place"]].add_prefix("duplicate_")
        found = at_level.join(duplicate, on="alike")
        by_level.append(found[found["duplicate_place"] < found["place"]])
    # An image that leaks at several levels is kept at the first, of the most alike.
    leaks = pd.concat(by_level)
    leaks = leaks[~leaks.index.duplicated()].sort_index().reset_index(drop=True)
    return leaks.drop(columns=["place", "alike", "duplicate_place"])


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
    is_exact = pairs["kind"] == SAME_PIXELS
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

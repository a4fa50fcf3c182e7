"""Contradicting labels, leaks between splits, and unreadable files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import datasets
import numpy as np
import pandas as pd

from cliplib.data.cache import ResultCache, map_images
from cliplib.data.datasets import Source, load_dataset
from cliplib.data.image import UnreadableImage, file_facts
from cliplib.features.duplicates import SAME_PIXELS, find_near_duplicates
from cliplib.features.groups import connected_groups
from cliplib.features.hashes import image_hash
from cliplib.features.table import FeatureTable

# Columns that are an image's own, of `Audit.images`.
OF_AN_IMAGE = (
    *("id", "label", "split", "group", "error"),
    *("bytes", "digest", "width", "height"),
)


@dataclass(frozen=True, eq=False, repr=False)
class Audit:
    """What `audit_dataset` found; it shows as its summary.

    `images` has a row for each image: id, label, split, group, error, and what
    `cliplib.data.image.file_facts` says. `pairs` are those of `find_near_duplicates`,
    with id, label and split of both (``_a``, ``_b``), and same_label. `summary` has the
    column count, by measure.
    """

    images: pd.DataFrame
    pairs: pd.DataFrame
    summary: pd.DataFrame

    @property
    def fields(self) -> pd.DataFrame:
        """What files say that may be the same in many of them, such as the format."""
        return self.images.drop(columns=[*OF_AN_IMAGE])

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
    one: "off", "exact", "near" or a threshold, see `find_near_duplicates`. With a
    `table` of these images, or of some, like ones are tried as cropped copies wherever
    the crop lies. Hashes are kept in the `cache`. A ValueError says if not one image
    can be read.
    """
    dataset = load_dataset(source, **columns)
    sources = list(dataset["image"])
    errors_by_row: dict[int, UnreadableImage] = {}
    (hashes,) = map_images(sources, image_hash, cache=cache, errors=errors_by_row)
    if len(errors_by_row) == len(sources):
        reason = errors_by_row.get(0, "The data set is empty.")
        raise ValueError(f"No image can be read. {reason}")
    features = None
    if table is not None:  # NaN for images that it lacks
        of_table = pd.DataFrame(table.features, table.ids)
        features = of_table.reindex(dataset["id"][:]).to_numpy(np.float32)
    pairs = find_near_duplicates(hashes, features=features, copies=copies)
    return audit_pairs(dataset, pairs, errors_by_row)


def audit_pairs(
    dataset: datasets.Dataset,
    pairs: pd.DataFrame,
    errors_by_row: Mapping[int, UnreadableImage] = MappingProxyType({}),
) -> Audit:
    """Audit images whose near-duplicates are known; see `audit_dataset`.

    `pairs` are what `find_near_duplicates` returns for the rows of the data set, and
    `errors_by_row` says why some of its images cannot be read.
    """
    images = _image_rows(dataset, errors_by_row)
    pairs = _with_names(pairs, images)
    images["group"] = connected_groups(len(images), pairs["index_a"], pairs["index_b"])
    return Audit(images, pairs, _summary(images, pairs))


def _image_rows(
    dataset: datasets.Dataset, errors_by_row: Mapping[int, UnreadableImage]
) -> pd.DataFrame:
    """Return a row for each image: id, label, split, error, and what its file tells.

    The label is the class's name, the error "" for an image that could be read. The
    other columns are the `file_facts` of its source, NaN if it could not be read.
    """
    images = dataset.select_columns(["id", "label", "split"]).to_pandas()
    images["label"] = dataset.features["label"].int2str(list(images["label"]))
    images["error"] = [str(errors_by_row.get(row, "")) for row in images.index]
    facts = [
        {} if row in errors_by_row else file_facts(source)
        for row, source in enumerate(dataset["image"])
    ]
    return images.join(pd.DataFrame(facts))


def _with_names(pairs: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    """Return the pairs with id, label and split of both images, such as id_a and id_b.

    Whether both have one label is same_label. The pairs' index_a and index_b are row
    numbers of `images`.
    """
    for side in ("a", "b"):
        of_side = images.loc[pairs[f"index_{side}"], ["id", "label", "split"]]
        of_side.index = pairs.index
        pairs = pairs.join(of_side.add_suffix(f"_{side}"))
    return pairs.assign(same_label=pairs["label_a"] == pairs["label_b"])


def _summary(images: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """Count images, pairs, groups and leaks: a column count, indexed by measure.

    ``byte_copies`` are images whose file equals that of an earlier image;
    ``exact_copies`` and the next three are pairs. Leaks are images whose group or file
    an earlier split has, too. Validation images leak as well: something is chosen on
    them.
    """
    group_sizes = images["group"].value_counts()
    is_exact = pairs["kind"] == SAME_PIXELS
    is_reoriented = pairs["orientation"] != ""
    counts: dict[str, int] = {
        "images": len(images),
        "unreadable": (images["error"] != "").sum(),
        "modes": images["mode"].nunique(),  # how many colour modes, such as RGB
        "sizes": images["size"].nunique(),
        "byte_copies": images["digest"].dropna().duplicated().sum(),
        "exact_copies": is_exact.sum(),
        "near_pairs": (~is_exact & ~is_reoriented).sum(),
        "mirrored_pairs": (pairs["orientation"] == "mirrored").sum(),
        "turned_pairs": (is_reoriented & (pairs["orientation"] != "mirrored")).sum(),
        "groups": len(group_sizes),
        "groups_of_several": (group_sizes > 1).sum(),
        "largest_group": group_sizes.max(),
        "label_conflicts": (~pairs["same_label"]).sum(),
        "val_leaks": _count_leaks(images, "val", ["train"]),
        "test_leaks": _count_leaks(images, "test", ["train", "val"]),
    }
    summary = pd.DataFrame({"count": counts}).rename_axis("measure")
    return summary.astype(np.int64)


def _count_leaks(images: pd.DataFrame, split: str, earlier: list[str]) -> int:
    """Count the images of a split whose group or file earlier splits have, too."""
    of_split = images[images["split"] == split]
    of_earlier = images[images["split"].isin(earlier)]
    has_group = of_split["group"].isin(of_earlier["group"])
    # No digest is that of an unreadable image.
    has_file = of_split["digest"].isin(of_earlier["digest"].dropna())
    return int((has_group | has_file).sum())

"""Contradictory labels, leaks between splits, and unreadable files."""

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

# Columns of `Audit.images` whose values belong to one image alone.
IMAGE_COLUMNS = (
    *("id", "label", "split", "group", "error"),
    *("bytes", "digest", "width", "height"),
)


@dataclass(frozen=True, eq=False, repr=False)
class Audit:
    """The result of `audit_dataset`; printed, it shows its summary.

    `images` has a row for each image: id, label, split, group, error, and the facts of
    `cliplib.data.image.file_facts`. `pairs` has a row for each pair that
    `find_near_duplicates` found, with id, label and split of both images (``_a``,
    ``_b``), and same_label. `summary` has the column count, indexed by measure.
    """

    images: pd.DataFrame
    pairs: pd.DataFrame
    summary: pd.DataFrame

    @property
    def fields(self) -> pd.DataFrame:
        """The facts that many files may share, such as the format: a column each."""
        return self.images.drop(columns=[*IMAGE_COLUMNS])

    def __repr__(self) -> str:
        """Return the counts that are not 0."""
        return str(self.summary[self.summary["count"] > 0].to_string())


def audit_dataset(
    source: Source,
    *,
    copies: str | float = "near",
    table: FeatureTable | None = None,
    cache: ResultCache | None = None,
    **columns: str,
) -> Audit:
    """Find near-duplicates, contradictory labels, leaks, and unreadable files.

    `source` and `columns` are those of `load_dataset`. `copies` says which images count
    as copies: "off", "exact", "near" or a threshold; see `find_near_duplicates`. With a
    feature `table` of all or some of these images, crops beside the centre are found as
    well. Hashes are kept in the `cache`. ValueError if no image can be read.
    """
    dataset = load_dataset(source, **columns)
    sources = list(dataset["image"])
    errors_by_row: dict[int, UnreadableImage] = {}
    (hashes,) = map_images(sources, image_hash, cache=cache, errors=errors_by_row)
    if len(errors_by_row) == len(sources):
        reason = errors_by_row.get(0, "The data set is empty.")
        raise ValueError(f"No image can be read. {reason}")
    features = None
    if table is not None:
        features_by_id = pd.DataFrame(table.features, table.ids)
        # NaN for images that the table lacks.
        features = features_by_id.reindex(dataset["id"][:]).to_numpy(np.float32)
    pairs = find_near_duplicates(hashes, features=features, copies=copies)
    return audit_pairs(dataset, pairs, errors_by_row)


def audit_pairs(
    dataset: datasets.Dataset,
    pairs: pd.DataFrame,
    errors_by_row: Mapping[int, UnreadableImage] = MappingProxyType({}),
) -> Audit:
    """Audit images whose near-duplicates are known; see `audit_dataset`.

    `pairs` is the result of `find_near_duplicates` for the rows of the data set;
    `errors_by_row` holds the errors of the images that cannot be read.
    """
    images = _image_rows(dataset, errors_by_row)
    pairs = _with_names(pairs, images)
    images["group"] = connected_groups(len(images), pairs["index_a"], pairs["index_b"])
    return Audit(images, pairs, _summary(images, pairs))


def _image_rows(
    dataset: datasets.Dataset, errors_by_row: Mapping[int, UnreadableImage]
) -> pd.DataFrame:
    """Return a row for each image: id, label, split, error, and facts of its file.

    The label is the name of the class; the error is "" if the image could be read. The
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

    The column same_label says whether both labels are the same. The pairs' index_a and
    index_b are row numbers of `images`.
    """
    for side in ("a", "b"):
        names = images.loc[pairs[f"index_{side}"], ["id", "label", "split"]]
        names.index = pairs.index
        pairs = pairs.join(names.add_suffix(f"_{side}"))
    return pairs.assign(same_label=pairs["label_a"] == pairs["label_b"])


def _summary(images: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """Count images, pairs, groups and leaks: a column count, indexed by measure.

    ``byte_copies`` are images whose file equals that of an earlier image;
    ``exact_copies``, ``near_pairs`` (with cropped ones), ``mirrored_pairs``,
    ``turned_pairs`` and ``label_conflicts`` are pairs. Leaks are images whose group or
    file also occurs in an earlier split. Leaks of validation images count as well,
    since hyperparameters are chosen on these images.
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
    """Count the images of a split whose group or file also occurs in earlier splits."""
    split_images = images[images["split"] == split]
    earlier_images = images[images["split"].isin(earlier)]
    shares_group = split_images["group"].isin(earlier_images["group"])
    # Unreadable images have no digest, and so no file in common.
    shares_file = split_images["digest"].isin(earlier_images["digest"].dropna())
    return int((shares_group | shares_file).sum())

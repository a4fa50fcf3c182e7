"""The images of a folder, encoded and counted; and why some cannot be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cliplib.data.image import UnreadableImage
from cliplib.encoders.encoder import Encoder
from cliplib.features.encode import encode_dataset
from cliplib.features.table import FeatureTable
from cliplib.reports.methods import groups_per_class


@dataclass(frozen=True, eq=False)
class EncodedImages:
    """The images of a folder, encoded and counted.

    Attributes
    ----------
    table
        Deep features, labels and groups of the n images that can be read.
    dataset
        These images, row by row, as `load_dataset` returns them.
    hashes
        What `image_hash` gives for each row, (n, 4416).
    pairs
        The near-duplicates among the rows, as `find_near_duplicates` returns them.
    files
        The file of each row, as `load_image` takes it.
    names
        What each row is called: its id, or "image 1" and so on if anonymous.
    counts
        By class: its images, the same with copies counted once, and its groups. Images
        have a column for each published split, or else a single one, "images".
    unreadable
        The reason why a file cannot be read, by id.
    """

    table: FeatureTable
    dataset: datasets.Dataset
    hashes: NDArray[Any]
    pairs: pd.DataFrame
    files: Sequence[Any]
    names: Sequence[str]
    counts: pd.DataFrame
    unreadable: Mapping[str, str]

    @property
    def groups_per_class(self) -> dict[str, int]:
        """By class, in how many groups it occurs."""
        return {str(name): int(n) for name, n in self.counts["groups"].items()}


def encode_and_count(
    dataset: datasets.Dataset,
    encoder: Encoder,
    *,
    copies: str | float = "near",
    anonymous: bool = False,
) -> EncodedImages:
    """Encode images, and count them; ValueError where none of a class can be read."""
    error_of: dict[str, UnreadableImage] = {}  # filled, by id, where there are any
    encoded = encode_dataset(dataset, encoder, copies=copies, errors=error_of)
    table = encoded.table
    for label, name in enumerate(table.classes):
        if label not in table.labels:
            error = next(iter(error_of.values()), "")
            raise ValueError(f"No image of class {name!r} can be read. {error}")
    files = list(encoded.dataset["image"])
    names = [str(file_id) for file_id in table.ids]
    if anonymous:
        names = [f"image {row}" for row in range(1, len(table) + 1)]
    return EncodedImages(
        **encoded._asdict(),
        files=files,
        names=names,
        counts=count_images(table),
        unreadable={name: f"{error.reason}." for name, error in error_of.items()},
    )


def count_images(table: FeatureTable) -> pd.DataFrame:
    """Count by class images, the same with copies counted once, and groups.

    Images have a column for each published split, or else a single one, "images".
    """
    splits = np.where(table.splits == "", "images", table.splits)
    counts = pd.crosstab(pd.Series(table.label_names, name="class"), splits)
    # Both are (k,), in the order of the classes: sorted, as the crosstab's rows.
    counts["without copies"] = groups_per_class(table, table.copies)
    counts["groups"] = groups_per_class(table)
    return counts

"""From images of any source to their feature table."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import xxhash
from numpy.typing import NDArray

from cliplib.data.arrays import Bools, Features
from cliplib.data.cache import ResultCache
from cliplib.data.datasets import Source, load_dataset
from cliplib.data.image import UnreadableImage
from cliplib.encoders.encoder import Encoder
from cliplib.encoders.vision import load_encoder
from cliplib.features.duplicates import PAIR_TYPES, find_near_duplicates, parse_copies
from cliplib.features.groups import connected_groups
from cliplib.features.hashes import image_hash
from cliplib.features.table import FeatureTable, groups_per_class


@dataclass(frozen=True, eq=False)
class EncodedImages:
    """A feature table, and what was found out while it was made.

    Attributes
    ----------
    table
        Features, labels and groups of the n images that can be read.
    dataset
        The images of the table, row by row, as `load_dataset` returns them.
    hashes
        The result of `image_hash` for these images, (n, 4416).
    pairs
        The near-duplicates among these images, as `find_near_duplicates` returns them.
    errors
        The errors of the images that cannot be read, by id.
    """

    table: FeatureTable
    dataset: datasets.Dataset
    hashes: NDArray[Any]
    pairs: pd.DataFrame
    errors: Mapping[str, UnreadableImage]

    def select(self, is_kept: Bools) -> EncodedImages:
        """Return the images that are kept; `is_kept` (n,) must keep all of a pair."""
        new_row = np.cumsum(is_kept) - 1
        index_a = new_row[self.pairs["index_a"]]
        index_b = new_row[self.pairs["index_b"]]
        return replace(
            self,
            table=self.table.select(is_kept),
            dataset=self.dataset.select(np.flatnonzero(is_kept)),
            hashes=self.hashes[is_kept],
            pairs=self.pairs.assign(index_a=index_a, index_b=index_b),
        )

    @cached_property
    def files(self) -> list[Any]:
        """The source of each row's image, as `load_image` takes it."""
        return list(self.dataset["image"])

    @property
    def unreadable(self) -> dict[str, str]:
        """The reason why each unreadable image cannot be read, by id."""
        return {name: f"{error.reason}." for name, error in self.errors.items()}

    @property
    def counts(self) -> pd.DataFrame:
        """The numbers of images, of images without copies, and of groups, by class.

        Images are counted by published split, or else in one column, "images".
        """
        table = self.table
        splits = np.where(table.splits == "", "images", table.splits)
        counts = pd.crosstab(pd.Series(table.label_names, name="class"), splits)
        # A class may have no readable image; then its counts are 0.
        counts = counts.reindex(pd.Index(table.classes, name="class"), fill_value=0)
        counts["without copies"] = groups_per_class(table, table.copies)
        counts["groups"] = groups_per_class(table)
        return counts

    @property
    def groups_per_class(self) -> dict[str, int]:
        """The number of groups with images of each class, by name."""
        counts = groups_per_class(self.table).tolist()
        return dict(zip(self.table.classes, counts, strict=True))


def encode(
    source: Source,
    encoder: Encoder | str | os.PathLike[str] = "",
    *,
    copies: str | float = "near",
    errors: dict[str, UnreadableImage] | None = None,
    **options: Any,
) -> FeatureTable:
    """Encode images from any source into a feature table, with their near-duplicates.

    Parameters
    ----------
    source, **options
        Where the images are, which part is meant, and which groups: see `load_dataset`.
        Groups are merged with near-duplicates.
    encoder
        A `ClipEncoder`, `VisionEncoder` or `FunctionEncoder`, or the hub id or folder
        of a model; by default ``ClipEncoder()``. The table holds the encoder's last
        readout, which for a CLIP is "deep".
    copies
        Which images count as copies: "off", "exact", "near" or a threshold; see
        `find_near_duplicates`.
    errors
        A dict that receives the error of each image that is left out, by id.

    Raises
    ------
    OSError
        If the source does not exist, or if an image cannot be read and `errors` is not
        given.
    ValueError
        If groups do not cover all images, or the source lacks a column.
    """
    parse_copies(copies)  # refuses a wrong value before a model is loaded
    dataset = load_dataset(source, **options)
    if not isinstance(encoder, Encoder):
        encoder = load_encoder(encoder)
    return encode_dataset(dataset, encoder, copies=copies, errors=errors).table


def encode_dataset(
    dataset: datasets.Dataset,
    encoder: Encoder,
    *,
    copies: str | float = "near",
    errors: dict[str, UnreadableImage] | None = None,
) -> EncodedImages:
    """Encode images that `load_dataset` returned, and return all that was found out.

    The other parameters, and what is raised, are those of `encode`.
    """
    parse_copies(copies)  # refuses a wrong value before the images are encoded
    title = dataset.info.dataset_name
    errors_by_row: dict[int, UnreadableImage] = {}
    features, hashes = encoder.map(
        dataset["image"],
        image_hash,
        errors=None if errors is None else errors_by_row,
        progress=title,
    )
    was_read = np.ones(len(dataset), bool)
    was_read[list(errors_by_row)] = False
    if errors_by_row and not was_read.any():
        raise ValueError(f"No image of {title!r} can be read.")
    pairs = _near_duplicates(hashes, features, copies, encoder.cache)
    near_duplicates = connected_groups(len(dataset), pairs["index_a"], pairs["index_b"])
    origin = {"dataset": title, "source": dataset.info.builder_name}
    table = FeatureTable(
        features=features,
        labels=np.array(dataset["label"][:], np.int64),
        classes=tuple(dataset.features["label"].names),
        ids=np.array(dataset["id"][:], np.str_),
        splits=np.array(dataset["split"][:], np.str_),
        copies=near_duplicates,
        groups=near_duplicates,
        provenance={**encoder.provenance, **origin},
    )
    if any(dataset["group"]):
        table = table.with_groups(dataset["group"][:])
    errors_by_id = {str(table.ids[row]): error for row, error in errors_by_row.items()}
    if errors is not None:
        errors |= errors_by_id
    encoded = EncodedImages(table, dataset, hashes, pairs, errors_by_id)
    return encoded if was_read.all() else encoded.select(was_read)


def _near_duplicates(
    hashes: NDArray[Any],
    features: Features,
    copies: str | float,
    cache: ResultCache | None,
) -> pd.DataFrame:
    """Return the result of `find_near_duplicates`, from the cache if it is there.

    Comparing 7,000 slices of few patients takes minutes.
    """
    if cache is None:
        return find_near_duplicates(hashes, features=features, copies=copies)
    contents = (
        xxhash.xxh3_128_hexdigest(np.ascontiguousarray(array).data)
        for array in (hashes, features)
    )
    # The code is in the key, since another version may find other pairs.
    modules = sorted(Path(__file__).parent.glob("*.py"))
    code = xxhash.xxh3_128_hexdigest(b"".join(map(Path.read_bytes, modules)))
    key = ":".join(("near_duplicates", code, str(copies), *contents))
    entry = cache.get([key])
    if key not in entry:
        pairs = find_near_duplicates(hashes, features=features, copies=copies)
        # Texts of a fixed length, since the cache stores no Python objects.
        text_types = {
            name: pairs[name].to_numpy("U").dtype for name in ("kind", "orientation")
        }
        entry = {key: pairs.to_records(index=False, column_dtypes=text_types)}
        cache.put(entry)
    return pd.DataFrame(entry[key]).astype(PAIR_TYPES)

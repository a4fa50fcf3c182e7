"""From images, anywhere, to their feature table."""

from __future__ import annotations

import os

import numpy as np

from cliplib.data.datasets import Source, load_dataset
from cliplib.data.image import UnreadableImage
from cliplib.encoders.encoder import Encoder
from cliplib.encoders.vision import load_encoder
from cliplib.features.duplicates import near_duplicate_groups, parse_copies
from cliplib.features.groups import declared_groups
from cliplib.features.hashes import image_hash
from cliplib.features.table import FeatureTable


def encode(
    source: Source,
    encoder: Encoder | str | os.PathLike[str] = "",
    *,
    groups: str | os.PathLike[str] | None = None,
    copies: str | float = "near",
    errors: dict[str, UnreadableImage] | None = None,
    **columns: str,
) -> FeatureTable:
    """Encode images from anywhere into a feature table, with their near-duplicates.

    Parameters
    ----------
    source, **columns
        Where the images are, and which part is meant: see `load_dataset`.
    encoder
        A `ClipEncoder`, `VisionEncoder` or `FunctionEncoder`; or the hub id or folder
        of a model; by default what ``ClipEncoder()`` is. The table holds its last
        readout, "deep" of a CLIP.
    groups
        What must never be separated: a CSV file (file, group) or a regular expression,
        for `declared_groups`; by default what the source says. These groups are merged
        with near-duplicates.
    copies
        Which images count as copies: "off", "exact", "near" or a threshold, see
        `find_near_duplicates`.
    errors
        A dict that receives the error of each image that was left out, by id.

    Raises
    ------
    OSError
        If the source is not there, or an image cannot be read and there is no `errors`.
    ValueError
        If `groups` does not cover all images, or the source lacks a column.
    """
    parse_copies(copies)  # which is refused before the encoding, if at all
    dataset = load_dataset(source, **columns)
    if not isinstance(encoder, Encoder):
        encoder = load_encoder(encoder)
    declared = dataset["group"][:]
    if groups is not None:
        declared = declared_groups(dataset["id"][:], groups)
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
    near_duplicates = near_duplicate_groups(
        hashes, features=features, copies=copies, cache=encoder.cache
    )
    about = {"dataset": title, "source": dataset.info.builder_name}
    table = FeatureTable(
        features=features,
        labels=np.array(dataset["label"][:], np.int64),
        classes=tuple(dataset.features["label"].names),
        ids=np.array(dataset["id"][:], np.str_),
        splits=np.array(dataset["split"][:], np.str_),
        copies=near_duplicates,
        groups=near_duplicates,
        folds=np.zeros(len(dataset), np.int64),
        provenance={**encoder.provenance, **about},
    )
    if any(declared):
        table = table.with_groups(declared)
    if errors is not None:
        errors |= {str(table.ids[row]): error for row, error in errors_by_row.items()}
    return table if was_read.all() else table.select(was_read)

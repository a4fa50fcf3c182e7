"""From images, anywhere, to their feature table."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cliplib.data.arrays import Features, Ints
from cliplib.data.datasets import Source, load_dataset
from cliplib.encoders.encoder import Encoder
from cliplib.encoders.vision import load_encoder
from cliplib.features.duplicates import near_duplicate_groups, parse_copies
from cliplib.features.groups import declared_groups
from cliplib.features.hashes import image_hash
from cliplib.features.splits import stratified_subset
from cliplib.features.table import FeatureTable

if TYPE_CHECKING:
    import datasets


def encode(
    source: Source,
    encoder: Encoder | str | os.PathLike[str] = "",
    *,
    groups: str | os.PathLike[str] | None = None,
    copies: str | float = "near",
    limit: int = 0,
    seed: int = 0,
    errors: dict[str, str] | None = None,
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
        `cliplib.features.duplicates.copies_of`.
    limit, seed
        About how many images `stratified_subset` draws; 0 takes all.
    errors
        A dict that receives why each unreadable image was left out, by id.

    Raises
    ------
    OSError
        If the source is not there, or an image cannot be read and there is no `errors`.
    ValueError
        If `groups` does not cover all images, or the source lacks a column.
    """
    copies = parse_copies(copies)
    dataset = load_dataset(source, **columns)
    if not isinstance(encoder, Encoder):
        encoder = load_encoder(encoder)
    return _encode_dataset(
        dataset,
        encoder,
        groups=groups,
        copies=copies,
        limit=limit,
        seed=seed,
        errors=errors,
    )


def _encode_dataset(
    dataset: datasets.Dataset,
    encoder: Encoder,
    *,
    groups: str | os.PathLike[str] | None,
    copies: str | float,
    limit: int,
    seed: int,
    errors: dict[str, str] | None,
) -> FeatureTable:
    """Encode about `limit` of a data set's images, or all for 0, into a feature table.

    Its groups are near-duplicates merged with those that `groups` declares. Unreadable
    images are left out and noted in `errors`, by id; if it is None, the first one
    raises an OSError.
    """
    # Before the images are encoded, which takes long, and for all of them, so that a
    # limit does not hide which images lack a group.
    declared = _declared(dataset, groups)
    labels = dataset["label"][:]
    drawn_rows = stratified_subset(labels, dataset["split"][:], limit, seed=seed)
    drawn = dataset.select(drawn_rows)
    name = drawn.info.dataset_name
    # Filled by the encoder, by row of the images drawn.
    errors_by_row: dict[int, str] | None = None if errors is None else {}
    features, hashes = encoder.map(
        drawn["image"], image_hash, errors=errors_by_row, progress=name
    )
    if errors_by_row and len(errors_by_row) == len(drawn):
        raise ValueError(f"No image of {name!r} can be read.")
    copy_groups = near_duplicate_groups(
        hashes, features=features, copies=copies, cache=encoder.cache
    )
    table = _as_table(drawn, encoder, features, copy_groups)
    if declared is not None:
        table = table.with_groups(declared[drawn_rows])
    if errors is None or not errors_by_row:
        return table
    errors |= {str(table.ids[row]): error for row, error in errors_by_row.items()}
    # Last, so that all rows above are those of the images drawn.
    is_readable = np.full(len(table), True)
    is_readable[list(errors_by_row)] = False
    return table.select(is_readable)


def _declared(
    dataset: datasets.Dataset, groups: str | os.PathLike[str] | None
) -> NDArray[np.str_] | None:
    """Return the group of each image that `groups` or else the data set declares, (n,).

    None where neither does; ValueError if a data set does for some images only.
    """
    if groups is not None:
        return np.array(declared_groups(dataset["id"][:], groups), np.str_)
    declared = np.array(dataset["group"][:], np.str_)
    is_missing = declared == ""
    if is_missing.all():
        return None
    if is_missing.any():
        first = dataset["id"][int(is_missing.argmax())]
        raise ValueError(
            f"The column group is empty for {is_missing.sum()} of {len(declared)} "
            f"images, such as {first!r}: give each image a group, or none."
        )
    return declared


def _as_table(
    dataset: datasets.Dataset, encoder: Encoder, features: Features, copies: Ints
) -> FeatureTable:
    """Return the table of a data set from its "deep" features, (n, d).

    Its groups are the `copies`, (n,): group numbers of near-duplicates. It has no
    published folds.
    """
    return FeatureTable(
        features=features,
        labels=np.array(dataset["label"][:], np.int64),
        classes=tuple(dataset.features["label"].names),
        ids=np.array(dataset["id"][:], np.str_),
        splits=np.array(dataset["split"][:], np.str_),
        copies=copies,
        groups=copies,
        folds=np.zeros(len(dataset), np.int64),
        provenance={
            **encoder.provenance,
            "dataset": dataset.info.dataset_name,
            "source": dataset.info.builder_name,
        },
    )

"""What `cliplib encode` wrote, with what the paths of the images say of them."""

from __future__ import annotations

import logging
from pathlib import PurePosixPath
from typing import NamedTuple

import pandas as pd

from cliplib.data.arrays import Features, Ints
from cliplib.data.folder import parse_path
from cliplib.data.wording import counted
from cliplib.encoders.encoded import read_encoded
from cliplib.features.duplicates import near_duplicate_groups

logger = logging.getLogger(__name__)


class Listed(NamedTuple):
    """What a table is made of: a row for each of n images that could be read."""

    features: Features
    ids: list[str]
    labels: list[str]
    splits: list[str]
    copies: Ints
    provenance: dict[str, str]


def read_listed(folder: str, errors: dict[str, str] | None) -> Listed:
    """Read the folder or URI that `cliplib encode` wrote.

    A warning counts the files that could not be read; `errors`, unless it is None,
    receives why, by id. ValueError if an image lies outside a class folder.
    """
    encoded = read_encoded(folder)
    if encoded.errors:
        first = next(iter(encoded.errors.values()))
        left_out = counted(len(encoded.errors), "file")
        logger.warning("Left out %s: %s", left_out, first)
    if errors is not None:
        errors |= encoded.errors
    paths = [PurePosixPath(name) for name in encoded.ids]
    for path in paths:
        if len(path.parts) == 1:
            raise ValueError(
                f"The image {path} lies outside the class folders: move it into "
                "one, and encode again."
            )
    # A row of id, label and split for each path.
    images = pd.DataFrame([parse_path(path) for path in paths])
    if images["id"].duplicated().any():  # several data sets in one folder
        images["id"] = encoded.ids
    return Listed(
        features=encoded.features,
        ids=images["id"].tolist(),
        labels=images["label"].tolist(),
        splits=images["split"].tolist(),
        copies=near_duplicate_groups(encoded.hashes),
        provenance={**encoded.provenance, "dataset": PurePosixPath(folder).name},
    )

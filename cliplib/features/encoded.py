"""What `cliplib encode` wrote, with what the paths of the images say of them."""

from __future__ import annotations

import logging
from pathlib import PurePosixPath

import numpy as np

from cliplib.data.folder import parse_path
from cliplib.data.wording import counted
from cliplib.encoders.encoded import read_encoded
from cliplib.features.duplicates import near_duplicate_groups
from cliplib.features.storage import Fields

logger = logging.getLogger(__name__)


def load_encoded(folder: str, errors: dict[str, str] | None) -> Fields:
    """Read the fields of a feature table from what `cliplib encode` wrote.

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
    ids, splits, names = zip(*map(parse_path, paths), strict=True)
    if len(set(ids)) < len(ids):  # several data sets in one folder
        ids = tuple(encoded.ids)
    classes, labels = np.unique(np.array(names, np.str_), return_inverse=True)
    copies = near_duplicate_groups(encoded.hashes)
    return {
        "features": encoded.features,
        "labels": labels.astype(np.int64),
        "classes": tuple(classes.tolist()),
        "ids": np.array(ids, np.str_),
        "splits": np.array(splits, np.str_),
        "copies": copies,
        "groups": copies,
        "folds": np.zeros(len(ids), np.int64),
        "provenance": {**encoded.provenance, "dataset": PurePosixPath(folder).name},
    }

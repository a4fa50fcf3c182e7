"""What `cliplib encode` wrote, with what the paths of the images say of them."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import PurePosixPath

from cliplib.data.folder import parse_path
from cliplib.data.wording import counted
from cliplib.encoders.encoded import read_encoded
from cliplib.features.duplicates import near_duplicate_groups
from cliplib.features.table import FeatureTable

logger = logging.getLogger(__name__)


def read_encoded_table(folder: str, errors: dict[str, str] | None) -> FeatureTable:
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
    parsed = [parse_path(path) for path in paths]
    ids = [image.id for image in parsed]
    if len(set(ids)) < len(ids):  # several data sets in one folder
        ids = encoded.ids
    table = FeatureTable.from_arrays(
        encoded.features,
        [image.label for image in parsed],
        ids=ids,
        splits=[image.split for image in parsed],
    )
    copies = near_duplicate_groups(encoded.hashes)
    name = PurePosixPath(folder).name
    provenance = {**encoded.provenance, "dataset": name}
    return replace(table, copies=copies, groups=copies, provenance=provenance)

"""What `cliplib encode` wrote: Parquet files with features, read without a model."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.dataset
from numpy.typing import NDArray
from pyarrow.fs import FileSystem

from cliplib.data.arrays import Ints
from cliplib.data.folder import parse_path
from cliplib.data.wording import counted
from cliplib.features.duplicates import near_duplicate_groups
from cliplib.features.storage import Fields

logger = logging.getLogger(__name__)

SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "features": pa.list_(pa.float32()),
        "hash": pa.list_(pa.uint8()),
        "encoder": pa.string(),
        "error": pa.string(),
    }
)
"""The columns: see `cliplib.features.cluster.encode_with_ray`, which writes them."""


def load_encoded(folder: str, errors: dict[str, str] | None) -> Fields:
    """Read the fields of a feature table from what `cliplib encode` wrote.

    A warning counts the files that could not be read; `errors`, unless it is None,
    receives why, by id. ValueError if a file is damaged, if no image could be read, or
    if one lies outside a class folder.
    """
    images = read_encoded(folder, ["id", "encoder", "error"]).to_pandas()
    # Two calls of `encode` at once may have written two rows for an image.
    images = images.drop_duplicates("id").sort_values("id")
    was_read = images["error"] == ""
    if not was_read.any():
        raise ValueError(f"{folder} holds no image that could be read.")
    failed = images[~was_read].set_index("id")["error"]
    if len(failed):
        logger.warning("Left out %s: %s", counted(len(failed), "file"), failed.iloc[0])
    if errors is not None:
        errors |= failed.to_dict()
    read = images[was_read]
    rows = read.index.to_numpy()
    made_by = json.loads(read["encoder"].iloc[0])
    copies = near_duplicate_groups(_read_arrays(folder, "hash", rows))
    return {
        **_said_by_paths(read["id"].tolist()),
        "features": _read_arrays(folder, "features", rows),
        "copies": copies,
        "groups": copies,
        "folds": np.zeros(len(rows), np.int64),
        "provenance": made_by | {"dataset": PurePosixPath(folder).name},
    }


def _said_by_paths(names: Sequence[str]) -> dict[str, Any]:
    """Return ids, splits, classes and labels of images, by their paths in the set."""
    parsed = [parse_path(PurePosixPath(name)) for name in names]
    ids, splits, labels = zip(*parsed, strict=True)
    if len(set(ids)) < len(ids):  # several data sets in one folder
        ids = tuple(names)
    classes, numbers = np.unique(np.array(labels, np.str_), return_inverse=True)
    return {
        "ids": np.array(ids, np.str_),
        "splits": np.array(splits, np.str_),
        "classes": tuple(classes.tolist()),
        "labels": numbers.astype(np.int64),
    }


def read_encoded(folder: str, columns: list[str]) -> pa.Table:
    """Return columns of all Parquet files in a folder or URI.

    pyarrow's ValueError names a damaged one, as of a process that was killed.
    """
    system, path = locate(folder)
    written = pyarrow.dataset.dataset(path, SCHEMA, "parquet", system)
    return written.to_table(columns)


def _read_arrays(folder: str, name: str, rows: Ints) -> NDArray[Any]:
    """Return some rows of a column of lists of d numbers, (len(rows), d)."""
    column = read_encoded(folder, [name])[name]
    n = len(column)
    numbers = pyarrow.compute.list_flatten(column).to_numpy()
    del column  # else memory would hold the numbers three times
    return np.asarray(numbers.reshape(n, -1)[rows])


def locate(place: str) -> tuple[FileSystem, str]:
    """Return the file system of a folder or URI, and its path there, links resolved."""
    uri = place if "://" in place else os.path.realpath(place)
    system, path = FileSystem.from_uri(uri)
    return system, path.rstrip("/")

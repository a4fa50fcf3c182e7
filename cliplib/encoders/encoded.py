"""What `cliplib encode` wrote: Parquet files with features, read without a model."""

from __future__ import annotations

import json
import os
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet
from numpy.typing import NDArray
from pyarrow.fs import FileSelector, FileSystem, FileType

from cliplib.data.arrays import Features, Ints

PROVENANCE = "_provenance.json"
"""Which encoder made a folder's features; readers of Parquet skip names with "_"."""


class Encoded(NamedTuple):
    """What `encode` wrote: n images that could be read, in increasing order of ids."""

    ids: list[str]
    features: Features
    """(n, d) float32."""
    hashes: NDArray[np.uint8]
    """Of the column "hash", (n, bytes)."""
    errors: dict[str, str]
    """Why other files could not be read, by id; they have no row."""
    provenance: dict[str, str]
    """As in `BatchEncoder.provenance`."""


def read_encoded(output: str) -> Encoded:
    """Read the folder or URI that `encode` wrote, images in the order of their ids.

    A ValueError says what is damaged, or that no image could be read.
    """
    provenance = _read_provenance(output)
    system, folder = locate(output)
    if damaged := find_damaged(system, folder):
        names = ", ".join(damaged)
        raise ValueError(f"{names} is damaged: encode into {output} again.")
    written = pyarrow.dataset.dataset(folder, filesystem=system, format="parquet")
    table = written.to_table(columns=["id", "error"])
    images = table.to_pandas(ignore_metadata=True)
    images["row"] = np.arange(len(images))  # of the data set as written
    # Two calls of `encode` at once may have written two rows for an image.
    images = images.drop_duplicates("id").sort_values("id")
    was_read = images["error"] == ""
    if not was_read.any():
        raise ValueError(f"{output} holds no image that could be read.")
    read = images[was_read]
    failed = images[~was_read]
    arrays = _read_arrays(written, ["features", "hash"], read["row"].to_numpy())
    return Encoded(
        ids=read["id"].tolist(),
        features=arrays["features"],
        hashes=arrays["hash"],
        errors=dict(zip(failed["id"], failed["error"], strict=True)),
        provenance=provenance,
    )


def _read_arrays(
    written: pyarrow.dataset.Dataset, columns: list[str], rows: Ints
) -> dict[str, NDArray[Any]]:
    """Return some rows of columns of lists as arrays, (len(rows), d), by column.

    Row i of an array is row ``rows[i]`` of `written`, from 0. All lists of a column
    have d numbers. Batch by batch is read, so that memory holds little but the arrays.
    """
    # Of each row of `written` its row in the arrays; -1 if it is not asked for.
    target_rows = np.full(written.count_rows(), -1)
    target_rows[rows] = np.arange(len(rows))
    arrays: dict[str, NDArray[Any]] = {}
    start = 0
    for batch in written.to_batches(columns=columns):
        targets = target_rows[start : start + len(batch)]
        start += len(batch)
        is_wanted = targets >= 0
        for name in columns:
            values = _to_array(batch.column(name))  # (len(batch), d)
            if name not in arrays:  # the first batch tells d and the dtype
                arrays[name] = np.empty((len(rows), values.shape[1]), values.dtype)
            arrays[name][targets[is_wanted]] = values[is_wanted]
    return arrays


def _to_array(column: pa.Array) -> NDArray[Any]:
    """Return a column of n lists of d numbers each as an array, (n, d)."""
    if isinstance(column, pa.ExtensionArray):  # Ray's type, if Ray is imported
        column = column.storage
    numbers = column.flatten().to_numpy(zero_copy_only=False)
    return np.asarray(numbers).reshape(len(column), -1)


def _read_provenance(output: str) -> dict[str, str]:
    """Read the `BatchEncoder.provenance` in `output`; ValueError if there is none."""
    system, folder = locate(output)
    path = f"{folder}/{PROVENANCE}"
    if system.get_file_info(path).type != FileType.File:
        raise ValueError(
            f"{output} holds no {PROVENANCE}: encode into a new folder, by this version"
            " of cliplib."
        )
    with system.open_input_stream(path) as file:
        return dict(json.loads(file.read()))


def locate(place: str) -> tuple[FileSystem, str]:
    """Return the file system of a folder or URI, and its path there, "/" stripped."""
    uri = place if "://" in place else os.path.abspath(place)
    system, path = FileSystem.from_uri(uri)
    return system, path.rstrip("/")


def find_damaged(system: FileSystem, folder: str) -> dict[str, str]:
    """Return the paths of damaged Parquet files in a folder, each with its fault.

    They have no readable footer, as their writer was killed. A fault of the network is
    another error, and is raised.
    """
    damaged = {}
    for info in system.get_file_info(FileSelector(folder)):
        if not info.path.endswith(".parquet"):
            continue
        try:
            with system.open_input_file(info.path) as file:
                pyarrow.parquet.read_metadata(file)
        except pa.ArrowInvalid as error:
            damaged[info.path] = str(error).splitlines()[0]
    return damaged

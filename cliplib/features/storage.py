"""A feature table in a file: safetensors or Parquet.

The functions write and read the fields of a `cliplib.FeatureTable`, by name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from cliplib.data.arrays import Bools, Features
from cliplib.data.files import replacing
from cliplib.encoders.readouts import readout_columns

Fields = dict[str, Any]

# The entry of a file's metadata that holds all fields but the arrays, as JSON.
METADATA = "cliplib.FeatureTable"
# Names of the fields (n,) of whole numbers, and of those of texts.
NUMBERS = ("labels", "copies", "groups")
NAMES = ("ids", "splits")


def save_safetensors(path: str | os.PathLike[str], fields: Fields) -> None:
    """Write one safetensors file; see `cliplib.FeatureTable.save`."""
    arrays = {name: fields[name] for name in NUMBERS}
    arrays["features"] = np.asarray(fields["features"], np.float32)
    write_arrays(path, arrays, fields)


def write_arrays(
    path: str | os.PathLike[str], arrays: Mapping[str, NDArray[Any]], fields: Fields
) -> None:
    """Write a table's arrays to a file, which replaces an older one once complete.

    The other fields become the file's metadata.
    """
    # safetensors would write arrays that are stored column by column transposed.
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    place = Path(path)
    with replacing(place.parent) as new:
        (new / place.name).write_bytes(save(contiguous, _metadata(fields, *NAMES)))


def load_safetensors(path: str | os.PathLike[str]) -> Fields:
    """Read what `save_safetensors` wrote; see `cliplib.FeatureTable.load`."""
    with _named_if_damaged(path):
        with safe_open(path, framework="numpy") as file:
            texts = file.metadata() or {}
            names = file.keys()
            arrays = {name: file.get_tensor(name) for name in names}
        metadata = json.loads(texts[METADATA])
        if "codes" in arrays:  # a compact file
            arrays["features"] = _expanded(arrays, metadata["provenance"])
        # An older file may hold features in float16, and lack copies: its groups are
        # those of near-duplicates.
        arrays["features"] = arrays["features"].astype(np.float32, copy=False)
        return _fields({"copies": arrays["groups"]} | arrays, metadata)


def save_parquet(path: str | os.PathLike[str], fields: Fields) -> None:
    """Write one Parquet file; see `cliplib.FeatureTable.to_parquet`."""
    features = np.asarray(fields["features"], np.float32)
    columns = {name: fields[name] for name in (*NUMBERS, *NAMES)}
    table = pd.DataFrame({**columns, "features": list(features)})
    # The column of an empty table does not tell the number of features.
    table.attrs = {**_metadata(fields), "width": features.shape[1]}
    place = Path(path)
    with replacing(place.parent) as new:
        table.to_parquet(new / place.name)


def load_parquet(path: str | os.PathLike[str]) -> Fields:
    """Read what `save_parquet` wrote; ValueError if it is something else."""
    with _named_if_damaged(path):
        table = pd.read_parquet(path)
        metadata = json.loads(table.attrs[METADATA])
        arrays = {name: table[name].to_numpy() for name in (*NUMBERS, *NAMES)}
        features = np.array(table["features"].tolist(), np.float32)
        arrays["features"] = features.reshape(len(table), table.attrs["width"])
        return _fields(arrays, metadata)


def _metadata(fields: Fields, *names: str) -> dict[str, str]:
    """Return a file's metadata: classes, provenance, and the fields of some names."""
    metadata = {"classes": fields["classes"], "provenance": dict(fields["provenance"])}
    metadata |= {name: fields[name].tolist() for name in names}
    return {METADATA: json.dumps(metadata, sort_keys=True)}


def _fields(arrays: Mapping[str, NDArray[Any]], metadata: Fields) -> Fields:
    """Return a table's fields from the arrays and the metadata of a file."""
    entries = {**metadata, **arrays}
    fields = {name: entries[name] for name in ("features", "provenance", *NUMBERS)}
    fields |= {name: np.array(entries[name], np.str_) for name in NAMES}
    return {**fields, "classes": tuple(entries["classes"])}


@contextmanager
def _named_if_damaged(path: str | os.PathLike[str]) -> Iterator[None]:
    """Raise a ValueError that names the file if a block cannot read it."""
    try:
        yield
    except (SafetensorError, LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"{os.fspath(path)!r} is no feature table, or damaged."
        ) from error


def pooled_columns(provenance: Mapping[str, str]) -> Bools:
    """Return whether each column of the readout "deep", (d,), is a pooled feature."""
    width = int(provenance["width"])
    blocks = int(provenance["blocks"])
    columns = readout_columns("deep", width, blocks)
    return np.isin(columns, readout_columns("pooled", width, blocks))


def _expanded(
    arrays: Mapping[str, NDArray[Any]], provenance: Mapping[str, str]
) -> Features:
    """Return the features (n, d) float32 of a compact file.

    It stores each of u different rows once: its pooled columns, (u, p), and its other
    columns as codes, (u, d - p), to be multiplied by a scale for each column, (d - p,).
    `rows` (n,) says which of the u rows each image has.
    """
    n_unique = len(arrays["codes"])
    n_columns = arrays["pooled"].shape[1] + arrays["codes"].shape[1]
    # Checked first, since the sizes that a damaged file states could fill the memory.
    # No sound file has more than ten images for each different row.
    stated_columns = 3 * int(provenance["blocks"]) * int(provenance["width"])
    if stated_columns != n_columns or len(arrays["rows"]) > 10 * n_unique:
        raise ValueError("The readout has other rows or columns than the file.")
    is_pooled = pooled_columns(provenance)
    unique = np.empty((n_unique, n_columns), np.float32)
    unique[:, is_pooled] = arrays["pooled"]
    unique[:, ~is_pooled] = arrays["codes"] * arrays["scale"]
    return unique[arrays["rows"].astype(np.int64)]

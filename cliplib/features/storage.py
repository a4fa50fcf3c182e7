"""A feature table in a file: safetensors or Parquet.

What is written and read are the fields of a `cliplib.FeatureTable`, by name.
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

# The entry of a file with all but the arrays.
METADATA = "cliplib.FeatureTable"
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
    """Write a table's arrays to a file, which replaces an older one once complete."""
    # The package would write arrays that are stored column by column transposed.
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    place = Path(path)
    with replacing(place.parent) as new:
        (new / place.name).write_bytes(save(contiguous, _metadata(fields, *NAMES)))


def load_safetensors(path: str | os.PathLike[str]) -> Fields:
    """Read what `save_safetensors` wrote; see `cliplib.FeatureTable.load`."""
    with _named_if_damaged(path):
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            names = file.keys()
            arrays = {name: file.get_tensor(name) for name in names}
        about = json.loads(metadata[METADATA])
        if "codes" in arrays:  # a compact file
            arrays["features"] = _expanded(arrays, about["provenance"])
        # Older files may hold float16; they know near-duplicates alone, as groups.
        arrays["features"] = arrays["features"].astype(np.float32, copy=False)
        return _fields({"copies": arrays["groups"]} | arrays, about)


def save_parquet(path: str | os.PathLike[str], fields: Fields) -> None:
    """Write one Parquet file, of a column for each entry, and one of features."""
    features = np.asarray(fields["features"], np.float32)
    columns = {name: fields[name] for name in (*NUMBERS, *NAMES)}
    table = pd.DataFrame({**columns, "features": list(features)})
    # An empty table does not tell how many features it had.
    table.attrs = {**_metadata(fields), "width": features.shape[1]}
    place = Path(path)
    with replacing(place.parent) as new:
        table.to_parquet(new / place.name)


def load_parquet(path: str | os.PathLike[str]) -> Fields:
    """Read what `save_parquet` wrote; ValueError if it is something else."""
    with _named_if_damaged(path):
        table = pd.read_parquet(path)
        about = json.loads(table.attrs[METADATA])
        arrays = {name: table[name].to_numpy() for name in (*NUMBERS, *NAMES)}
        features = np.array(table["features"].tolist(), np.float32)
        arrays["features"] = features.reshape(len(table), table.attrs["width"])
        return _fields(arrays, about)


def _metadata(fields: Fields, *names: str) -> dict[str, str]:
    """Return what a file says beside its arrays, with entries of some names."""
    about = {"classes": fields["classes"], "provenance": dict(fields["provenance"])}
    about |= {name: fields[name].tolist() for name in names}
    return {METADATA: json.dumps(about, sort_keys=True)}


def _fields(arrays: Mapping[str, NDArray[Any]], about: Fields) -> Fields:
    """Return a table's fields from a file's arrays, and what it says beside them."""
    known = {**about, **arrays}
    fields = {name: known[name] for name in ("features", "provenance", *NUMBERS)}
    fields |= {name: np.array(known[name], np.str_) for name in NAMES}
    return {**fields, "classes": tuple(known["classes"])}


@contextmanager
def _named_if_damaged(path: str | os.PathLike[str]) -> Iterator[None]:
    """Raise ValueError, which names the file, where a block reads no table."""
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
    """Return the features (n, d) float32 of a file that stores them in few bits.

    Of u different rows it has the pooled columns, (u, p); and codes (u, d - p), which
    are multiplied by a scale for each column, (d - p,).
    """
    n_columns = arrays["pooled"].shape[1] + arrays["codes"].shape[1]
    # First, since what a damaged file says of its size could fill the memory. No file
    # has more than ten rows for each that differs.
    stated_columns = 3 * int(provenance["blocks"]) * int(provenance["width"])
    if stated_columns != n_columns or len(arrays["rows"]) > 10 * len(arrays["codes"]):
        raise ValueError("The readout has other rows or columns than the file.")
    is_pooled = pooled_columns(provenance)
    unique = np.empty((len(arrays["codes"]), n_columns), np.float32)
    unique[:, is_pooled] = arrays["pooled"]
    others = np.multiply(arrays["codes"], arrays["scale"], dtype=np.float32)
    unique[:, ~is_pooled] = others
    return unique[arrays["rows"].astype(np.int64)]

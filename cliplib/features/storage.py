"""Arrays in safetensors files, replaced whole, and read into memory or mapped."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save

Arrays = dict[str, NDArray[Any]]

DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I8": np.dtype(np.int8),
}
"""What safetensors calls the types of arrays."""

BYTES_AT_ONCE = 2**24
"""Bytes of an array that are looked at together: 16 MiB."""


def write_arrays(
    path: str | os.PathLike[str],
    arrays: Mapping[str, NDArray[Any]],
    metadata: Mapping[str, str],
) -> None:
    """Write arrays and texts to a file, which replaces an older one once complete."""
    unfinished = Path(path).with_name(f".{Path(path).name}.unfinished")
    # The package would write arrays that are stored column by column transposed.
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    try:
        unfinished.write_bytes(save(contiguous, dict(metadata)))
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def read_arrays(
    path: str | os.PathLike[str], *, mapped: bool = False
) -> tuple[Arrays, dict[str, str]]:
    """Return the arrays of a safetensors file, by name, and its metadata.

    With `mapped` they stay on the disk, read-only, and are read as they are used.
    ``safetensors.SafetensorError`` if it is no such file, or damaged.
    """
    with safe_open(path, framework="numpy") as file:
        metadata: dict[str, str] = file.metadata() or {}
        if not mapped:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, metadata
    return _mapped_arrays(path), metadata


def _mapped_arrays(path: str | os.PathLike[str]) -> Arrays:
    """Return the arrays of a safetensors file as views of it, which the package lacks.

    The file begins with eight bytes that say how long its header is; the header, in
    JSON, says where behind it each array lies.
    """
    with Path(path).open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    arrays = {}
    for name, about in header.items():
        dtype = DTYPES[about["dtype"]]
        shape = tuple(about["shape"])
        start = 8 + length + about["data_offsets"][0]
        if np.prod(shape):
            view = np.memmap(path, dtype, mode="r", offset=start, shape=shape)
            arrays[name] = np.asarray(view)
        else:  # no empty array can be mapped
            arrays[name] = np.empty(shape, dtype)
    return arrays


def row_blocks(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield views of successive rows of an array, of at most about 16 MiB each.

    An array without rows has none.
    """
    bytes_of_row = array.nbytes // max(1, len(array))
    n_rows = max(1, BYTES_AT_ONCE // max(1, bytes_of_row))
    for start in range(0, len(array), n_rows):
        yield array[start : start + n_rows]

"""Arrays in safetensors files, replaced whole, and read into memory or mapped."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save

Arrays = dict[str, NDArray[Any]]

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
    # The package maps files for torch alone, which it imports for that.
    with safe_open(path, framework="pt" if mapped else "numpy") as file:
        metadata: dict[str, str] = file.metadata() or {}
        names = file.keys()
        arrays = {name: np.asarray(file.get_tensor(name)) for name in names}
    for array in arrays.values():
        array.flags.writeable = not mapped
    return arrays, metadata


def row_blocks(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield views of successive rows of an array, of at most about 16 MiB each.

    An array without rows has none.
    """
    bytes_of_row = array.nbytes // max(1, len(array))
    n_rows = max(1, BYTES_AT_ONCE // max(1, bytes_of_row))
    for start in range(0, len(array), n_rows):
        yield array[start : start + n_rows]

"""Arrays in safetensors files, without a second copy of them in memory.

The package safetensors makes the whole file in memory before it writes it, and reads
each array twice. The format is plain: a length, a header in JSON, and the arrays.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

Arrays = dict[str, NDArray[Any]]

TYPE_NAMES: dict[np.dtype[Any], str] = {
    np.dtype(np.float64): "F64",
    np.dtype(np.float32): "F32",
    np.dtype(np.float16): "F16",
    np.dtype(np.int64): "I64",
    np.dtype(np.int32): "I32",
    np.dtype(np.int8): "I8",
}
DTYPES = {name: dtype for dtype, name in TYPE_NAMES.items()}
AT_ONCE = 2**24
"""Bytes of an array that are copied at a time: 16 MiB."""


def write_arrays(
    path: str | os.PathLike[str],
    arrays: Mapping[str, NDArray[Any]],
    metadata: Mapping[str, str],
    *,
    dtypes: Mapping[str, np.dtype[Any]] | None = None,
) -> None:
    """Write arrays and the texts of `metadata` to a file, as safetensors would.

    The file takes the place of an older one once it is complete. Arrays are written in
    their own types, or in those that `dtypes` gives by the arrays' names; all types
    must be among `TYPE_NAMES`. ValueError if a number is too large for its type; the
    older file stays then.
    """
    types = {name: array.dtype for name, array in arrays.items()} | dict(dtypes or {})
    # As the package orders them: the widest types first, so that all are aligned.
    ordered = sorted(arrays, key=lambda name: (-types[name].itemsize, name))
    header = _header({name: arrays[name] for name in ordered}, types, metadata)
    unfinished = Path(path).with_name(f".{Path(path).name}.unfinished")
    try:
        with unfinished.open("wb") as file:
            file.write(struct.pack("<Q", len(header)))  # an unsigned 64-bit number
            file.write(header)
            for name in ordered:
                for block in row_blocks(arrays[name]):
                    file.write(_converted(block, types[name]).data)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _header(
    arrays: Mapping[str, NDArray[Any]],
    types: Mapping[str, np.dtype[Any]],
    metadata: Mapping[str, str],
) -> bytes:
    """Return the header of a safetensors file, in JSON.

    It gives metadata, and each array's type, shape, and first and last place among the
    bytes of all, which follow one another in the order of `arrays`.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, array in arrays.items():
        start = end
        end += array.size * types[name].itemsize
        header[name] = {
            "dtype": TYPE_NAMES[types[name]],
            "shape": list(array.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return text + b" " * (-len(text) % 8)  # arrays begin at a multiple of 8 bytes


def _converted(block: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return an array as a contiguous one of type `dtype`.

    ValueError if a finite number is too large for the type, and would be infinite.
    """
    with np.errstate(over="ignore"):  # instead of a warning, the error below
        converted = np.ascontiguousarray(block, dtype)
    if (np.isinf(converted) & np.isfinite(block)).any():
        raise ValueError(f"A number is too large for {dtype}: keep float32.")
    return converted


def row_blocks(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield views of successive rows of an array, of at most about 16 MiB each.

    An array without rows has none.
    """
    bytes_of_row = array.nbytes // max(1, len(array))
    n_rows = max(1, AT_ONCE // max(1, bytes_of_row))
    for start in range(0, len(array), n_rows):
        yield array[start : start + n_rows]


def read_arrays(
    path: str | os.PathLike[str],
    *,
    mapped: bool = False,
    dtypes: Mapping[str, np.dtype[Any]] | None = None,
) -> tuple[Arrays, dict[str, str]]:
    """Return the arrays of a safetensors file, by name, and its metadata.

    With `mapped` they stay on the disk, read-only, in the types of the file, and are
    read as they are used. Else they are read into memory, in the types that `dtypes`
    gives by name, or those of the file. ``safetensors.SafetensorError`` if it is no
    such file, or damaged.
    """
    with safe_open(path, framework="numpy") as checked:  # the package checks the file
        metadata: dict[str, str] = checked.metadata() or {}
    arrays = {}
    with Path(path).open("rb") as file:
        # Eight bytes that say how long the header is, the header, the arrays.
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        for name, about in header.items():
            dtype = DTYPES[about["dtype"]]
            shape = tuple(about["shape"])
            start = 8 + length + about["data_offsets"][0]
            if mapped and np.prod(shape):  # no empty array can be mapped
                view = np.memmap(path, dtype, mode="r", offset=start, shape=shape)
                arrays[name] = np.asarray(view)
            else:
                arrays[name] = np.empty(shape, (dtypes or {}).get(name, dtype))
                file.seek(start)
                _fill(arrays[name], file, dtype)
    return arrays, metadata


def _fill(array: NDArray[Any], file: BinaryIO, dtype: np.dtype[Any]) -> None:
    """Fill an array with the values from a file's current position on, of type `dtype`.

    They are converted to the array's own type, in blocks, so that memory holds no
    second copy of them.
    """
    for block in row_blocks(array):
        values = np.fromfile(file, dtype, block.size)
        block[...] = values.reshape(block.shape)

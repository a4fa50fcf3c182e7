"""Large inputs, block by block: loose pictures, Parquet files and WebDataset tars, on a disk or in an object store."""

from __future__ import annotations

import logging
import os
import posixpath
import re
import tarfile
import zlib
from collections.abc import Iterator
from hashlib import blake2b
from itertools import groupby
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from cliplib.data.images import SUFFIXES
from cliplib.errors import CliplibError

logger = logging.getLogger(__name__)

SHARDS = (".parquet", ".tar", ".tar.gz", ".tgz")
"""File name endings (lower case) of what holds many pictures."""

_DAMAGE = (OSError, EOFError, ValueError, tarfile.TarError, zlib.error)  # what damaged files make their readers raise


class Row(NamedTuple):
    """A picture's id, label and bytes; or, instead of bytes, the reason why there are none."""

    id: str
    label: str | None
    image: bytes | None
    reason: str | None = None


def locate(place: str) -> tuple[fs.FileSystem, str]:
    """The file system that a path or a URI (``s3://bucket/folder``) belongs to, and the path in it."""
    try:
        return fs.FileSystem.from_uri(place) if "://" in place else (fs.LocalFileSystem(), os.path.abspath(place))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise CliplibError(f"Cannot use {place!r} ({error}): give a path or a URI, as s3://bucket/folder.") from None


def names(folder: str) -> set[str]:
    """The names in a folder, which is made if need be."""
    system, root = locate(folder)
    try:
        system.create_dir(root)
        return {info.base_name for info in system.get_file_info(fs.FileSelector(root))}
    except OSError as error:
        raise CliplibError(f"Cannot use the folder {folder!r} ({error}): give one that can be written.") from None


def plan(folder: str, recipe: str, *, block_size: int = 1024) -> dict[str, list[str]]:
    """Cut a folder, at any depth, into blocks: each shard is one, loose pictures go together in the order of names.

    Parameters
    ----------
    folder : str
        Path or URI.
    recipe : str
        All that decides a block's output besides its files.
    block_size : int
        Loose pictures in a block.

    Returns
    -------
    dict of str to list of str
        The files of each block, relative to `folder`, under a digest of the recipe and of the files' names, sizes and
        times of change: a block keeps its digest as long as its output would be the same.

    Raises
    ------
    CliplibError
        There is nothing to read.
    """
    system, root = locate(folder)
    try:
        found = system.get_file_info(fs.FileSelector(root, allow_not_found=True, recursive=True))
    except (OSError, UnicodeDecodeError) as error:
        raise CliplibError(f"Cannot list the folder {folder!r} ({error}): give one that can be read.") from None
    files = {posixpath.relpath(f.path, root): f"{f.size}\0{f.mtime_ns}" for f in found if f.is_file}
    shards = [[name] for name in sorted(files) if name.lower().endswith(SHARDS)]
    pictures = [name for name in sorted(files) if posixpath.splitext(name)[1].lower() in SUFFIXES]
    if others := len(files) - len(shards) - len(pictures):
        logger.warning("%s: passed over %d files that are neither pictures nor shards by their names", folder, others)
    blocks = shards + [pictures[start : start + block_size] for start in range(0, len(pictures), block_size)]
    if not blocks:
        raise CliplibError(f"There is no folder {folder!r} that holds pictures or shards ({', '.join(SHARDS)}).")
    told = ("\0".join([recipe, *(f"{name}\0{files[name]}" for name in block)]) for block in blocks)
    return {blake2b(text.encode(), digest_size=16).hexdigest(): block for text, block in zip(told, blocks, strict=True)}


def read(folder: str, name: str, column: str) -> Iterator[Row]:
    """Read a picture or a shard, row by row, in flat memory; what cannot be read is a row with its reason.

    A loose picture's id is its name, its label the folder that it lies in. A Parquet row has the columns "id" and
    "label" or, without an id, its file and number; `column` holds the pictures, as bytes or as ``{"bytes": ...}``, the
    layout of ``datasets``. In a tar every picture is a row; its label is the ``.cls`` of the same WebDataset sample,
    that is of the neighbouring files that share a name up to the first dot.

    Raises
    ------
    CliplibError
        A Parquet file lacks the column.
    """
    system, root = locate(folder)
    path = posixpath.join(root, name)
    try:
        if name.lower().endswith(".parquet"):
            with system.open_input_file(path) as source:
                yield from _parquet(pq.ParquetFile(source), name, column)
        elif name.lower().endswith(SHARDS):
            with system.open_input_stream(path, compression=None) as source:
                yield from _samples(tarfile.open(fileobj=source, mode="r|*"), name)
        else:
            with system.open_input_stream(path, compression=None) as source:
                yield Row(name, posixpath.basename(posixpath.dirname(name)) or None, source.read())
    except _DAMAGE as error:
        yield Row(name, None, None, f"it cannot be read to its end ({' '.join(str(error).split()).rstrip('.')})")


def _parquet(file: pq.ParquetFile, name: str, column: str) -> Iterator[Row]:
    present = file.schema_arrow.names
    if column not in present:
        raise CliplibError(f"The Parquet file {name!r} has no column {column!r}: name one of {', '.join(present)}.")
    batches = file.iter_batches(256, columns=[c for c in present if c in (column, "id", "label")])
    for number, row in enumerate(row for rows in batches for row in rows.to_pylist()):
        image = row[column].get("bytes") if isinstance(row[column], dict) else row[column]
        id, label = (None if row.get(key) is None else str(row[key]) for key in ("id", "label"))
        whole = isinstance(image, bytes)  # a path or an address is not followed
        yield Row(id or f"{name}/{number}", label, image if whole else None, None if whole else "its row has no bytes")


def _samples(tar: tarfile.TarFile, name: str) -> Iterator[Row]:
    damage: list[Exception] = []

    def members() -> Iterator[tuple[str, bytes]]:
        try:
            yield from ((m.name, file.read()) for m in tar if m.isfile() and (file := tar.extractfile(m)) is not None)
        except _DAMAGE as error:  # not at once: the sample before has not been handed on
            damage.append(error)

    for key, group in groupby(members(), lambda member: re.sub(r"\.[^/]*$", "", member[0])):
        sample = dict(group)
        label = next((data.decode(errors="replace").strip() for n, data in sample.items() if n.endswith(".cls")), None)
        pictures = [file for file in sample if posixpath.splitext(file)[1].lower() in SUFFIXES]
        yield from (Row(f"{name}/{file}", label, sample[file]) for file in pictures)
        if not pictures:
            yield Row(f"{name}/{key}", label, None, "the sample holds no picture")
    if damage:
        raise damage[0]

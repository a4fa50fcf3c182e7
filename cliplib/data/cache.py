"""Functions of images, and a cache that keeps their results by a file's content."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
import threading
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from platformdirs import user_cache_dir
from tqdm.auto import tqdm

from cliplib.data.image import (
    Images,
    ImageSource,
    image_bytes,
    image_list,
    load_image,
    warn_once,
)

logger = logging.getLogger(__name__)
# The command line silences `logger`, since it lists unreadable images itself; what is
# wrong with the cache it lets through.
cache_logger = logging.getLogger(f"{__name__}.file")

TIMEOUT = 60.0  # seconds to wait while another process writes to the cache


def cache_folder() -> Path:
    """Return the folder for features and images that are kept between runs.

    It is the setting ``CLIPLIB_CACHE``, or else the platform's folder for caches; it
    need not exist yet.
    """
    return Path(os.environ.get("CLIPLIB_CACHE") or user_cache_dir("cliplib"))


class FeatureCache:
    """Arrays by key in one SQLite file, which threads and processes share.

    The file and its folder are made where they are missing; the file may be deleted
    whenever no process uses it. Where it cannot be used, a warning says so once: then
    nothing is found in it, and nothing stored.

    Parameters
    ----------
    path
        The file; by default ``features.sqlite`` in the folder of the setting
        ``CLIPLIB_CACHE``, or else in the platform's folder for caches.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = Path(path or cache_folder() / "features.sqlite")
        self._lock = threading.Lock()  # since threads share the connection
        self._database: sqlite3.Connection | None = None

    def __reduce__(self) -> tuple[type[FeatureCache], tuple[Path]]:
        """Let copies and pickles open the file anew: connections cannot be copied."""
        return type(self), (self.path,)

    def _execute(
        self, statement: str, entries: Iterable[Sequence[Any]]
    ) -> list[tuple[Any, ...]]:
        """Return the rows that a statement gives for each of several entries.

        It is one transaction. If it fails there is a warning, and no row.
        """
        rows: list[tuple[Any, ...]] = []
        with self._lock:
            try:
                self._database = self._database or self._open()
                with self._database:
                    for entry in entries:
                        rows += self._database.execute(statement, entry)
            except (OSError, sqlite3.Error) as error:
                warn_once(
                    cache_logger,
                    f"Cannot use the feature cache {self.path} ({error}): set "
                    "CLIPLIB_CACHE, or delete it. Until then everything is computed "
                    "anew.",
                )
        return rows

    def _open(self) -> sqlite3.Connection:
        """Return a connection to the file, which is made if it is missing."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(self.path, TIMEOUT, check_same_thread=False)
        # Write-ahead logging: others can read while one process writes. Where another
        # is about to write, it has seen to that.
        with suppress(sqlite3.OperationalError):
            database.execute("PRAGMA journal_mode = WAL")
        # Older files hold tables "features" and "arrays", without checksums.
        database.execute(
            "CREATE TABLE IF NOT EXISTS checked_arrays (key TEXT PRIMARY KEY, "
            "dtype TEXT, shape TEXT, content BLOB, checksum INTEGER) WITHOUT ROWID"
        )
        return database

    def get(self, keys: Iterable[str]) -> dict[str, NDArray[Any]]:
        """Return those arrays under `keys` that are cached, by key; all read-only.

        Damaged ones are left out, so that they are computed and stored anew.
        """
        select = "SELECT * FROM checked_arrays WHERE key = ?"
        rows = self._execute(select, [(key,) for key in keys])
        return {
            key: np.frombuffer(content, dtype).reshape(json.loads(shape))
            for key, dtype, shape, content, checksum in rows
            if isinstance(content, bytes)  # whatever stands there
            and checksum == _checksum(key, dtype, shape, content)
        }

    def put(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Store arrays of numbers by key, all or none; older ones are replaced."""
        entries = []
        for key, array in arrays.items():
            entry = (key, array.dtype.str, json.dumps(array.shape), array.tobytes())
            entries.append((*entry, _checksum(*entry)))
        insert = "INSERT OR REPLACE INTO checked_arrays VALUES (?, ?, ?, ?, ?)"
        self._execute(insert, entries)


def _checksum(key: str, dtype: str, shape: str, content: bytes) -> int:
    """Return the CRC-32 of all that is stored of an array."""
    return zlib.crc32(content, zlib.crc32(repr((key, dtype, shape)).encode()))


@dataclass(frozen=True)
class ImageFunction:
    """A function of images, and what its results are cached under.

    Attributes
    ----------
    name
        Part of the keys in the cache: it must change when the function does.
    function
        From n RGB images to an array (n, ...), a row for each.
    device
        Type of the device that computes, such as "cpu" or "cuda". Devices round
        differently, so each has results of its own in the cache.
    """

    name: str
    function: Callable[[list[Image.Image]], NDArray[Any]]
    device: str = "cpu"

    def key(self, digest: str) -> str:
        """Return the cache's key of the result for an image; `digest` is its file's."""
        suffix = "" if self.device == "cpu" else f"@{self.device}"
        return f"{self.name}{suffix}:{digest}"


def map_images(
    images: Images,
    *functions: ImageFunction,
    cache: FeatureCache | None = None,
    errors: dict[int, str] | None = None,
    batch_size: int = 16,
    progress: str = "",
) -> list[NDArray[Any]]:
    """Compute functions of n images; each is read and decoded once for all functions.

    Each thread takes a batch from files to results, on one core. Results are cached
    batch by batch, so an interruption loses at most the batches under way.

    Parameters
    ----------
    images
        One image or several: paths, files' contents, images of Pillow, arrays
        (h, w, 3) of uint8, or rows ``{"path", "bytes"}`` of a data set.
    *functions
        What to compute, and the names under which results are cached.
    cache
        Where results are looked up and stored; if it fails, a warning says so once.
    errors
        Filled with the reasons why images cannot be read, by row, from 0, each with a
        warning; their rows of the results are 0.
    batch_size
        How many images a function gets at once.
    progress
        Title of a progress bar; "" shows none.

    Returns
    -------
    list of arrays
        For each function (n, ...), in the order of the images; (n, 0) if no image can
        be read.

    Raises
    ------
    OSError
        If an image cannot be read, and `errors` is None.
    """
    import torch  # which takes seconds, and is only needed here

    sources = image_list(images)
    n = len(sources)
    starts = range(0, n, batch_size)
    batches = [sources[start : start + batch_size] for start in starts]

    def compute(batch: Sequence[ImageSource]) -> list[list[NDArray[Any]] | OSError]:
        return _compute_batch(batch, functions, cache)

    # (n, 0) until the first results tell shape and dtype.
    outputs: list[NDArray[Any]] = [np.empty((n, 0)) for _ in functions]
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    bar = tqdm(total=n, desc=progress, unit="image", disable=not progress)
    try:
        computed = chain.from_iterable(pool.map(compute, batches))  # in their order
        for row, results in enumerate(computed):
            bar.update()
            if isinstance(results, OSError):
                if errors is None:
                    raise results
                logger.warning("%s", results)
                errors[row] = str(results)
                continue
            for number, result in enumerate(results):
                if not outputs[number].size:
                    outputs[number] = np.zeros((n, *result.shape), result.dtype)
                outputs[number][row] = result
    finally:  # also on an interrupt: the batches under way end and are cached
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # which the pool's threads have set to 1
        bar.close()
    return outputs


def _compute_batch(
    sources: Sequence[ImageSource],
    functions: Sequence[ImageFunction],
    cache: FeatureCache | None,
) -> list[list[NDArray[Any]] | OSError]:
    """Compute functions of a batch of images, or look their results up in the cache.

    Returned is of each image the result of each function, or why it cannot be read.
    All files are read, for the cache's keys; only images of which a result is missing
    are decoded. What is computed is stored in the cache.
    """
    image_by_digest: dict[str, Image.Image] = {}  # equal files once
    digests: list[str | OSError] = []
    result_by_key: dict[str, NDArray[Any]] = {}
    for source in sources:
        try:
            content = image_bytes(source)
            digest = hashlib.blake2b(content, digest_size=16).hexdigest()
            keys = {function.key(digest) for function in functions}
            if cache is not None:
                result_by_key |= cache.get(keys)
            if not keys <= result_by_key.keys():
                image_by_digest[digest] = load_image(source, content)
            digests.append(digest)
        except OSError as error:
            digests.append(error)
    for function in functions:
        image_by_key = {function.key(d): image for d, image in image_by_digest.items()}
        missing = {k: i for k, i in image_by_key.items() if k not in result_by_key}
        if missing:
            rows = function.function(list(missing.values()))
            computed = dict(zip(missing, rows, strict=True))
            if cache is not None:
                cache.put(computed)
            result_by_key |= computed
    return [
        digest
        if isinstance(digest, OSError)
        else [result_by_key[function.key(digest)] for function in functions]
        for digest in digests
    ]


def each_image(
    describe: Callable[[Image.Image], ArrayLike],
) -> Callable[[list[Image.Image]], NDArray[Any]]:
    """Turn a function of one image into one of n images, with results (n, ...)."""

    def describe_batch(images: list[Image.Image]) -> NDArray[Any]:
        return np.array([describe(image) for image in images])

    return describe_batch

"""Functions of images, and a cache that keeps their results by a file's content."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
import threading
import time
from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from platformdirs import user_cache_dir
from tqdm.auto import tqdm

from cliplib.images.image import (
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

_T = TypeVar("_T")

TIMEOUT = 60.0  # seconds to wait while another process writes to the cache


class CacheError(OSError):
    """The feature cache cannot be used, which is no fault of an image or a model."""


def cache_folder() -> Path:
    """Return the folder for features and images that are kept between runs.

    It is the setting ``CLIPLIB_CACHE``, or else the platform's folder for caches.
    """
    return Path(os.environ.get("CLIPLIB_CACHE") or user_cache_dir("cliplib"))


class FeatureCache:
    """Arrays by key in one SQLite file, which threads and processes share.

    The file may be deleted whenever no process uses it.

    Parameters
    ----------
    path
        The file; by default ``features.sqlite`` in the folder of the setting
        ``CLIPLIB_CACHE``, or else in the platform's folder for caches.

    Raises
    ------
    CacheError
        If the file cannot be used, here or in any method; the message names it.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = Path(path or cache_folder() / "features.sqlite")
        self._lock = threading.Lock()
        with self._locked():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = _open_database(self.path)

    def __reduce__(self) -> tuple[type[FeatureCache], tuple[Path]]:
        """Let copies and pickles open the file anew: connections cannot be copied."""
        return type(self), (self.path,)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Run a block in one thread at a time; CacheError for what the file raises."""
        try:
            with self._lock:
                yield
        except (OSError, sqlite3.Error) as error:
            raise CacheError(
                f"Cannot use the feature cache {self.path} ({error}): set "
                "CLIPLIB_CACHE, or delete it."
            ) from error

    def get(self, keys: Collection[str]) -> dict[str, NDArray[Any]]:
        """Return those of the arrays that are cached, by key; they are read-only."""
        marks = ",".join("?" * len(keys))
        query = f"SELECT key, dtype, shape, content FROM arrays WHERE key IN ({marks})"
        with self._locked():
            rows = self._db.execute(query, list(keys)).fetchall()
        return {
            key: np.frombuffer(content, dtype).reshape(json.loads(shape))
            for key, dtype, shape, content in rows
        }

    def put(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Store arrays of numbers under their keys, over older ones; all or none."""
        entries = [
            (key, array.dtype.str, json.dumps(array.shape), array.tobytes())
            for key, array in arrays.items()
        ]
        insert = "INSERT OR REPLACE INTO arrays VALUES (?, ?, ?, ?)"
        with self._locked(), self._db:
            self._db.executemany(insert, entries)


def default_cache() -> FeatureCache | None:
    """Return the cache in the default file; None, with a warning, if that fails."""
    try:
        return FeatureCache()
    except CacheError as error:
        _warn_of_cache(error)
        return None


def _warn_of_cache(error: CacheError) -> None:
    warn_once(cache_logger, f"{error} Until then everything is computed anew.")


class _OptionalCache:
    """A cache that may be missing or fail: then nothing is found and nothing stored.

    The first failure logs a warning and is the last: the cache is not used any more.
    """

    def __init__(self, cache: FeatureCache | None) -> None:
        self.cache = cache

    def get(self, keys: Collection[str]) -> dict[str, NDArray[Any]]:
        """Return those of the arrays that are cached, by key."""
        if self.cache is None:
            return {}
        try:
            return self.cache.get(keys)
        except CacheError as error:
            self._stop_using_it(error)
            return {}

    def put(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Store arrays under their keys."""
        if self.cache is None or not arrays:
            return
        try:
            self.cache.put(arrays)
        except CacheError as error:
            self._stop_using_it(error)

    def _stop_using_it(self, error: CacheError) -> None:
        _warn_of_cache(error)
        self.cache = None  # else each batch might wait `TIMEOUT` for it in vain


def cached_array(
    cache: FeatureCache | None, key: str, compute: Callable[[], NDArray[Any]]
) -> NDArray[Any]:
    """Return the array that is cached under a key; if none is, compute and store it.

    A cache that fails costs a warning, and the time to compute.
    """
    optional_cache = _OptionalCache(cache)
    cached = optional_cache.get([key])
    if key in cached:
        return cached[key]
    array = compute()
    optional_cache.put({key: array})
    return array


def _open_database(path: Path) -> sqlite3.Connection:
    """Open a cache's file, or make it; try for `TIMEOUT` seconds if it is in use.

    SQLite waits for other processes by itself, but not while one of them switches a new
    file to write-ahead logging.
    """
    deadline = time.monotonic() + TIMEOUT
    while True:
        try:
            return _connect(path)
        except sqlite3.OperationalError as error:
            primary_code = error.sqlite_errorcode & 0xFF  # without SQLite's details
            if primary_code != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def _connect(path: Path) -> sqlite3.Connection:
    """Connect to a cache's file, for all threads, and make its table if it has none."""
    database = sqlite3.connect(path, timeout=TIMEOUT, check_same_thread=False)
    try:
        database.execute(
            "PRAGMA journal_mode = WAL"
        )  # reading goes on while one writes
        # Older files hold a table "features", whose arrays have no shape.
        database.execute(
            "CREATE TABLE IF NOT EXISTS arrays (key TEXT PRIMARY KEY, dtype TEXT, "
            "shape TEXT, content BLOB) WITHOUT ROWID"
        )
    except sqlite3.Error:
        database.close()
        raise
    return database


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
        Type of the device that computes, such as "cpu" or "cuda". They round
        differently, so each has results of its own in the cache.
    """

    name: str
    function: Callable[[list[Image.Image]], NDArray[Any]]
    device: str = "cpu"

    def key(self, digest: str) -> str:
        """Return the key of the result for the image whose file has this digest."""
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
    """Compute functions of n images, each read and decoded once for all of them.

    Each thread takes a batch from files to results, on one core. Results are cached
    batch by batch, so an interruption loses at most the batches under way.

    Parameters
    ----------
    images
        As in `cliplib.images.image.image_list`.
    *functions
        What to compute.
    cache
        Where results are looked up and stored; if it fails, a warning says so once.
    errors
        Filled with the reasons why images cannot be read, by row, from 0; their rows of
        the results are 0.
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
    sources = image_list(images)
    n = len(sources)
    starts = range(0, n, batch_size)
    batches = [range(start, min(start + batch_size, n)) for start in starts]
    optional_cache = _OptionalCache(cache)

    def compute(rows: range) -> _Batch:
        return _compute_batch([sources[row] for row in rows], functions, optional_cache)

    outputs: list[NDArray[Any]] = [np.empty((n, 0)) for _ in functions]
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    bar = tqdm(total=n, desc=progress, unit="image", disable=not progress)
    try:
        for rows, batch in zip(batches, pool.map(compute, batches), strict=True):
            _note_unreadable(batch, rows, errors)
            read_rows = [rows[index] for index in batch.read]
            for number, results in enumerate(batch.results):
                if not outputs[number].size:  # the first results tell shape and dtype
                    shape = (n, *results.shape[1:])
                    outputs[number] = np.zeros(shape, results.dtype)
                outputs[number][read_rows] = results
            bar.update(len(rows))
    finally:  # also on an interrupt: the batches under way end and are cached
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
        bar.close()
    return outputs


class _Batch(NamedTuple):
    """What became of a batch of images, which are named by their index in it."""

    read: list[int]
    results: list[NDArray[Any]]
    """For each function (len(read), ...); an empty list if no image could be read."""
    unreadable: dict[int, OSError]


def _note_unreadable(batch: _Batch, rows: range, errors: dict[int, str] | None) -> None:
    """Put the errors of a batch into `errors`, by row; if it is None, raise the first.

    `rows` are the rows of the batch's images among all images.
    """
    for index, error in sorted(batch.unreadable.items()):
        if errors is None:
            raise error
        logger.warning("%s", error)
        errors[rows[index]] = str(error)


def _compute_batch(
    sources: Sequence[ImageSource],
    functions: Sequence[ImageFunction],
    cache: _OptionalCache,
) -> _Batch:
    """Compute functions of a batch of images, or look their results up in the cache.

    All files are read, for the cache's keys; only images of which a result is missing
    are decoded.
    """
    unreadable: dict[int, OSError] = {}
    contents = _try_each(
        range(len(sources)), lambda index: image_bytes(sources[index]), unreadable
    )
    digests = {index: _digest(content) for index, content in contents.items()}
    results = cache.get(
        {function.key(digest) for function in functions for digest in digests.values()}
    )
    incomplete = [
        index
        for index, digest in digests.items()
        if any(function.key(digest) not in results for function in functions)
    ]
    images = _try_each(
        incomplete,
        lambda index: load_image(sources[index], contents[index]),
        unreadable,
    )
    for function in functions:
        by_key = {function.key(digests[i]): image for i, image in images.items()}
        missing = {key: image for key, image in by_key.items() if key not in results}
        computed = _apply(function, missing)
        cache.put(computed)
        results |= computed
    read = [index for index in digests if index not in unreadable]
    if not read:
        return _Batch(read, [], unreadable)
    stacked = [
        np.stack([results[function.key(digests[index])] for index in read])
        for function in functions
    ]
    return _Batch(read, stacked, unreadable)


def _digest(content: bytes) -> str:
    """Return the hash of a file's content that names it in the cache."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _try_each(
    indices: Iterable[int], read: Callable[[int], _T], unreadable: dict[int, OSError]
) -> dict[int, _T]:
    """Return what `read` returns for each index; its OSErrors go into `unreadable`."""
    results = {}
    for index in indices:
        try:
            results[index] = read(index)
        except OSError as error:
            unreadable[index] = error
    return results


def _apply(
    function: ImageFunction, images: Mapping[str, Image.Image]
) -> dict[str, NDArray[Any]]:
    """Compute a function of all images at once; return its rows by the images' keys."""
    if not images:
        return {}
    rows = function.function(list(images.values()))
    if len(rows) != len(images):
        raise ValueError(
            f"The image function {function.name!r} made {len(rows)} rows of "
            f"{len(images)} images."
        )
    return dict(zip(images, rows, strict=True))


def each_image(
    describe: Callable[[Image.Image], ArrayLike],
) -> Callable[[list[Image.Image]], NDArray[Any]]:
    """Turn a function of one image into one of a batch, as `ImageFunction` takes it."""

    def describe_batch(images: list[Image.Image]) -> NDArray[Any]:
        return np.array([describe(image) for image in images])

    return describe_batch

"""Functions of images, and a cache that keeps their results by a file's content."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
import threading
import time
import zlib
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

_T = TypeVar("_T")

TIMEOUT = 60.0  # seconds to wait while another process writes to the cache


class CacheError(OSError):
    """The feature cache cannot be used, which is no fault of an image or a model."""


def cache_folder() -> Path:
    """Return the folder for features and images that are kept between runs.

    It is the setting ``CLIPLIB_CACHE``, or else the platform's folder for caches; it
    need not exist yet.
    """
    return Path(os.environ.get("CLIPLIB_CACHE") or user_cache_dir("cliplib"))


class FeatureCache:
    """Arrays by key in one SQLite file, which threads and processes share.

    The file and its folder are made where they are missing; the file may be deleted
    whenever no process uses it.

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
        with self._locked():  # for its CacheError
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = _open_database(self.path)

    def __reduce__(self) -> tuple[type[FeatureCache], tuple[Path]]:
        """Let copies and pickles open the file anew: connections cannot be copied."""
        return type(self), (self.path,)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Run a block in one thread at a time; errors of the file become CacheError."""
        try:
            with self._lock:
                yield
        except (OSError, sqlite3.Error) as error:
            raise CacheError(
                f"Cannot use the feature cache {self.path} ({error}): set "
                "CLIPLIB_CACHE, or delete it."
            ) from error

    def get(self, keys: Collection[str]) -> dict[str, NDArray[Any]]:
        """Return those arrays under `keys` that are cached, by key; all read-only.

        Damaged ones are left out, so that they are computed and stored anew.
        """
        placeholders = ",".join("?" * len(keys))
        query = (
            "SELECT key, dtype, shape, content, checksum FROM checked_arrays "
            f"WHERE key IN ({placeholders})"
        )
        with self._locked():
            rows = self._db.execute(query, list(keys)).fetchall()
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
        with self._locked(), self._db:  # one transaction
            self._db.executemany(insert, entries)


def _checksum(key: str, dtype: str, shape: str, content: bytes) -> int:
    """Return the CRC-32 of all that is stored of an array."""
    return zlib.crc32(content, zlib.crc32(repr((key, dtype, shape)).encode()))


def default_cache() -> FeatureCache | None:
    """Return the cache in the default file; warn and return None if it has a fault."""
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
        """Return those arrays under `keys` that are cached, by key; {} on a failure."""
        if self.cache is None:
            return {}
        try:
            return self.cache.get(keys)
        except CacheError as error:
            self._stop_using_it(error)
            return {}

    def put(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Store arrays by key; on a failure warn, and use the cache no more."""
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

    If `cache` is None, or fails (with a warning), it is computed and not stored.
    """
    optional_cache = _OptionalCache(cache)
    cached = optional_cache.get([key])
    if key in cached:
        return cached[key]
    array = compute()
    optional_cache.put({key: array})
    return array


def _open_database(path: Path) -> sqlite3.Connection:
    """Open a cache's file, or make it; while it is in use, retry for `TIMEOUT` seconds.

    SQLite waits for other processes by itself, but not while one of them switches a new
    file to write-ahead logging.
    """
    deadline = time.monotonic() + TIMEOUT
    while True:
        try:
            return _connect(path)
        except sqlite3.OperationalError as error:
            primary_code = error.sqlite_errorcode & 0xFF  # higher bits: details
            if primary_code != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def _connect(path: Path) -> sqlite3.Connection:
    """Connect to a cache's file, made if missing, for all threads; make its table."""
    database = sqlite3.connect(path, timeout=TIMEOUT, check_same_thread=False)
    try:
        # Write-ahead logging: others can read while one process writes.
        database.execute("PRAGMA journal_mode = WAL")
        # Older files hold tables "features" and "arrays", which have no checksums.
        database.execute(
            "CREATE TABLE IF NOT EXISTS checked_arrays (key TEXT PRIMARY KEY, "
            "dtype TEXT, shape TEXT, content BLOB, checksum INTEGER) WITHOUT ROWID"
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
    numbered = list(enumerate(sources))
    starts = range(0, n, batch_size)
    # In each batch, the sources by row.
    batches = [dict(numbered[start : start + batch_size]) for start in starts]
    optional_cache = _OptionalCache(cache)

    def compute(batch: dict[int, ImageSource]) -> _BatchResults:
        return _compute_batch(batch, functions, optional_cache)

    # (n, 0) until the first results tell shape and dtype.
    outputs: list[NDArray[Any]] = [np.empty((n, 0)) for _ in functions]
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    bar = tqdm(total=n, desc=progress, unit="image", disable=not progress)
    try:
        for batch in pool.map(compute, batches):  # in the order of the batches
            _note_unreadable(batch.unreadable, errors)
            for number, results in enumerate(batch.results):
                if not outputs[number].size:
                    shape = (n, *results.shape[1:])
                    outputs[number] = np.zeros(shape, results.dtype)
                outputs[number][batch.read] = results
            bar.update(len(batch.read) + len(batch.unreadable))
    finally:  # also on an interrupt: the batches under way end and are cached
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # which the pool's threads have set to 1
        bar.close()
    return outputs


class _BatchResults(NamedTuple):
    """Results of a batch of images; a row is an image's index among those of all."""

    read: list[int]
    """The rows of the images that could be read."""
    results: list[NDArray[Any]]
    """For each function (len(read), ...); an empty list if no image could be read."""
    unreadable: dict[int, OSError]
    """The error of each other image, by its row."""


def _note_unreadable(
    unreadable: Mapping[int, OSError], errors: dict[int, str] | None
) -> None:
    """Log the errors of images, which are by row, and put their texts into `errors`.

    If that is None, the error of the first row is raised.
    """
    for row, error in sorted(unreadable.items()):
        if errors is None:
            raise error
        logger.warning("%s", error)
        errors[row] = str(error)


def _compute_batch(
    source_by_row: Mapping[int, ImageSource],
    functions: Sequence[ImageFunction],
    cache: _OptionalCache,
) -> _BatchResults:
    """Compute functions of a batch of images, or look their results up in the cache.

    Rows are numbers among all images, not of the batch. All files are read, for the
    cache's keys; only images of which a result is missing are decoded. What is computed
    is stored in the cache. Images that cannot be read are named in what is returned;
    nothing is raised for them.
    """
    unreadable: dict[int, OSError] = {}  # which `_try_each` fills
    contents = _try_each(
        source_by_row, lambda row: image_bytes(source_by_row[row]), unreadable
    )
    digests = {row: _digest(content) for row, content in contents.items()}
    result_by_key = cache.get(
        {function.key(digest) for function in functions for digest in digests.values()}
    )
    incomplete = [
        row
        for row, digest in digests.items()
        if any(function.key(digest) not in result_by_key for function in functions)
    ]
    images = _try_each(
        incomplete,
        lambda row: load_image(source_by_row[row], contents[row]),
        unreadable,
    )
    for function in functions:
        missing: dict[str, Image.Image] = {}
        for row, image in images.items():
            key = function.key(digests[row])
            if key not in result_by_key:
                missing[key] = image  # once for equal files, which have the same key
        computed = _compute_by_key(function, missing)
        cache.put(computed)
        result_by_key |= computed
    read = [row for row in digests if row not in unreadable]
    if not read:
        return _BatchResults([], [], unreadable)
    results = [
        np.stack([result_by_key[function.key(digests[row])] for row in read])
        for function in functions
    ]
    return _BatchResults(read, results, unreadable)


def _digest(content: bytes) -> str:
    """Return the hash of a file's content that names it in the cache, as hex digits."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _try_each(
    rows: Iterable[int], read: Callable[[int], _T], unreadable: dict[int, OSError]
) -> dict[int, _T]:
    """Call `read` for each row; return its results by row.

    Where it raises an OSError, this goes into `unreadable`, by row.
    """
    results = {}
    for row in rows:
        try:
            results[row] = read(row)
        except OSError as error:
            unreadable[row] = error
    return results


def _compute_by_key(
    function: ImageFunction, image_by_key: Mapping[str, Image.Image]
) -> dict[str, NDArray[Any]]:
    """Compute a function of images in one call; return each image's result by its key.

    ValueError if the function does not make one row for each image.
    """
    if not image_by_key:
        return {}
    rows = function.function(list(image_by_key.values()))
    if len(rows) != len(image_by_key):
        raise ValueError(
            f"The image function {function.name!r} made {len(rows)} rows of "
            f"{len(image_by_key)} images."
        )
    return dict(zip(image_by_key, rows, strict=True))


def each_image(
    describe: Callable[[Image.Image], ArrayLike],
) -> Callable[[list[Image.Image]], NDArray[Any]]:
    """Turn a function of one image into one of n images, with results (n, ...)."""

    def describe_batch(images: list[Image.Image]) -> NDArray[Any]:
        return np.array([describe(image) for image in images])

    return describe_batch

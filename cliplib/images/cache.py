"""Compute something from many images, once: results are kept by content."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
# Of its own, since the command line lists unreadable images itself, and this not.
cache_logger = logging.getLogger(f"{__name__}.file")

TIMEOUT = 60.0  # seconds to wait for another process that writes


class CacheError(OSError):
    """The feature cache cannot be used, which is no fault of an image or a model."""


def cache_folder() -> Path:
    """Return the folder of ``CLIPLIB_CACHE``, or else the platform's for caches."""
    return Path(os.environ.get("CLIPLIB_CACHE") or user_cache_dir("cliplib"))


class FeatureCache:
    """Arrays by key in one SQLite file, which threads and processes share.

    The file may be deleted at any time that nothing is running.

    Parameters
    ----------
    path
        The file; by default ``features.sqlite`` in the folder of the setting
        ``CLIPLIB_CACHE``, or else in the platform's folder for caches.

    Raises
    ------
    CacheError
        If it cannot be used: an OSError that names the file.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = Path(path or cache_folder() / "features.sqlite")
        self._lock = threading.Lock()
        with self._locked():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = _open_database(self.path)

    def __reduce__(self) -> tuple[type[FeatureCache], tuple[Path]]:
        """Copy the cache by opening its file anew: connections cannot be copied."""
        return type(self), (self.path,)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one thread in, and say what is wrong with the file if anything is."""
        try:
            with self._lock:
                yield
        except (OSError, sqlite3.Error) as error:
            raise CacheError(
                f"Cannot use the feature cache {self.path} ({error}): set "
                "CLIPLIB_CACHE, or delete it."
            ) from error

    def get(self, keys: Collection[str]) -> dict[str, NDArray[Any]]:
        """Return the arrays that are there, by key; they are read-only."""
        marks = ",".join("?" * len(keys))
        query = f"SELECT key, dtype, shape, content FROM arrays WHERE key IN ({marks})"
        with self._locked():
            rows = self._db.execute(query, list(keys)).fetchall()
        return {
            key: np.frombuffer(content, dtype).reshape(json.loads(shape))
            for key, dtype, shape, content in rows
        }

    def put(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keep arrays of numbers under their keys, all or none."""
        entries = [
            (key, array.dtype.str, json.dumps(array.shape), array.tobytes())
            for key, array in arrays.items()
        ]
        insert = "INSERT OR REPLACE INTO arrays VALUES (?, ?, ?, ?)"
        with self._locked(), self._db:
            self._db.executemany(insert, entries)


def default_cache() -> FeatureCache | None:
    """Open the default cache; where it cannot be used, warn once and go without."""
    try:
        return FeatureCache()
    except CacheError as error:
        _warn_of_cache(error)
        return None


def _warn_of_cache(error: CacheError) -> None:
    warn_once(cache_logger, f"{error} Until then everything is computed anew.")


class _Results:
    """The results that are known, in a cache that may fail: then there are none."""

    def __init__(self, cache: FeatureCache | None) -> None:
        self.cache = cache

    def get(self, keys: Collection[str]) -> dict[str, NDArray[Any]]:
        try:
            return self.cache.get(keys) if self.cache else {}
        except CacheError as error:
            self._go_without(error)
            return {}

    def put(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        try:
            if self.cache and arrays:
                self.cache.put(arrays)
        except CacheError as error:
            self._go_without(error)

    def _go_without(self, error: CacheError) -> None:
        _warn_of_cache(error)
        self.cache = None  # else each batch might wait for it in vain


def kept(
    cache: FeatureCache | None, key: str, compute: Callable[[], NDArray[Any]]
) -> NDArray[Any]:
    """Return the array that is kept under a key, or compute and keep it.

    A cache that fails costs a warning, and what it would have spared.
    """
    results = _Results(cache)
    known = results.get([key])
    if key not in known:
        known = {key: compute()}
        results.put(known)
    return known[key]


def _open_database(path: Path) -> sqlite3.Connection:
    """Open the file, and make its table where there is none.

    SQLite does not wait for another process that switches a new file to write-ahead
    logging, whatever its timeout: so this tries again.
    """
    deadline = time.monotonic() + TIMEOUT
    while True:
        database = sqlite3.connect(path, timeout=TIMEOUT, check_same_thread=False)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            # Older files hold a table "features", whose arrays have no shape.
            database.execute(
                "CREATE TABLE IF NOT EXISTS arrays (key TEXT PRIMARY KEY, dtype TEXT, "
                "shape TEXT, content BLOB) WITHOUT ROWID"
            )
            return database
        except sqlite3.OperationalError as error:
            database.close()
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        except sqlite3.Error:
            database.close()
            raise


@dataclass(frozen=True)
class ImageFunction:
    """What is computed from images.

    Attributes
    ----------
    name
        Under which results are cached: it must change when the function does.
    function
        From n RGB images to an array (n, ...), a row for each.
    device
        The kind of device that computes: "cpu", or "cuda" and so on, which round
        differently and therefore do not share results.
    """

    name: str
    function: Callable[[list[Image.Image]], NDArray[Any]]
    device: str = "cpu"

    def key(self, digest: str) -> str:
        """Return the key of the cached result for an image of this digest."""
        place = "" if self.device == "cpu" else f"@{self.device}"
        return f"{self.name}{place}:{digest}"


def map_images(
    images: Images,
    *functions: ImageFunction,
    cache: FeatureCache | None = None,
    errors: dict[int, str] | None = None,
    batch_size: int = 16,
    progress: str = "",
) -> list[NDArray[Any]]:
    """Compute functions of n images, each read and decoded once for all of them.

    Threads take batches from file to result, with one core each. Results are kept in
    the cache, so an interruption costs what is under way at most.

    Parameters
    ----------
    images
        As in `cliplib.images.image.image_list`.
    *functions
        What to compute.
    cache
        Where results are looked up and kept; if it fails, a warning says so once.
    errors
        Where unreadable images are noted, by row; their rows stay 0.
    batch_size
        How many images a function gets at once.
    progress
        Title of a progress bar; "" shows none.

    Returns
    -------
    list of arrays
        For each function (n, ...); (n, 0) if no image can be read.

    Raises
    ------
    OSError
        If an image cannot be read, and there is no `errors`.
    """
    sources = image_list(images)
    n = len(sources)
    starts = range(0, n, batch_size)
    batches = [range(start, min(start + batch_size, n)) for start in starts]
    results = _Results(cache)

    def compute(rows: range) -> _Batch:
        return _compute_batch([sources[row] for row in rows], functions, results)

    outputs: list[NDArray[Any]] = [np.empty((n, 0))] * len(functions)
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    bar = tqdm(total=n, desc=progress, unit="image", disable=not progress)
    try:
        for rows, batch in zip(batches, pool.map(compute, batches), strict=True):
            _note_unreadable(batch, rows, errors)
            for number, values in enumerate(batch.results):
                for index, value in values.items():
                    if not outputs[number].size:
                        outputs[number] = np.zeros((n, *value.shape), value.dtype)
                    outputs[number][rows[index]] = value
            bar.update(len(rows))
    finally:  # also on an interrupt: what is under way ends and is kept
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
        bar.close()
    return outputs


@dataclass
class _Batch:
    """What became of some images, by their index within the batch."""

    results: list[dict[int, NDArray[Any]]]  # for each function
    unreadable: dict[int, OSError] = field(default_factory=dict)


def _note_unreadable(batch: _Batch, rows: range, errors: dict[int, str] | None) -> None:
    """Note the unreadable images of a batch by row, or raise the first one's error."""
    for index, error in sorted(batch.unreadable.items()):
        if errors is None:
            raise error
        logger.warning("%s", error)
        errors[rows[index]] = str(error)


def _compute_batch(
    sources: Sequence[ImageSource],
    functions: Sequence[ImageFunction],
    results: _Results,
) -> _Batch:
    """Take a batch from files to results.

    Files are read and hashed, and results looked up by the hash; images that lack one
    are decoded, and what is missing is computed and stored.
    """
    batch = _Batch([{} for _ in functions])
    contents = _read(sources, batch)
    keys = {index: _keys(functions, content) for index, content in contents.items()}
    cached = results.get({key for own in keys.values() for key in own})
    to_compute = {
        index: contents[index]
        for index, own in keys.items()
        if any(key not in cached for key in own)
    }
    images = _decode(sources, to_compute, batch)
    for number, function in enumerate(functions):
        missing = {
            keys[index][number]: image
            for index, image in images.items()
            if keys[index][number] not in cached
        }
        computed = _apply(function, missing)
        results.put(computed)
        cached |= computed
        batch.results[number] = {
            index: cached[own[number]]
            for index, own in keys.items()
            if index not in batch.unreadable
        }
    return batch


def _keys(functions: Sequence[ImageFunction], content: bytes) -> list[str]:
    """Return the key of each function's result for a file's content."""
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    return [function.key(digest) for function in functions]


def _read(sources: Sequence[ImageSource], batch: _Batch) -> dict[int, bytes]:
    """Read the files, by index; those that cannot be read are noted in the batch."""
    contents = {}
    for index, source in enumerate(sources):
        try:
            contents[index] = image_bytes(source)
        except OSError as error:
            batch.unreadable[index] = error
    return contents


def _decode(
    sources: Sequence[ImageSource], contents: Mapping[int, bytes], batch: _Batch
) -> dict[int, Image.Image]:
    """Decode images, by index; those that cannot be decoded are noted in the batch."""
    decoded = {}
    for index, content in contents.items():
        try:
            decoded[index] = load_image(sources[index], content)
        except OSError as error:
            batch.unreadable[index] = error
    return decoded


def _apply(
    function: ImageFunction, images: Mapping[str, Image.Image]
) -> dict[str, NDArray[Any]]:
    """Compute a function of images, all at once, by key."""
    if not images:
        return {}
    values = function.function(list(images.values()))
    if len(values) != len(images):
        raise ValueError(
            f"The image function {function.name!r} made {len(values)} rows of "
            f"{len(images)} images."
        )
    return dict(zip(images, values, strict=True))


def each_image(
    describe: Callable[[Image.Image], ArrayLike],
) -> Callable[[list[Image.Image]], NDArray[Any]]:
    """Turn a function of one image into one of a batch, as `ImageFunction` takes it."""

    def describe_batch(images: list[Image.Image]) -> NDArray[Any]:
        return np.array([describe(image) for image in images])

    return describe_batch

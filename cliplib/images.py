"""Images: how one is read, and how something is computed from many, once.

Results are cached by the content of each image, so that a second run takes seconds and an
interrupted one goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from platformdirs import user_cache_dir
from tqdm.auto import tqdm

logger = logging.getLogger(__name__)

ImageSource = Any  # a path, bytes, a PIL image, an (h, w[, 3]) uint8 array, or {"path", "bytes"}

# Named, because Pillow knows more: its EPS reader, for one, runs Ghostscript on what the file says.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")


def image_name(source: ImageSource) -> str:
    """Return what a message calls an image: its path where it has one."""
    if isinstance(source, Mapping):
        source = source.get("path") or "<bytes>"
    if isinstance(source, str | os.PathLike):  # on Linux a name may hold any bytes
        return os.fspath(source).encode("utf-8", "backslashreplace").decode()
    return getattr(source, "filename", "") or f"<{type(source).__name__}>"


def image_bytes(source: ImageSource) -> bytes:
    """Return what identifies an image: the bytes of its file, or its pixels."""
    if isinstance(source, Mapping):
        source = source["path"] if source.get("bytes") is None else source["bytes"]
    if isinstance(source, bytes):
        return source
    if isinstance(source, Image.Image | np.ndarray):
        image = load_image(source)
        return f"{image.size}".encode() + image.tobytes()
    return Path(source).read_bytes()


def load_image(source: ImageSource, content: bytes | None = None) -> Image.Image:
    """Decode an image: RGB, upright, 16-bit grey scaled to 8 bits; the first frame or page counts.

    `content` are the bytes of the file, where they have been read already. An OSError names an
    image that cannot be read.
    """
    if isinstance(source, np.ndarray):
        source = Image.fromarray(source)
    if not isinstance(source, Image.Image):
        try:
            opened = Image.open(io.BytesIO(content or image_bytes(source)), formats=FORMATS)
            opened.load()
        except Exception as error:  # damaged files make Pillow raise nearly anything
            unknown = isinstance(error, UnidentifiedImageError)  # its text has a buffer's address
            reason = "empty, or not an image" if unknown else error or type(error).__name__
            raise OSError(f"Cannot read the image {image_name(source)!r}: {reason}.") from error
        source = opened
    image: Image.Image = ImageOps.exif_transpose(source)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    return image.convert("RGB")


class FeatureCache:
    """Arrays by key in one SQLite file, which threads and processes may share.

    Parameters
    ----------
    path : str or path, optional
        Default: ``features.sqlite`` in ``CLIPLIB_CACHE`` or the platform's cache folder. It may be
        deleted at any time.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        folder = Path(os.environ.get("CLIPLIB_CACHE") or user_cache_dir("cliplib"))
        self.path = Path(path or folder / "features.sqlite")
        self._lock = threading.Lock()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, timeout=60, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode = WAL")
            columns = "(key TEXT PRIMARY KEY, dtype TEXT, vector BLOB) WITHOUT ROWID"
            self._db.execute(f"CREATE TABLE IF NOT EXISTS features {columns}")
        except (OSError, sqlite3.Error) as error:
            raise OSError(
                f"Cannot use the feature cache {self.path} ({error}): delete it, or let "
                "CLIPLIB_CACHE name another folder."
            ) from error

    def get(self, keys: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Return the arrays that are there, by key."""
        marks = ",".join("?" * len(keys))
        query = f"SELECT key, dtype, vector FROM features WHERE key IN ({marks})"
        with self._lock:
            rows = self._db.execute(query, keys).fetchall()
        return {key: np.frombuffer(vector, dtype) for key, dtype, vector in rows}

    def put(self, keys: Sequence[str], rows: NDArray[Any]) -> None:
        """Keep one row of an array (n, d) under each of n keys, all or none."""
        entries = [(key, row.dtype.str, row.tobytes()) for key, row in zip(keys, rows, strict=True)]
        with self._lock, self._db:
            self._db.executemany("INSERT OR REPLACE INTO features VALUES (?, ?, ?)", entries)


@dataclass(frozen=True)
class ImageFunction:
    """What is computed from images: a batch of n RGB images to an array (n, d).

    The name is the key under which results are cached: it must change when the function does.
    """

    name: str
    function: Callable[[list[Image.Image]], NDArray[Any]]


def map_images(
    images: Iterable[ImageSource],
    *functions: ImageFunction,
    cache: FeatureCache | None = None,
    errors: dict[int, str] | None = None,
    batch_size: int = 16,
    progress: str = "",
) -> list[NDArray[Any]]:
    """Compute functions of n images, each of which is read and decoded once for all of them.

    Threads take batches from file to result, with one core each: no core waits for another. A batch
    that is done is in the cache, so an interruption costs what is under way at most.

    Parameters
    ----------
    cache : FeatureCache, optional
        Where known results are found, by the content of the image, and new ones kept.
    errors : dict, optional
        Where unreadable images are noted, by row; their rows stay 0. Without it they raise OSError.
    progress : str
        Title of a progress bar.

    Returns
    -------
    list of arrays (n, d), one per function
    """
    sources = list(images)

    @contextmanager
    def noted(row: int) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if errors is None:
                raise
            if row not in errors:
                logger.warning("%s", error)
            errors[row] = str(error)

    def compute(rows: range) -> list[dict[int, NDArray[Any]]]:
        contents, decoded = {}, {}
        for row in rows:
            with noted(row):
                contents[row] = image_bytes(sources[row])
        digests = {row: hashlib.blake2b(c, digest_size=16) for row, c in contents.items()}
        results = []
        for function in functions:
            keys = {row: f"{function.name}:{d.hexdigest()}" for row, d in digests.items()}
            found = cache.get(list(keys.values())) if cache else {}
            for row in keys:
                if keys[row] not in found and row not in decoded:
                    with noted(row):
                        decoded[row] = load_image(sources[row], contents[row])
            new = [row for row in decoded if keys[row] not in found]
            if new:
                vectors = function.function([decoded[row] for row in new])
                found |= {keys[row]: vector for row, vector in zip(new, vectors, strict=True)}
                if cache:
                    cache.put([keys[row] for row in new], vectors)
            results.append({row: found[key] for row, key in keys.items() if key in found})
        return results

    n, threads, start = len(sources), torch.get_num_threads(), time.perf_counter()
    batches = [range(i, min(i + batch_size, n)) for i in range(0, n, batch_size)]
    outputs: list[NDArray[Any]] = [np.empty((0, 0))] * len(functions)
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    bar = tqdm(total=n, desc=progress, unit="image", disable=not progress)
    try:
        for rows, results in zip(batches, pool.map(compute, batches), strict=True):
            minutes = (time.perf_counter() - start) * len(batches) / threads / 60
            if rows.start == 0 and progress and minutes > 0.1:
                logger.info("%s: %d images, %.1f minutes at most", progress, n, minutes)
            for i, found in enumerate(results):
                for row, vector in found.items():
                    if not outputs[i].size:
                        outputs[i] = np.zeros((n, *vector.shape), vector.dtype)
                    outputs[i][row] = vector
            bar.update(len(rows))
    finally:  # also on an interrupt: what is under way ends and is kept
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
        bar.close()
    return outputs

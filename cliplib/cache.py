"""Compute something from many images, once: results are kept by content."""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from platformdirs import user_cache_dir
from tqdm.auto import tqdm

from cliplib.images import image_bytes, image_list, load_image

logger = logging.getLogger(__name__)


class FeatureCache:
    """Arrays by key in one SQLite file, which threads and processes share; it may be deleted."""

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        folder = Path(os.environ.get("CLIPLIB_CACHE") or user_cache_dir("cliplib"))
        self.path = Path(path or folder / "features.sqlite")
        self._lock = threading.Lock()
        with self._locked():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, timeout=60, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode = WAL")
            columns = "(key TEXT PRIMARY KEY, dtype TEXT, vector BLOB) WITHOUT ROWID"
            self._db.execute(f"CREATE TABLE IF NOT EXISTS features {columns}")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            with self._lock:
                yield
        except (OSError, sqlite3.Error) as error:
            reason = f"Cannot use the feature cache {self.path} ({error})"
            raise OSError(f"{reason}: set CLIPLIB_CACHE, or delete it.") from error

    def get(self, keys: Collection[str]) -> dict[str, NDArray[Any]]:
        """Return the arrays that are there, by key."""
        marks = ",".join("?" * len(keys))
        query = f"SELECT key, dtype, vector FROM features WHERE key IN ({marks})"
        with self._locked():
            rows = self._db.execute(query, list(keys)).fetchall()
        return {key: np.frombuffer(vector, dtype) for key, dtype, vector in rows}

    def put(self, vectors: Mapping[str, NDArray[Any]]) -> None:
        """Keep arrays under their keys, all or none."""
        entries = [
            (key, vector.dtype.str, vector.tobytes()) for key, vector in vectors.items()
        ]
        with self._locked(), self._db:
            self._db.executemany(
                "INSERT OR REPLACE INTO features VALUES (?, ?, ?)", entries
            )


@dataclass(frozen=True)
class ImageFunction:
    """What is computed from images: a batch of n RGB images to an array (n, d)."""

    name: str  # under which results are cached: it must change when the function does
    function: Callable[[list[Image.Image]], NDArray[Any]]


def map_images(
    images: Any,
    *functions: ImageFunction,
    cache: FeatureCache | None = None,
    errors: dict[int, str] | None = None,
    batch_size: int = 16,
    progress: str = "",
) -> list[NDArray[Any]]:
    """Compute functions of n images, each read and decoded once for all of them: (n, d) for each.

    Threads take batches from file to result, with one core each. Results are kept in the cache, so
    an interruption costs what is under way at most. Unreadable images are noted in `errors`, by
    row, and their rows stay 0; without it they raise OSError. `progress` titles a progress bar.
    """
    sources = image_list(images)

    def compute(rows: range) -> dict[tuple[int, int], NDArray[Any]]:
        keys, decoded, known = (
            dict[int, list[str]](),
            dict[int, Image.Image](),
            dict[str, Any](),
        )
        for row in rows:
            try:
                content = image_bytes(sources[row])
                digest = hashlib.blake2b(content, digest_size=16).hexdigest()
                wanted = [f"{function.name}:{digest}" for function in functions]
                known |= cache.get(wanted) if cache else {}
                if not known.keys() >= set(wanted):
                    decoded[row] = load_image(sources[row], content)
                keys[row] = wanted
            except OSError as error:
                if errors is None or isinstance(error.__cause__, sqlite3.Error):
                    raise  # the cache's, and no fault of the image
                logger.warning("%s", error)
                errors[row] = str(error)
        for i, function in enumerate(functions):
            new = {keys[row][i]: image for row, image in decoded.items()}
            new = {key: image for key, image in new.items() if key not in known}
            if new:
                made = dict(
                    zip(new, function.function(list(new.values())), strict=True)
                )
                if cache:
                    cache.put(made)
                known |= made
        return {(i, row): known[key] for row in keys for i, key in enumerate(keys[row])}

    n, threads = len(sources), torch.get_num_threads()
    batches = [range(i, min(i + batch_size, n)) for i in range(0, n, batch_size)]
    outputs: list[NDArray[Any]] = [np.empty((n, 0))] * len(functions)
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    bar = tqdm(total=n, desc=progress, unit="image", disable=not progress)
    try:
        for rows, found in zip(batches, pool.map(compute, batches), strict=True):
            for (i, row), vector in found.items():
                if not outputs[i].size:
                    outputs[i] = np.zeros((n, *vector.shape), vector.dtype)
                outputs[i][row] = vector
            bar.update(len(rows))
    finally:  # also on an interrupt: what is under way ends and is kept
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
        bar.close()
    return outputs

"""Features kept by content: one SQLite file, so that no picture is encoded twice by the same encoder."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from platformdirs import user_cache_dir

from cliplib.errors import CliplibError, path_text

logger = logging.getLogger(__name__)

_WAIT = 60.0
"""Seconds that one process waits for another's write to end; a write takes milliseconds."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS features_v1 (
    fingerprint TEXT NOT NULL, digest BLOB NOT NULL, vector BLOB NOT NULL, checksum INTEGER NOT NULL,
    PRIMARY KEY (fingerprint, digest)
) WITHOUT ROWID
"""

_INSERT = "INSERT INTO features_v1 VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"

T = TypeVar("T")


class FeatureStore:
    """Vectors by (encoder fingerprint, digest of the picture's bytes), in one file that processes and threads share.

    Every :meth:`put` is one committed transaction, so a process that is killed loses only what it had not put. A
    damaged file is renamed, a warning says so, and a new one is begun: all that is lost is time. A lock beside the
    file is held, for milliseconds, while a process opens it or sets it aside, so that each of several that find it
    damaged does not set aside the other's new one.

    Parameters
    ----------
    path : path, optional
        The file. Default: ``features.sqlite`` in the folder that the setting ``CLIPLIB_CACHE`` names, else in the
        platform's cache folder for cliplib.

    Raises
    ------
    CliplibError
        The place cannot be written, or the disk is full. Also raised by :meth:`get` and :meth:`put`.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        if path is None:
            path = Path(os.environ.get("CLIPLIB_CACHE") or user_cache_dir("cliplib")) / "features.sqlite"
        self.path = Path(os.path.expanduser(path_text(path, "The place of a feature store")))
        self._lock = threading.RLock()
        self._database: sqlite3.Connection | None = None
        self._owner = 0
        self._inode = 0
        self._opening = FileLock(f"{self.path}.lock", timeout=_WAIT)
        self._use(lambda database: None)

    def get(self, fingerprint: str, digests: Iterable[bytes]) -> dict[bytes, NDArray[np.float32]]:
        """Look vectors up.

        Parameters
        ----------
        fingerprint : str
            Of the encoder: :meth:`cliplib.encoder.ClipEncoder.fingerprint`.
        digests : iterable of bytes
            Of the pictures.

        Returns
        -------
        dict of bytes to (d,) float32
            Those that are known; a digest that is not has no entry.
        """
        wanted = list(digests)

        def read(database: sqlite3.Connection) -> dict[bytes, NDArray[np.float32]]:
            query = "SELECT vector, checksum FROM features_v1 WHERE fingerprint = ? AND digest = ?"
            found = {}
            for digest in wanted:
                row = database.execute(query, (fingerprint, digest)).fetchone()
                if row is not None:
                    if zlib.crc32(row[0]) != row[1]:
                        raise sqlite3.DatabaseError("a checksum does not match")
                    found[digest] = np.frombuffer(row[0], dtype="<f4").astype(np.float32)
            return found

        return self._use(read)

    def put(self, fingerprint: str, digests: Sequence[bytes], vectors: NDArray[np.float32]) -> None:
        """Keep vectors, all of them or none; what is there already stays.

        Parameters
        ----------
        fingerprint : str
            Of the encoder.
        digests : sequence of n bytes
            Of the pictures.
        vectors : (n, d) float32
            Their features.
        """
        blobs = [np.ascontiguousarray(vector, dtype="<f4").tobytes() for vector in vectors]
        rows = [(fingerprint, digest, b, zlib.crc32(b)) for digest, b in zip(digests, blobs, strict=True)]
        self._use(lambda database: database.executemany(_INSERT, rows))

    def __len__(self) -> int:
        return self._use(lambda database: int(database.execute("SELECT COUNT(*) FROM features_v1").fetchone()[0]))

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        with self._lock:
            if self._database is not None and self._owner == os.getpid():
                self._database.close()
            self._database = None

    def __enter__(self) -> FeatureStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _use(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in one transaction; once more, on a new file, if the old one turns out damaged."""
        with self._lock:
            for last in (False, True):
                try:
                    with self._connect() as database:
                        return work(database)
                except sqlite3.OperationalError as error:  # full, read-only, no such folder, locked for too long
                    raise self._unusable(error) from None
                except sqlite3.DatabaseError as error:  # not a database, malformed
                    if type(error) is not sqlite3.DatabaseError:  # a wrong argument, which says nothing about the file
                        raise
                    if last:
                        raise self._unusable(error) from None
                    self._set_aside(error)
        raise AssertionError("not reached")

    def _connect(self) -> sqlite3.Connection:
        if self._database is not None and self._owner == os.getpid():  # a forked child opens its own
            return self._database
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._opening:
                database = sqlite3.connect(self.path, timeout=_WAIT, check_same_thread=False)
                try:
                    self._inode = self.path.stat().st_ino
                    database.execute("PRAGMA page_size = 16384")  # several vectors to a page, in a new file
                    database.execute("PRAGMA journal_mode = WAL")
                    database.execute("PRAGMA synchronous = NORMAL")
                    database.execute(_SCHEMA)
                except BaseException:
                    database.close()
                    raise
        except OSError as error:
            raise self._unusable(error) from None
        self._database, self._owner = database, os.getpid()
        return database

    def _set_aside(self, reason: Exception) -> None:
        self.close()
        aside = self.path.with_name(f"{self.path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")
        try:
            with self._opening:
                if self._inode != self.path.stat().st_ino:
                    return  # another process has done it already
                for suffix in ("", "-wal", "-shm"):
                    if (part := self.path.with_name(self.path.name + suffix)).exists():
                        part.replace(aside.with_name(aside.name + suffix))
        except FileNotFoundError:  # done by another process that has not begun anew yet
            return
        except OSError as error:
            raise self._unusable(error) from None
        logger.warning("The feature store %s is damaged (%s): kept as %s, begun anew", self.path, reason, aside.name)

    def _unusable(self, error: Exception) -> CliplibError:
        self.close()
        return CliplibError(
            f"Cannot use the feature store {str(self.path)!r} ({error}): free some space, or let CLIPLIB_CACHE name a "
            "folder that can be written."
        )

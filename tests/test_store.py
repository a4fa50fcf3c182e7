"""The store: what goes in comes out, whatever happens to the process, the disk or the file in between."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import cliplib.store
from cliplib.errors import CliplibError
from cliplib.store import FeatureStore


def some(n: int, d: int = 5, seed: int = 0) -> tuple[list[bytes], np.ndarray]:
    vectors = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
    return [b"digest%d" % i for i in range(n)], vectors


def test_round_trip(tmp_path: Path) -> None:
    digests, vectors = some(7)
    with FeatureStore(tmp_path / "deep" / "er" / "features.sqlite") as store:
        store.put("encoder", digests, vectors)
        found = store.get("encoder", [*digests, b"another"])
        assert list(found) == digests
        for digest, vector in zip(digests, vectors, strict=True):
            assert found[digest].dtype == np.float32
            np.testing.assert_array_equal(found[digest], vector)
        assert store.get("other encoder", digests) == {}
        assert len(store) == 7


def test_kept_after_closing_and_first_value_stays(tmp_path: Path) -> None:
    digests, vectors = some(3)
    path = tmp_path / "features.sqlite"
    with FeatureStore(path) as store:
        store.put("e", digests, vectors)
    with FeatureStore(path) as store:
        store.put("e", digests, vectors + 1)
        np.testing.assert_array_equal(store.get("e", digests[1:2])[digests[1]], vectors[1])
    store.close()
    assert len(store) == 3  # a closed store opens again when it is used


def test_place_follows_the_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPLIB_CACHE", str(tmp_path / "elsewhere"))
    with FeatureStore() as store:
        assert store.path == tmp_path / "elsewhere" / "features.sqlite"
        assert store.path.is_file()
    monkeypatch.delenv("CLIPLIB_CACHE")
    monkeypatch.setattr("cliplib.store.user_cache_dir", lambda name: str(tmp_path / "caches" / name))
    with FeatureStore() as store:
        assert store.path == tmp_path / "caches" / "cliplib" / "features.sqlite"


def test_put_is_all_or_nothing(tmp_path: Path) -> None:
    digests, vectors = some(4)
    with FeatureStore(tmp_path / "f.sqlite") as store:
        with pytest.raises(ValueError, match="argument 2 is shorter"):
            store.put("e", digests, vectors[:2])
        with pytest.raises(sqlite3.IntegrityError):
            store.put("e", [digests[0], None], vectors[:2])  # type: ignore[list-item]
        assert len(store) == 0
    assert not list(tmp_path.glob("*.damaged*"))  # a wrong argument says nothing about the file


@pytest.mark.parametrize("damage", ["not a database", "holes", "cut short"])
def test_damaged_file_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str) -> None:
    path = tmp_path / "features.sqlite"
    digests, vectors = some(500, 64)
    with FeatureStore(path) as store:
        store.put("e", digests, vectors)
    content = bytearray(path.read_bytes())
    if damage == "not a database":
        content = bytearray(b"something else " * 1000)
    elif damage == "holes":
        for start in range(16384, len(content), 16384):
            content[start : start + 4096] = bytes(4096)
    else:
        del content[len(content) // 2 :]
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING), FeatureStore(path) as store:
        assert store.get("e", digests) == {}
        store.put("e", digests, vectors)
        assert len(store.get("e", digests)) == 500
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "is damaged" in warnings[0]
    assert "begun anew" in warnings[0]
    (aside,) = tmp_path.glob("features.sqlite.damaged-*")
    assert aside.read_bytes() == content


def test_a_flipped_bit_is_not_believed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "features.sqlite"
    digests, vectors = some(1)
    with FeatureStore(path) as store:
        store.put("e", digests, vectors)
    content = path.read_bytes()
    stored = vectors[0].tobytes()
    assert content.count(stored) == 1
    path.write_bytes(content.replace(stored, bytes([stored[0] ^ 1]) + stored[1:]))
    with caplog.at_level(logging.WARNING), FeatureStore(path) as store:
        assert store.get("e", digests) == {}
    assert "a checksum does not match" in caplog.text


def test_full_disk_is_one_sentence_and_the_store_still_opens(tmp_path: Path) -> None:
    path = tmp_path / "features.sqlite"
    digests, vectors = some(20, 4000)
    with FeatureStore(path) as store:
        store.put("e", digests[:2], vectors[:2])
        store._connect().execute("PRAGMA max_page_count = 8")  # SQLite then says what it says on a full disk
        with pytest.raises(CliplibError, match=r"disk is full\): free some space, or let CLIPLIB_CACHE"):
            store.put("e", digests, vectors)
        assert len(store) == 2
        store.put("e", digests, vectors)
        assert len(store) == 20


def test_read_only_is_one_sentence(tmp_path: Path) -> None:
    with FeatureStore(tmp_path / "f.sqlite") as store:
        store._connect().execute("PRAGMA query_only = 1")
        with pytest.raises(CliplibError, match="readonly database"):
            store.put("e", *some(1))
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(CliplibError, match="Cannot use the feature store"):
        FeatureStore(tmp_path / "file" / "features.sqlite")
    with pytest.raises(CliplibError, match="unable to open"):
        FeatureStore(tmp_path)


def test_many_threads(tmp_path: Path) -> None:
    digests, vectors = some(64)
    with FeatureStore(tmp_path / "f.sqlite") as store:

        def work(k: int) -> None:
            for i in range(k, 64, 8):
                store.put("e", digests[i : i + 1], vectors[i : i + 1])
                store.get("e", digests)

        threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(store) == 64


WRITER = f"""
import sys, types
package = sys.modules["cliplib"] = types.ModuleType("cliplib")  # without its __init__, which imports everything
package.__path__ = [{str(Path(cliplib.store.__file__).parent)!r}]
import numpy as np
from cliplib.store import FeatureStore
with FeatureStore(sys.argv[1]) as store:
    for i in range(int(sys.argv[2])):
        store.put("e", [b"%d" % i], np.full((1, 8), i, np.float32))
        print(i, flush=True)
"""


def test_several_processes_create_and_fill_one_file(tmp_path: Path) -> None:
    path = tmp_path / "f.sqlite"
    command = [sys.executable, "-c", WRITER, str(path), "40"]
    writers = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(3)]
    assert [(w.communicate(timeout=300)[1], w.returncode) for w in writers] == [(b"", 0)] * 3
    with FeatureStore(path) as store:
        found = store.get("e", [b"%d" % i for i in range(40)])
    assert [int(vector[0]) for vector in found.values()] == list(range(40))


def test_killed_writer_loses_nothing_that_was_put(tmp_path: Path) -> None:
    path = tmp_path / "f.sqlite"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path), "100000"], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    done = [int(writer.stdout.readline()) for _ in range(30)]
    os.kill(writer.pid, signal.SIGKILL)
    writer.communicate()
    with FeatureStore(path) as store:
        assert len(store.get("e", [b"%d" % i for i in done])) == 30


def test_another_schema_beside_ours_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "f.sqlite"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE features_v0 (x)")
        other.execute("INSERT INTO features_v0 VALUES (1)")
    other.close()
    with FeatureStore(path) as store:
        store.put("e", *some(2))
    with sqlite3.connect(path) as other:
        assert other.execute("SELECT x FROM features_v0").fetchone() == (1,)
    other.close()

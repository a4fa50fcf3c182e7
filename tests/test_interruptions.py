"""Kills, Ctrl-C, full disks, read-only places, damage: at most one batch is lost, and what is said is one sentence."""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cliplib.encoder
from cliplib.encoder import ClipEncoder
from cliplib.errors import CliplibError
from cliplib.packs.__main__ import main as make_packs
from cliplib.probes import LinearProbe, load_probe, save_probe
from cliplib.store import FeatureStore
from cliplib.table import FeatureTable

FULL = (
    r"^Cannot use the feature store '.*f\.sqlite' \(.*\): free some space, or let CLIPLIB_CACHE name a folder that can"
)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process may grow beyond `size` bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def small_table(features: Any = ((1.0, 2.0), (3.0, 4.0))) -> FeatureTable:
    return FeatureTable(np.array(features), np.array([0, 1]), ("a", "b"), np.array(["x", "y"]), np.array(["", ""]))


def test_killed_crowded_damaged_and_full() -> None:
    """Ten rounds of `make soak`: SIGKILL at random moments, 2 and 8 processes, 8 on a damaged store, a full disk."""
    command = [sys.executable, str(Path(__file__).with_name("soak.py")), "--rounds", "10"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "2"})
    assert done.returncode == 0, done.stderr
    kills, crowds, disk = done.stdout.splitlines()
    assert kills.startswith("10 kills on ")
    assert crowds == "2 processes on one store, 8 processes on one store, 8 processes on one damaged store"
    assert disk.startswith("full disk and read-only: ")
    said = [line for line in done.stderr.splitlines() if "is damaged (file is not a database): kept as" in line]
    assert len(said) == 1, done.stderr


@pytest.mark.parametrize("stored", [True, False])
def test_ctrl_c_is_told_and_what_was_computed_is_kept(
    tiny_encoder: ClipEncoder,
    image_files: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    stored: bool,
) -> None:
    expected, forward, calls = tiny_encoder.images(image_files, progress=False), tiny_encoder._forward, [0]

    def interrupted(pixels: Any, kind: Any) -> np.ndarray:
        calls[0] += 1
        if calls[0] == 5:
            os.kill(os.getpid(), signal.SIGINT)  # as the terminal, or a notebook's stop button, does
        return forward(pixels, kind)

    store = FeatureStore(tmp_path / "f.sqlite") if stored else None
    with monkeypatch.context() as patch:
        patch.setattr(tiny_encoder, "_forward", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tiny_encoder.images(image_files, batch_size=4, store=store, progress=False)
    (message,) = caplog.messages
    place = f"{tmp_path / 'f.sqlite'}, from where the next run goes on" if stored else "nothing, for want of a store"
    assert message.startswith("Interrupted after ") and message.endswith(f" new images; kept in: {place}")
    if store is not None:
        kept = len(store)
        assert 8 <= kept < 48  # no chunk that was computed is lost
        np.testing.assert_array_equal(tiny_encoder.images(image_files, store=store, progress=False), expected)
        assert tiny_encoder.last_run.computed == 48 - kept


def test_full_disk_loses_one_batch(tiny_encoder: ClipEncoder, image_files: list[Path], tmp_path: Path) -> None:
    expected = tiny_encoder.images(image_files, progress=False)
    store = FeatureStore(tmp_path / "f.sqlite")
    with largest_file(100_000), pytest.raises(CliplibError, match=FULL) as caught:
        tiny_encoder.images(image_files, batch_size=4, store=store, progress=False)
    assert str(caught.value).count("\n") == 0
    kept = len(store)
    assert 0 < kept < 48
    np.testing.assert_array_equal(tiny_encoder.images(image_files, store=store, progress=False), expected)
    assert tiny_encoder.last_run.computed == 48 - kept


def test_read_only_store_still_answers(
    tiny_encoder: ClipEncoder, image_files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, connect = tmp_path / "f.sqlite", sqlite3.connect
    with FeatureStore(path) as store:
        known = tiny_encoder.images(image_files[:8], store=store, progress=False)

    def read_only(path: Path, **options: Any) -> sqlite3.Connection:  # chmod does not stop root
        return connect(f"file:{path}?mode=ro", uri=True, **options)

    monkeypatch.setattr(sqlite3, "connect", read_only)
    with FeatureStore(path) as store:
        np.testing.assert_array_equal(tiny_encoder.images(image_files[:8], store=store, progress=False), known)
        with pytest.raises(CliplibError, match=FULL.replace(r"\(.*\)", r"\(attempt to write a readonly database\)")):
            tiny_encoder.images(image_files, store=store, progress=False)
        assert len(store) == 8
    with pytest.raises(CliplibError, match=r"^Cannot use the feature store '/proc/cliplib/f\.sqlite' \("):
        FeatureStore("/proc/cliplib/f.sqlite")


def test_damaged_store_is_begun_anew_and_said_so(
    tiny_encoder: ClipEncoder, image_files: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "f.sqlite"
    with FeatureStore(path) as store:
        expected = tiny_encoder.images(image_files, store=store, progress=False)
    content = bytearray(path.read_bytes())
    content[16384:] = b"\xff" * (len(content) - 16384)
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING), FeatureStore(path) as store:
        np.testing.assert_array_equal(tiny_encoder.images(image_files, store=store, progress=False), expected)
        assert tiny_encoder.last_run.computed == len(store) == 48
    (aside,) = tmp_path.glob("f.sqlite.damaged-*")
    (message,) = caplog.messages
    assert message.startswith(f"The feature store {path} is damaged (")
    assert message.endswith(f"): kept as {aside.name}, begun anew")


OPEN_AND_PUT = """
import sys, types
package = sys.modules["cliplib"] = types.ModuleType("cliplib")
package.__path__ = [sys.argv[1]]
import numpy as np
from cliplib.store import FeatureStore
for i in range(40):
    with FeatureStore(sys.argv[2]) as store:  # opened and closed each time: the last to close cleans up
        store.put(sys.argv[3], [b"%d" % i], np.full((1, 8), i, np.float32))
        assert len(store.get(sys.argv[3], [b"%d" % j for j in range(i + 1)])) == i + 1
"""


def test_processes_that_open_and_close_one_store_do_not_get_into_each_others_way(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OPEN_AND_PUT, str(Path(cliplib.encoder.__file__).parents[1])]
    path = str(tmp_path / "f.sqlite")
    running = [subprocess.Popen([*command, path, name], stderr=subprocess.PIPE, text=True) for name in "abcd"]
    assert [(process.communicate()[1], process.returncode) for process in running] == [("", 0)] * 4
    with FeatureStore(path) as store:
        assert len(store) == 160


def test_a_table_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.safetensors"
    small_table().save(path)
    before = path.read_bytes()
    with (
        largest_file(64),
        pytest.raises(CliplibError, match=r"^Cannot write the feature table '.*': File too large\.$"),
    ):
        small_table().save(path)

    def stop(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        small_table().save(path)
    assert path.read_bytes() == before and [found.name for found in tmp_path.iterdir()] == [path.name]


def test_a_half_replaced_probe_is_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 3)), np.arange(40) % 2
    folders = [save_probe(LinearProbe(l2=l2).fit(X, y), tmp_path / str(l2)) for l2 in (1.0, 2.0)]
    shutil.copy(folders[1] / "probe.safetensors", folders[0])  # killed between its two files
    with pytest.raises(CliplibError, match=r"does not hold a probe .*: its two files are not of one probe\)\.$"):
        load_probe(folders[0])
    with largest_file(64), pytest.raises(CliplibError, match=r"^Cannot write the probe '.*': File too large\.$"):
        save_probe(LinearProbe(l2=3.0).fit(X, y), folders[1])
    with pytest.raises(CliplibError, match="does not hold a probe"):
        load_probe(folders[1])
    assert json.loads((folders[1] / "probe.json").read_text())["params"]["l2"] == 2.0


def test_ctrl_c_while_packs_are_made_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def stop(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ClipEncoder, "from_pretrained", stop)
    assert make_packs(["somewhere"]) == 130
    assert caplog.messages == ["Interrupted: the packs that were kept are whole; name the others to go on."]

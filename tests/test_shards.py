"""Blocks of a large input, and the rows in them."""

from __future__ import annotations

import io
import logging
import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cliplib.data.shards import Row, locate, plan, read
from cliplib.errors import CliplibError


def pack(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def rows(path: Path, column: str = "image") -> list[Row]:
    return list(read(str(path.parent), path.name, column))


def test_blocks_are_the_shards_and_runs_of_pictures(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("b/2.jpg", "a/1.PNG", "a/3.jpeg", "s.tar", "t.TGZ", "p.parquet", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    with caplog.at_level(logging.WARNING):
        blocks = plan(str(tmp_path), "r", block_size=2)
    assert list(blocks.values()) == [["p.parquet"], ["s.tar"], ["t.TGZ"], ["a/1.PNG", "a/3.jpeg"], ["b/2.jpg"]]
    assert "passed over 1 files that are neither pictures nor shards" in caplog.text
    assert plan(f"file://{tmp_path}", "r", block_size=2) == blocks


def test_a_block_keeps_its_name_until_something_changes(tmp_path: Path) -> None:
    for name in "abcd":
        (tmp_path / f"{name}.png").write_bytes(b"x")
    first = plan(str(tmp_path), "r", block_size=2)
    assert plan(str(tmp_path), "r", block_size=2) == first
    assert not set(plan(str(tmp_path), "another", block_size=2)) & set(first)
    os.utime(tmp_path / "d.png", ns=(1, 1))
    kept = [files for key, files in plan(str(tmp_path), "r", block_size=2).items() if key in first]
    assert kept == [["a.png", "b.png"]]


def test_a_picture(tmp_path: Path) -> None:
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "1.png").write_bytes(b"meow")
    assert list(read(str(tmp_path), "cats/1.png", "image")) == [Row("cats/1.png", "cats", b"meow")]
    (gone,) = read(str(tmp_path), "cats/2.png", "image")
    assert gone.image is None and "it cannot be read to its end" in str(gone.reason)


def test_parquet_with_and_without_ids(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    pq.write_table(
        pa.table({"image": [{"bytes": b"1", "path": "x"}, {"bytes": None, "path": "y"}], "label": [3, None]}), path
    )
    assert rows(path) == [Row("p.parquet/0", "3", b"1"), Row("p.parquet/1", None, None, "its row has no bytes")]
    pq.write_table(pa.table({"jpg": [b"1", None], "id": ["one", None], "more": [1, 2]}), path)
    assert rows(path, "jpg") == [Row("one", None, b"1"), Row("p.parquet/1", None, None, "its row has no bytes")]
    with pytest.raises(CliplibError, match="has no column 'image': name one of jpg, id, more"):
        rows(path)


@pytest.mark.parametrize(("name", "mode"), [("s.tar", "w"), ("s.tar.gz", "w:gz"), ("s.tgz", "w:gz")])
def test_webdataset(tmp_path: Path, name: str, mode: str) -> None:
    files = {"a.b/1.cls": b"4\n", "a.b/1.seg.png": b"mask", "a.b/1.jpg": b"one", "2.jpg": b"two", "3.json": b"{}"}
    assert rows(pack(tmp_path / name, files, mode)) == [
        Row(f"{name}/a.b/1.seg.png", "4", b"mask"),
        Row(f"{name}/a.b/1.jpg", "4", b"one"),
        Row(f"{name}/2.jpg", None, b"two"),
        Row(f"{name}/3", None, None, "the sample holds no picture"),
    ]


@pytest.mark.parametrize("name", ["s.tar", "s.tgz", "p.parquet"])
def test_a_damaged_shard_is_a_row_that_says_so(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "p.parquet":
        pq.write_table(pa.table({"image": [os.urandom(5000)]}), path)
    else:
        pack(path, {"1.jpg": b"one", "2.jpg": os.urandom(5000)}, "w:gz" if name == "s.tgz" else "w")
    path.write_bytes(path.read_bytes()[:3000])
    *whole, last = rows(path)
    assert last.id == name and last.image is None and str(last.reason).startswith("it cannot be read to its end (")
    assert whole == ([Row("s.tar/1.jpg", None, b"one")] if name == "s.tar" else whole)


def test_places_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(CliplibError, match="holds pictures or shards"):
        plan(str(tmp_path / "nowhere"), "r")
    with pytest.raises(CliplibError, match="give a path or a URI"):
        locate("nonsense://bucket/folder")

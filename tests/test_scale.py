"""Features over Ray Data: every row once though a worker is killed, equal to one process, nothing done twice."""

from __future__ import annotations

import io
import os
import signal
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cliplib import scale
from cliplib.encoder import ClipEncoder
from cliplib.errors import CliplibError

BLOCKS, ROWS = 6, 400


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    """A Ray of two cores on this machine, for several tests."""
    ray = pytest.importorskip("ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=2**27)
    yield
    ray.shutdown()


def read(folder: Path) -> pa.Table:
    return pa.concat_tables(pq.read_table(path) for path in sorted(folder.glob("part-*.parquet")))


def kill_a_worker(output: Path, killed: list[int]) -> None:
    """End one of the actors that encode, by SIGKILL, once a block is being written and none of the last ones is."""
    for _ in range(6000):
        actors = [p for p in psutil.Process().children(recursive=True) if "BlockEncoder" in " ".join(p.cmdline())]
        if len(actors) == 2 and any(output.glob("_part-*")) and any(output.glob("part-*")):
            actors[0].send_signal(signal.SIGKILL)
            killed.append(actors[0].pid)
            return
        time.sleep(0.02)


@pytest.mark.usefixtures("ray_here")
def test_a_killed_worker_loses_and_doubles_nothing(
    tmp_path: Path, tiny_checkpoint: Path, tiny_encoder: ClipEncoder, image_files: list[Path]
) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    files = [path.read_bytes() for path in image_files]
    images = [[files[(block + row) % len(files)] for row in range(ROWS)] for block in range(BLOCKS)]
    images[2][7] = b"no picture"
    for block, rows in enumerate(images):
        ids = [f"{block}-{row}" for row in range(ROWS)]
        table = pa.table({"id": ids, "label": [str(block)] * ROWS, "image": rows})
        pq.write_table(table, source / f"{block}.parquet")

    killed: list[int] = []
    killer = threading.Thread(target=kill_a_worker, args=(output, killed))
    killer.start()
    found = scale.extract(str(source), str(output), model=str(tiny_checkpoint))
    killer.join()
    assert killed
    assert found == {"blocks": BLOCKS, "finished": 0, "rows": BLOCKS * ROWS, "unreadable": 1}

    table = read(output)
    order = np.argsort(ids := np.array(table["id"].to_pylist()))
    expected = np.array([f"{block}-{row}" for block in range(BLOCKS) for row in range(ROWS)])
    np.testing.assert_array_equal(ids[order], np.sort(expected))
    rows = {row["id"]: row for row in table.to_pylist()}
    bad = rows.pop("2-7")
    assert bad["features"] is None and "not a picture" in bad["error"] and bad["label"] == "2"
    ours = np.array([row["features"] for row in rows.values()], np.float32)
    sources = [images[int(block)][int(row)] for block, row in (id.split("-") for id in rows)]
    np.testing.assert_array_equal(ours, tiny_encoder.images(sources, progress=False))
    about = pq.read_schema(next(output.glob("part-*"))).metadata
    assert about[b"encoder_fingerprint"].decode() == tiny_encoder.fingerprint("pooled")

    before = {path: path.stat().st_mtime_ns for path in output.glob("part-*")}
    next(iter(before)).unlink()
    again = scale.extract(str(source), str(output), model=str(tiny_checkpoint))
    assert again == {"blocks": BLOCKS, "finished": BLOCKS - 1, "rows": ROWS, "unreadable": again["unreadable"]}
    assert sum(path.stat().st_mtime_ns == before[path] for path in output.glob("part-*")) == BLOCKS - 1
    with pytest.raises(CliplibError, match="parts of another input or model"):
        scale.extract(str(source), str(output), model=str(tiny_checkpoint), kind="projected")


@pytest.mark.usefixtures("ray_here")
def test_a_folder_and_a_tar_by_the_command_line(
    tmp_path: Path, tiny_checkpoint: Path, image_folder: Path, image_files: list[Path],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    source, output = tmp_path / "in", tmp_path / "out"
    (source / "loose").mkdir(parents=True)
    for path in image_files[:20]:
        (source / "loose" / f"{path.parent.name}-{path.name}").write_bytes(path.read_bytes())
    (source / "loose" / "bad.png").write_bytes(b"no picture")
    with tarfile.open(source / "s.tar", "w") as tar:
        for path in image_files[20:]:
            for name, data in ((path.name, path.read_bytes()), (f"{path.stem}.cls", b"3")):
                member = tarfile.TarInfo(f"{path.parent.name}/{name}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    monkeypatch.setattr(sys, "argv", ["scale", str(source), str(output), "--model", str(tiny_checkpoint)])
    scale.main()
    assert "'blocks': 2, 'finished': 0, 'rows': 49, 'unreadable': 1" in capsys.readouterr().out
    labels = read(output).to_pandas().groupby("label", dropna=False).size().to_dict()
    assert labels == {"3": 28, "loose": 21}


@pytest.mark.usefixtures("ray_here")
def test_what_an_actor_says_reaches_the_caller(tmp_path: Path, tiny_checkpoint: Path) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"jpg": [b"1"]}), tmp_path / "in" / "p.parquet")
    with pytest.raises(CliplibError, match=r"no column 'image': name one of jpg"):
        scale.extract(str(tmp_path / "in"), str(tmp_path / "out"), model=str(tiny_checkpoint))


def test_without_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "ray", None)
    with pytest.raises(CliplibError, match=r"pip install 'ray\[data\]'"):
        scale.extract(str(tmp_path), str(tmp_path / "out"))


def test_an_output_inside_the_input_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "ray", object())
    with pytest.raises(CliplibError, match="lies in the input"):
        scale.extract(str(tmp_path), str(tmp_path / "out"))

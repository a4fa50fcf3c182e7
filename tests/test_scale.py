"""Features over Ray Data: as of one process, every image once, nothing done twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cliplib.encode.clip import ClipEncoder
from cliplib.encode.cluster import (
    BatchEncoder,
    _list_names,
    _locate,
    _read_done,
    encode,
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray = pytest.importorskip("ray")
        ray.init(
            "local",
            num_cpus=3,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=2**27,
        )
        yield
        ray.shutdown()


def written(output: Path) -> pd.DataFrame:
    parts = [pd.read_parquet(file) for file in output.glob("*.parquet")]
    return pd.concat(parts).set_index("id")


# --- what needs no Ray


def test_every_file_but_hidden_ones_is_listed(tmp_path: Path) -> None:
    for name in ("a.png", "_b.png", "c d/é.png", ".hidden.png", ".git/e.png", "f.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    expected = ["_b.png", "a.png", "c d/é.png", "f.txt"]
    for place in (str(tmp_path), f"{tmp_path}/", tmp_path.as_uri()):
        assert _list_names(*_locate(place)).tolist() == expected
    (tmp_path / "empty").mkdir()
    assert _list_names(*_locate(str(tmp_path / "empty"))).empty


def test_what_is_done_is_known_and_must_be_made_alike(tmp_path: Path) -> None:
    place = str(tmp_path / "new" / "out")
    assert _read_done(place, made_by="mini pooled").empty
    done = pd.DataFrame({"id": ["a.png", "b.png"], "encoder": "mini pooled"})
    done.to_parquet(f"{place}/part.parquet")
    assert (
        _read_done(place, made_by="mini pooled")["id"].tolist() == done["id"].tolist()
    )
    with pytest.raises(ValueError, match="made otherwise: name another folder"):
        _read_done(place, made_by="mini deep")


def test_an_actor_gives_every_image_a_row(tiny: ClipEncoder, checkpoint: Path) -> None:
    actor = BatchEncoder(str(checkpoint), "dinov2")
    image = np.zeros((40, 40, 3), np.uint8)
    good = b"P6 1 1 255 abc"  # a format that is not read
    batch = actor({"id": np.array(["a", "b"]), "bytes": np.array([good, b""], object)})
    assert [error.split(":")[0] for error in batch["error"]] == [
        "Cannot read the image 'a'",
        "Cannot read the image 'b'",
    ]
    width = tiny.images(image, readout="dinov2", progress=False).shape[1]
    assert batch["features"].shape == (2, width) and not batch["features"].any()
    assert set(batch["encoder"]) == {f"{tiny.fingerprint} dinov2"}


# --- with Ray


@pytest.mark.usefixtures("cluster")
def test_a_folder_gives_the_features_of_one_process_and_is_resumed(
    image_folder: Callable[..., Path],
    tiny: ClipEncoder,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import ray.data

    read, original = list[str](), ray.data.read_binary_files

    def noting(paths: list[str], **options: object) -> object:
        read.extend(paths)
        return original(paths, **options)

    monkeypatch.setattr(ray.data, "read_binary_files", noting)
    folder, out = image_folder(n=3), tmp_path / "out"
    (folder / "disc" / "broken.png").write_bytes(b"no image")

    def extract(readout: str = "deep") -> None:
        encode(str(folder), str(out), model=str(checkpoint), readout=readout, actors=1)

    extract()
    first = written(out)
    assert len(first) == len(read) == 10 and first.index.is_unique
    assert first.index[first["error"] != ""].tolist() == ["disc/broken.png"]
    files = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}

    image_folder(n=2, name="images/more", seed=1)
    read.clear()
    extract()
    again = written(out)
    assert len(again) == 16 and again.index.is_unique
    assert len(read) == 6 and all("/more/" in path for path in read)
    later = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert files.items() <= later.items()
    extract()
    assert len(read) == 6  # nothing is missing, nothing is read

    good = again[again["error"] == ""]
    paths = [folder / name for name in good.index]
    expected = tiny.images(paths, readout="deep", progress=False)
    np.testing.assert_array_equal(np.stack(good["features"]), expected)
    with pytest.raises(ValueError, match="features that were made otherwise"):
        extract("pooled")

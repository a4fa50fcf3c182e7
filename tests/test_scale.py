"""Features over Ray Data: as of one process, every image once, nothing done twice."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from cliplib.data.image import load_image
from cliplib.encoders.clip import ClipEncoder
from cliplib.features.cluster import BatchEncoder, _list_files, encode_with_ray
from cliplib.features.duplicates import near_duplicate_groups
from cliplib.features.encoded import locate
from cliplib.features.hashes import image_hash
from cliplib.features.table import FeatureTable
from cliplib.reports.decision_aid import DecisionAid


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


def test_every_file_but_hidden_ones_is_listed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.png", "_b.png", "c d/é.png", ".hidden.png", ".git/e.png", "f.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    expected = ["_b.png", "a.png", "c d/é.png", "f.txt"]
    remote = SubTreeFileSystem(str(tmp_path.parent), LocalFileSystem())
    places = [locate(place) for place in (f"{tmp_path}/", tmp_path.as_uri())]
    for system, folder in [*places, (remote, tmp_path.name)]:
        paths = _list_files(system, folder)
        assert paths == [f"{folder}/{name}" for name in expected]
    assert f"Left out 2 files hidden by a dot, such as {tmp_path}/.git" in caplog.text


def test_an_actor_gives_every_image_a_row(tiny: ClipEncoder, checkpoint: Path) -> None:
    actor = BatchEncoder(str(checkpoint), "dinov2", "in")
    image = np.zeros((40, 40, 3), np.uint8)
    good = b"P6 1 1 255 abc"  # a format that is not read
    batch = actor({"path": ["in/a", "in/b"], "bytes": np.array([good, b""], object)})
    assert batch["id"].to_pylist() == ["a", "b"]
    assert [error.split(":")[0] for error in batch["error"].to_pylist()] == [
        "Cannot read the image 'a'",
        "Cannot read the image 'b'",
    ]
    width = tiny.encode_images(image, readout="dinov2", progress=False).shape[1]
    assert batch["features"].to_pylist() == [[0.0] * width] * 2
    made_by = json.loads(batch["encoder"][1].as_py())
    assert made_by["model_fingerprint"] == tiny.fingerprint
    assert (made_by["readout"], made_by["hashes"]) == ("dinov2", image_hash.name)


def write_by_hand(output: Path, actor: BatchEncoder, files: dict[str, bytes]) -> None:
    """Write what Ray would write of these files."""
    batch = {"path": [*files], "bytes": np.array([*files.values()], object)}
    output.mkdir(exist_ok=True)
    pq.write_table(actor(batch), output / f"{len(list(output.iterdir()))}.parquet")


@pytest.fixture
def encoded(tiny: ClipEncoder, checkpoint: Path, tmp_path: Path) -> Path:
    """A folder as of `encode`: 60 images of two classes, in two files."""
    actor = BatchEncoder(str(checkpoint), "deep", "")
    rng = np.random.default_rng(0)
    files = {}
    for number in range(60):
        pixels = rng.integers(0, 256, (40, 40, 3), np.uint8)
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, "PNG")
        split = "train" if number < 36 else "Testing"
        files[f"set/{split}/{'ab'[number % 2]}/{number}.png"] = content.getvalue()
    names = [*files]
    files["set/train/a/copy.png"] = files[names[1]]
    files["set/notes.txt"] = b"no image"
    later = {name: files.pop(name) for name in names[:3]}
    write_by_hand(tmp_path / "out", actor, files)
    write_by_hand(tmp_path / "out", actor, later)
    return tmp_path / "out"


def test_a_table_is_read_with_copies_classes_and_splits(
    encoded: Path, caplog: pytest.LogCaptureFixture
) -> None:
    errors: dict[str, str] = {}
    table = FeatureTable.from_parquet(str(encoded), errors=errors)
    assert [*errors] == ["set/notes.txt"] and "Left out 1 file: " in caplog.text
    assert table.ids[0] == "Testing/a/36.png" and len(table) == 61
    assert table.ids.dtype.kind == table.splits.dtype.kind == "U"
    assert table.classes == ("a", "b")
    assert dict(zip(*np.unique(table.splits, return_counts=True), strict=True)) == {
        "test": 24,
        "train": 37,
    }
    copies = table.copies[np.isin(table.ids, ["train/a/copy.png", "train/b/1.png"])]
    assert copies[0] == copies[1] and len(np.unique(table.copies)) == 60
    assert table.readout == "deep" and table.with_readout("pooled").features.size


def test_images_of_one_name_in_two_data_sets_keep_their_whole_paths(
    encoded: Path, checkpoint: Path, tiny: ClipEncoder
) -> None:
    actor = BatchEncoder(str(checkpoint), "deep", "")
    content = io.BytesIO()
    Image.new("RGB", (40, 40), "red").save(content, "PNG")
    write_by_hand(encoded, actor, {"other/train/a/0.png": content.getvalue()})
    table = FeatureTable.from_parquet(str(encoded))
    # Rows of the third file are read as well as those of the others.
    red = tiny.encode_images(content.getvalue(), readout="deep", progress=False)
    features = table.features[table.ids == "other/train/a/0.png"]
    np.testing.assert_allclose(features, red, atol=1e-5)
    assert len(table) == 62
    assert {"set/train/a/0.png", "other/train/a/0.png"} <= set(table.ids)
    assert set(table.splits) == {"train", "test"} and table.classes == ("a", "b")


def test_an_image_outside_the_class_folders_is_named(
    checkpoint: Path, tmp_path: Path
) -> None:
    content = io.BytesIO()
    Image.new("RGB", (40, 40), "red").save(content, "PNG")
    actor = BatchEncoder(str(checkpoint), "deep", "")
    files = {"a/0.png": content.getvalue(), "cover.png": content.getvalue()}
    write_by_hand(tmp_path / "out", actor, files)
    with pytest.raises(
        ValueError, match=r"The image cover\.png lies outside the class"
    ):
        FeatureTable.from_parquet(str(tmp_path / "out"))


def test_the_aid_learns_from_what_was_encoded(encoded: Path, tiny: ClipEncoder) -> None:
    table = FeatureTable.from_parquet(str(encoded))
    aid = DecisionAid.fit(table, tiny)
    assert len(aid.decide(table.features)) == len(table)


def test_a_half_written_file_is_named(encoded: Path) -> None:
    damaged = encoded / "0.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-50])
    with pytest.raises(ValueError, match="0.parquet.*the file is corrupted"):
        FeatureTable.from_parquet(str(encoded))
    assert damaged.exists()


def test_what_was_made_otherwise_is_not_mixed(
    encoded: Path, image_folder: Callable[..., Path], checkpoint: Path
) -> None:
    pytest.importorskip("ray")
    with pytest.raises(ValueError, match="made otherwise: name another folder"):
        encode_with_ray(str(image_folder(n=1)), str(encoded), model=str(checkpoint))


def test_ray_that_fails_is_named(
    image_folder: Callable[..., Path],
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ray = pytest.importorskip("ray")

    def slow(**_: object) -> None:
        raise Exception("The current node timed out during startup.")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", slow)
    out = str(tmp_path / "out")
    with pytest.raises(ConnectionError, match=r"\(The current node.*same call"):
        encode_with_ray(str(image_folder(n=1)), out, model=str(checkpoint))


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
        encode_with_ray(
            str(folder), str(out), model=str(checkpoint), readout=readout, actors=1
        )

    extract()
    first = written(out)
    assert len(first) == len(read) == 10 and first.index.is_unique
    assert first.index[first["error"] != ""].tolist() == ["disc/broken.png"]
    files = {path: path.stat().st_mtime_ns for path in out.glob("*.parquet")}

    image_folder(n=2, name="images/more", seed=1)
    read.clear()
    extract()
    again = written(out)
    assert len(again) == 16 and again.index.is_unique
    assert len(read) == 6 and all("/more/" in path for path in read)
    later = {path: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    assert files.items() <= later.items()
    extract()
    assert len(read) == 6  # nothing is missing, nothing is read

    good = again[again["error"] == ""]
    paths = [folder / name for name in good.index]
    expected = tiny.encode_images(paths, readout="deep", progress=False)
    np.testing.assert_array_equal(np.stack(good["features"]), expected)
    table = FeatureTable.from_parquet(str(out))
    order = np.argsort(good.index)
    np.testing.assert_array_equal(table.features, expected[order])
    local = image_hash.function([load_image(folder / name) for name in good.index])
    assert (table.copies == near_duplicate_groups(local[order])).all()
    with pytest.raises(ValueError, match="features that were made otherwise"):
        extract("pooled")

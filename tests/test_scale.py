"""Features over Ray Data: as of one process, every image once, nothing done twice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cliplib.aids.decision_aid import DecisionAid
from cliplib.data.datasets import load_dataset
from cliplib.data.image import load_image
from cliplib.encoders.clip import ClipEncoder
from cliplib.features.distributed import EncodingActor, encode_with_ray
from cliplib.features.duplicates import near_duplicate_groups
from cliplib.features.groups import merge_groups
from cliplib.features.hashes import image_hash
from cliplib.features.table import FeatureTable
from cliplib.probes.kernel import KernelProbe


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


def test_an_actor_gives_every_image_a_row(
    tiny: ClipEncoder, checkpoint: Path, image_folder: Callable[..., Path]
) -> None:
    folder = image_folder(n=1)
    (folder / "disc" / "empty.png").touch()
    actor = EncodingActor(load_dataset(folder), str(checkpoint), "pooled")
    batch = actor({"id": np.array([1, 0, 3])})
    assert [*batch["id"]] == [
        "disc/empty.png",
        "disc/disc0.png",
        "stripes/stripes0.png",
    ]
    assert [*batch["label"]] == ["disc", "disc", "stripes"]
    assert (
        batch["error"][0].startswith("Cannot read the image") and not batch["error"][1]
    )
    paths = [folder / name for name in batch["id"][1:]]
    expected = tiny.encode_images(paths, readout="pooled", progress=False)
    assert (np.stack(batch["features"][1:]) == expected).all()
    assert not batch["features"][0].any()
    made_by = json.loads(batch["encoder"][1])
    assert made_by["model_fingerprint"] == tiny.fingerprint
    assert (made_by["readout"], made_by["hashes"]) == ("pooled", image_hash.name)


def test_an_actor_takes_the_readout_of_encode_by_default(
    checkpoint: Path, image_folder: Callable[..., Path]
) -> None:
    actor = EncodingActor(load_dataset(image_folder(n=1)), str(checkpoint), "")
    assert json.loads(actor.made_by)["readout"] == "deep"


@pytest.fixture
def encoded(checkpoint: Path, image_folder: Callable[..., Path]) -> Path:
    """A folder as of `encode`: 61 images of three classes, in two files."""
    folder = image_folder(n=10, splits=("train", "Testing"))
    copied = folder / "train" / "disc" / "disc0.png"
    shutil.copy(copied, folder / "train" / "disc" / "copy.png")
    (folder / "train" / "disc" / "empty.png").touch()
    actor = EncodingActor(load_dataset(folder), str(checkpoint), "deep")
    out = folder.parent / "out"
    out.mkdir()
    for name, rows in (("b", range(40)), ("a", range(40, 62))):
        actor({"id": np.array(rows)}).to_parquet(out / f"{name}.parquet")
    return out


def test_a_table_is_read_with_copies_classes_and_splits(
    encoded: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = FeatureTable.from_parquet(str(encoded))
    assert "Left out 1 image: " in caplog.text and "empty.png" in caplog.text
    assert table.ids[0] == "Testing/disc/disc0.png" and len(table) == 61
    assert table.ids.dtype.kind == table.splits.dtype.kind == "U"
    assert table.classes == ("disc", "square", "stripes")
    assert dict(zip(*np.unique(table.splits, return_counts=True), strict=True)) == {
        "test": 30,
        "train": 31,
    }
    copies = table.copies[
        np.isin(table.ids, ["train/disc/copy.png", "train/disc/disc0.png"])
    ]
    assert copies[0] == copies[1] and len(np.unique(table.copies)) == 60
    assert table.readout == "deep" and table.with_readout("pooled").features.size


def test_groups_of_the_source_are_those_of_the_table(
    checkpoint: Path, image_folder: Callable[..., Path]
) -> None:
    listed = load_dataset(image_folder(n=4), groups=r"(\d)\.png")  # 0 to 3
    groups = listed["group"][:]
    actor = EncodingActor(listed, str(checkpoint), "pooled")
    out = image_folder(n=1, name="other").parent / "out"
    out.mkdir()
    actor({"id": np.arange(len(listed))}).to_parquet(out / "a.parquet")
    table = FeatureTable.from_parquet(str(out))
    assert table.groups.tolist() == merge_groups(table.copies, groups).tolist()
    assert len(np.unique(table.groups)) <= 4 < len(np.unique(table.copies))


def test_the_aid_learns_from_what_was_encoded(encoded: Path, tiny: ClipEncoder) -> None:
    table = FeatureTable.from_parquet(str(encoded))
    aid = DecisionAid.fit(table, tiny, probe=KernelProbe())
    assert len(aid.decide(table.features)) == len(table)


def test_a_half_written_file_is_named(encoded: Path) -> None:
    damaged = encoded / "a.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-50])
    with pytest.raises(ValueError, match="a.parquet.*the file is corrupted"):
        FeatureTable.from_parquet(str(encoded))
    assert damaged.exists()


def test_a_folder_of_other_files_is_refused(encoded: Path) -> None:
    one, two = (pd.read_parquet(encoded / f"{name}.parquet") for name in "ab")
    two.assign(encoder="{}").to_parquet(encoded / "b.parquet")
    with pytest.raises(ValueError, match="made in several ways"):
        FeatureTable.from_parquet(encoded)
    for name in "ab":
        one.drop(columns="hash").to_parquet(encoded / f"{name}.parquet")
    with pytest.raises(ValueError, match="holds other files"):
        FeatureTable.from_parquet(encoded)


def test_what_was_made_otherwise_is_not_mixed(encoded: Path, checkpoint: Path) -> None:
    pytest.importorskip("ray")
    images = str(encoded.parent / "images")
    with pytest.raises(ValueError, match="made otherwise: name another folder"):
        encode_with_ray(images, str(encoded), model=str(checkpoint), readout="pooled")


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
    out = tmp_path / "out"
    out.mkdir()  # as an earlier call has left it, which failed as well
    with pytest.raises(ConnectionError, match=r"\(The current node.*same call"):
        encode_with_ray(str(image_folder(n=1)), str(out), model=str(checkpoint))


# --- with Ray


@pytest.mark.usefixtures("cluster")
def test_a_folder_gives_the_features_of_one_process_and_is_resumed(
    image_folder: Callable[..., Path],
    tiny: ClipEncoder,
    checkpoint: Path,
    tmp_path: Path,
) -> None:
    folder, out = image_folder(n=3), tmp_path / "out"
    (folder / "disc" / "broken.png").write_bytes(b"no image")

    def extract(readout: str = "deep") -> None:
        encode_with_ray(
            str(folder), str(out), model=str(checkpoint), readout=readout, actors=1
        )

    extract()
    first = written(out)
    assert len(first) == 10 and first.index.is_unique
    assert first.index[first["error"] != ""].tolist() == ["disc/broken.png"]
    files = {path: path.stat().st_mtime_ns for path in out.glob("*.parquet")}

    for path in image_folder(n=2, name="more", seed=1).glob("*/*"):
        path.rename(folder / path.parent.name / f"more_{path.name}")
    extract()
    again = written(out)
    assert len(again) == 16 and again.index.is_unique  # none was encoded twice
    later = {path: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    assert files.items() <= later.items()
    extract()
    assert len([*out.glob("*.parquet")]) == len(later)  # nothing was missing

    good = again[again["error"] == ""].sort_index()
    paths = [folder / name for name in good.index]
    expected = tiny.encode_images(paths, readout="deep", progress=False)
    np.testing.assert_array_equal(np.stack(good["features"]), expected)
    table = FeatureTable.from_parquet(str(out))
    np.testing.assert_array_equal(table.features, expected)
    local = image_hash.function([load_image(path) for path in paths])
    assert (table.copies == near_duplicate_groups(local)).all()
    with pytest.raises(ValueError, match="features that were made otherwise"):
        extract("pooled")

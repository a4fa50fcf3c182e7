"""Data sets from folders, from imitations of their public homes, and what is wrong with trees of class folders."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import types
import zipfile
from collections import Counter
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import pytest
from PIL import Image

from cliplib import data as module
from cliplib.data import DATASETS, HubSource, dataset_fingerprint, dataset_spec, decode, load_dataset
from cliplib.errors import CliplibError, ImageError

MRI = DATASETS["brain_tumor_mri"]
TRASH = DATASETS["trashnet"]


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.delenv("CLIPLIB_DATA", raising=False)
    monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "EXTRACTED_DATASETS_PATH", str(tmp_path / "cache" / "extracted"))
    caplog.set_level(logging.INFO, "cliplib")


def put(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng([seed, *path.name.encode()]).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(values).save(path, "PNG")
    return path


def make_mri(folder: Path) -> Path:
    for split, per_class in (("Training", 3), ("Testing", 2)):
        for name in MRI.classes:
            for number in range(per_class):
                put(folder / split / name / f"{split[:2]}-{name[:2]}_{number}.jpg")
    return folder


def make_trash(folder: Path, inner: str = "images") -> Path:
    for name in TRASH.classes:
        for number in (1, 2, 3, 4):
            put(folder / inner / name / f"{name}{number}.jpg")
    return folder


def make_own(folder: Path, *above: str) -> Path:
    for split in above or ("",):
        for name in ("cat", "sea_horse"):
            for number in (1, 2):
                put(folder / split / name / f"{number}.png")
    return folder


def test_declarations_are_complete() -> None:
    for name, spec in DATASETS.items():
        assert spec.name == name
        assert set(spec.phrases) == set(spec.classes)
        assert all(phrases and all(phrases) for phrases in spec.phrases.values())
        assert all(template.count("{}") == 1 for template in spec.templates)
        assert spec.licence and spec.citation and spec.homepage.startswith("https://")
    assert MRI.classes == ("glioma", "meningioma", "notumor", "pituitary")
    assert TRASH.classes == ("cardboard", "glass", "metal", "paper", "plastic", "trash")
    assert TRASH.hub == HubSource("garythung/trashnet", "dataset-resized.zip")


@pytest.mark.parametrize("nested", [True, False])
def test_mri_from_a_data_folder_or_its_own(tmp_path: Path, nested: bool, caplog: pytest.LogCaptureFixture) -> None:
    folder = make_mri(tmp_path / "brain_tumor_mri" if nested else tmp_path / "download")
    dataset = load_dataset("brain_tumor_mri", data=tmp_path if nested else folder)
    assert dataset is not None
    assert dataset.column_names == ["image", "label", "id", "split"]
    assert dataset.features["label"].names == list(MRI.classes)
    assert dataset.features["image"] == datasets.Image(decode=False)
    ids = list(dataset["id"])
    assert ids == sorted(ids) and ids[0] == "Testing/glioma/Te-gl_0.jpg"
    assert Counter(dataset["split"]) == {"train": 12, "test": 8}
    for row in dataset:
        split, name, _ = row["id"].split("/")
        assert MRI.classes[row["label"]] == name
        assert row["split"] == {"Training": "train", "Testing": "test"}[split]
        assert row["image"] == {"path": str(folder / row["id"]), "bytes": None}
    assert (dataset.info.dataset_name, dataset.info.builder_name) == ("brain_tumor_mri", "folder")
    assert [r.getMessage() for r in caplog.records] == [
        f"brain_tumor_mri: 20 of the published 7,023 images in 4 classes from the folder at {folder}"
    ]
    assert np.array_equal(decode(dataset[0]["image"]), Image.open(folder / ids[0]))


def test_trashnet_takes_the_authors_split(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_trash(tmp_path / "trashnet")
    (tmp_path / "trashnet" / "one-indexed-files-notrash_val.txt").write_text("glass1.jpg 1\n")
    dataset = load_dataset("trashnet", data=tmp_path)
    assert dataset is not None
    split = dict(zip(dataset["id"], dataset["split"], strict=True))
    expected = {"cardboard/cardboard1.jpg": "train", "cardboard/cardboard2.jpg": "test", "paper/paper3.jpg": "test",
                "cardboard/cardboard3.jpg": "val", "glass/glass1.jpg": "train", "metal/metal4.jpg": "val"}  # fmt: skip
    assert {name: split[name] for name in expected} == expected
    put(tmp_path / "trashnet" / "images" / "glass" / "mine.jpg")
    dataset = load_dataset("trashnet", data=tmp_path)
    assert dataset is not None and Counter(dataset["split"])[""] == 1
    assert "trashnet: 1 images are in no published split" in caplog.text


def test_published_list_is_whole() -> None:
    text = (Path(module.__file__).parents[1] / "packs" / "trashnet_splits.txt").read_text(encoding="utf-8")
    rows = [line.split() for line in text.splitlines() if not line.startswith("#")]
    assert Counter(split for _, split in rows) == {"train": 1768, "val": 328, "test": 431}
    assert len({name for name, _ in rows}) == TRASH.n_images == len(rows)
    by_class = {"cardboard": 403, "glass": 501, "metal": 410, "paper": 594, "plastic": 482, "trash": 137}
    assert Counter(name.split("/")[0] for name, _ in rows) == by_class
    assert all(name.split("/")[1].startswith(name.split("/")[0]) for name, _ in rows)
    assert "Copyright (c) 2017 Gary Thung" in text


def test_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    assert load_dataset("trashnet") is None
    assert caplog.messages == ["trashnet: no images (no folder, and none from its public home)"]
    make_trash(tmp_path / "root" / "trashnet")
    monkeypatch.setenv("CLIPLIB_DATA", str(tmp_path / "root"))
    assert len(load_dataset("trashnet", data="") or ()) == 24
    caplog.clear()
    assert load_dataset("brain_tumor_mri") is None  # a data folder may hold one set only
    assert "(from CLIPLIB_DATA) holds neither brain_tumor_mri/ nor its class folders" in caplog.text
    monkeypatch.setenv("CLIPLIB_DATA", str(tmp_path / "gone"))
    with pytest.raises(CliplibError, match=r"gone' \(from CLIPLIB_DATA\) does not exist"):
        load_dataset("trashnet")
    assert len(load_dataset("trashnet", data=tmp_path / "root") or ()) == 24  # the argument comes first


def test_explicit_folder_never_falls_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPLIB_DATA", str(make_trash(tmp_path / "good")))
    with pytest.raises(CliplibError, match=r"^The data folder '.*nope' \(from data\) does not exist: name another"):
        load_dataset("trashnet", data=tmp_path / "nope")
    with pytest.raises(CliplibError, match=r"holds neither trashnet/ nor its class folders \(cardboard, glass"):
        load_dataset("trashnet", data=make_mri(tmp_path / "other"))


@pytest.mark.parametrize(("above", "expected"), [
    ((), {""}), (("train", "val", "test"), {"train", "val", "test"}), (("Training", "Testing"), {"train", "test"}),
    (("TRAIN", "valid"), {"train", "val"}), (("train",), {"train"}),
])  # fmt: skip
def test_own_folder(tmp_path: Path, above: tuple[str, ...], expected: set[str]) -> None:
    folder = make_own(tmp_path / "pets", *above)
    dataset = load_dataset(folder)
    assert dataset is not None
    assert set(dataset["split"]) == expected
    assert dataset.features["label"].names == ["cat", "sea_horse"]
    assert len(dataset) == 4 * max(len(above), 1)
    assert dataset.info.dataset_name == "pets"
    spec = dataset_spec(folder)
    assert (spec.name, spec.classes) == ("pets", ("cat", "sea_horse"))
    assert spec.phrases["sea_horse"] == ("sea horse",)


def test_own_folder_inside_single_folders(tmp_path: Path) -> None:
    make_own(tmp_path / "pets" / "archive" / "images")
    put(tmp_path / "pets" / "__MACOSX" / "cat" / "1.png")
    assert "cat/1.png" in (load_dataset(str(tmp_path / "pets")) or {})["id"]


def test_names_and_links(tmp_path: Path) -> None:
    folder = make_own(tmp_path / "pets")
    for name in ("with space.JPG", "雪\nnew line.png", "<b>&.webp"):
        put(folder / "cat" / name)
    (folder / "cat" / "dangling.png").symlink_to(tmp_path / "gone")
    (folder / "cat" / "folder.jpg").mkdir()
    dataset = load_dataset(folder)
    assert dataset is not None
    bad = []
    for row in dataset:  # every row is there: what cannot be read is found when it is read
        try:
            decode(row["image"])
        except ImageError as error:
            bad.append(Path(error.path).name)
    assert bad == ["dangling.png", "folder.jpg"] and len(dataset) == 9
    assert len(dataset_fingerprint(dataset)) == 32


def test_other_files_are_skipped_aloud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = make_own(tmp_path / "pets", "train", "test")
    for name in ("README.md", "train/cat/notes.txt", "test/cat/._1.png", "train/cat/.DS_Store"):
        (folder / name).write_text("no picture")
    assert len(load_dataset(folder) or ()) == 8
    assert "Skipped 4 files that are no images by their names, such as" in caplog.text


def spoil(folder: Path, what: str) -> None:
    if what == "empty class":
        (folder / "bird").mkdir()
    elif what == "no images":
        (folder / "bird").mkdir()
        (folder / "bird" / "a.txt").write_text("x")
    elif what == "nesting":
        put(folder / "cat" / "black" / "1.png")
    elif what == "mixed splits":
        put(folder / "train" / "cat" / "1.png")
    elif what == "loose":
        put(folder / "1.png")
    elif what == "bytes":
        shutil.copy(folder / "cat" / "1.png", os.fsencode(folder / "cat") + b"/\xff\xfe.png")


@pytest.mark.parametrize(("what", "sentence"), [
    ("empty class", r"^The class folder '.*bird' holds no images: fill it, or remove it\.$"),
    ("no images", r"^The class folder '.*bird' holds no images"),
    ("nesting", r"^The class folder '.*cat' holds the folder 'black': put its images right into it\.$"),
    ("mixed splits", r"^The folder '.*pets' mixes splits \(train\) and other folders \(cat\): have either"),
    ("loose", r"^The image '.*1\.png' lies outside the class folders: move it into one\.$"),
    ("bytes", r"^Cannot read the image '.*\\\\xff\\\\xfe\.png': its name is not valid UTF-8"),
])  # fmt: skip
def test_spoilt_trees(tmp_path: Path, what: str, sentence: str) -> None:
    folder = make_own(tmp_path / "pets")
    spoil(folder, what)
    with pytest.raises(CliplibError, match=sentence):
        load_dataset(folder)


def test_what_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(CliplibError, match=r"^'mnist' is neither a known data set \(brain_tumor_mri, trashnet\)"):
        load_dataset("mnist")
    for images in (0, 1):
        if images:
            put(tmp_path / "1.png")
        with pytest.raises(CliplibError, match="holds no class folders"):
            load_dataset(tmp_path)
    make_trash(tmp_path / "trashnet")
    put(tmp_path / "trashnet" / "images" / "wood" / "1.png")
    with pytest.raises(CliplibError, match=r"images/wood' is no class of trashnet, which has cardboard, "):
        load_dataset("trashnet", data=tmp_path)
    for name in ("wood", "glass", "trash"):
        shutil.rmtree(tmp_path / "trashnet" / "images" / name)
    with pytest.raises(CliplibError, match="lacks class folders of trashnet: glass, trash"):
        load_dataset("trashnet", data=tmp_path)


def test_one_class_and_class_only_in_test(tmp_path: Path) -> None:
    put(tmp_path / "one" / "cat" / "1.png")
    assert len(load_dataset(tmp_path / "one") or ()) == 1
    folder = make_own(tmp_path / "pets", "train", "test")
    shutil.rmtree(folder / "train" / "cat")
    dataset = load_dataset(folder)
    assert dataset is not None and dataset.features["label"].names == ["cat", "sea_horse"]


def hub_archive(tmp_path: Path) -> Path:
    make_trash(tmp_path / "zip", "dataset-resized")
    archive = tmp_path / "dataset-resized.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted((tmp_path / "zip").rglob("*.jpg")):
            file.write(path, path.relative_to(tmp_path / "zip"))
        file.writestr("dataset-resized/.DS_Store", "x")
        file.writestr("__MACOSX/dataset-resized/glass/._glass1.jpg", "x")
    return archive


@pytest.mark.parametrize("through", ["argument", "setting"])
def test_trashnet_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, through: str) -> None:
    archive, asked = hub_archive(tmp_path), []

    def download(repo: str, file: str, **options: str) -> str:
        asked.append((repo, file, options))
        return str(archive)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    if through == "setting":
        monkeypatch.setenv("CLIPLIB_DATA", "hub")
    dataset = load_dataset("trashnet", data="hub" if through == "argument" else None)
    assert asked == [("garythung/trashnet", "dataset-resized.zip", {"repo_type": "dataset", "revision": "main"})]
    assert dataset is not None and dataset.info.builder_name == "hub"
    local = load_dataset("trashnet", data=make_trash(tmp_path / "local"))
    assert local is not None
    for column in ("id", "label", "split"):
        assert list(dataset[column]) == list(local[column])
    assert dataset_fingerprint(dataset) == dataset_fingerprint(local)


def test_mri_from_kaggle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_mri(tmp_path / "versions" / "1")
    asked = []
    fake = types.SimpleNamespace(dataset_download=lambda handle: asked.append(handle) or str(folder))
    monkeypatch.setitem(sys.modules, "kagglehub", fake)  # type: ignore[arg-type]
    dataset = load_dataset("brain_tumor_mri", data="hub")
    assert asked == ["masoudnickparvar/brain-tumor-mri-dataset"]
    assert dataset is not None and len(dataset) == 20 and dataset.info.builder_name == "hub"


def test_public_home_out_of_reach(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*args: object, **options: object) -> str:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    monkeypatch.setitem(sys.modules, "kagglehub", None)  # type: ignore[arg-type]
    assert load_dataset("trashnet", data="hub") is None
    assert "its public home cannot be used (ConnectionError: no route to host)" in caplog.text
    assert load_dataset("brain_tumor_mri", data="hub") is None
    assert "pip install kagglehub, or download https://www.kaggle.com" in caplog.text


def test_nothing_is_downloaded_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise AssertionError("asked the hub")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    monkeypatch.setattr(module, "_public", fail)
    assert load_dataset("trashnet") is None


def test_fingerprint(tmp_path: Path) -> None:
    def of(folder: Path) -> str:
        dataset = load_dataset(folder)
        assert dataset is not None
        return dataset_fingerprint(dataset)

    first = of(make_own(tmp_path / "a" / "pets"))
    assert first == of(make_own(tmp_path / "b" / "animals"))  # another place, the same set
    dataset = load_dataset(tmp_path / "a" / "pets")
    assert dataset is not None
    assert dataset_fingerprint(dataset.select([3, 1, 0, 2])) == first
    assert dataset_fingerprint(dataset.select([0, 1, 2])) != first
    data = bytearray((tmp_path / "b" / "animals" / "cat" / "1.png").read_bytes())
    data[-20] ^= 1  # the same size
    (tmp_path / "b" / "animals" / "cat" / "1.png").write_bytes(data)
    assert of(tmp_path / "b" / "animals") != first
    assert of(make_own(tmp_path / "c", "train")) != first
    (tmp_path / "a" / "pets" / "cat").rename(tmp_path / "a" / "pets" / "dog")
    assert of(tmp_path / "a" / "pets") != first


def test_many_classes(tmp_path: Path) -> None:
    picture = put(tmp_path / "one.png").read_bytes()
    for number in range(1000):
        (tmp_path / "many" / f"{number:04}").mkdir(parents=True)
        (tmp_path / "many" / f"{number:04}" / "1.png").write_bytes(picture)
    dataset = load_dataset(tmp_path / "many")
    assert dataset is not None and list(dataset["label"]) == list(range(1000))

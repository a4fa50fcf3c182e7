"""Features from images or from a pack, and which pack is refused."""

from __future__ import annotations

import hashlib
import logging
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cliplib import packs
from cliplib.data import DATASETS, decode
from cliplib.errors import CliplibError
from cliplib.packs import load_features, load_pack, save_pack
from cliplib.packs.__main__ import main
from cliplib.table import FeatureTable


class Encoder:
    """Stands in for a ClipEncoder: mean colours, times a weight that makes it another model."""

    dim = 3

    def __init__(self, name: str = "toy", weight: float = 1.0) -> None:
        self.name, self.weight, self.seen = name, weight, 0

    def model_fingerprint(self) -> str:
        return hashlib.sha256(str(self.weight).encode()).hexdigest()

    def table(self, dataset: Any, *, kind: str, store: Any = None) -> FeatureTable:
        assert kind == "pooled"
        self.seen += len(dataset)
        means: list[NDArray[np.float64]] = [np.asarray(decode(row["image"])).mean((0, 1)) / 255 for row in dataset]
        return FeatureTable(
            features=np.array(means, np.float32) * self.weight,
            labels=np.array(dataset["label"]),
            classes=tuple(dataset.features["label"].names),
            ids=np.array(dataset["id"]),
            splits=np.array(dataset["split"]),
            provenance={"encoder": self.name, "kind": kind},
        )


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Path:
    monkeypatch.delenv("CLIPLIB_DATA", raising=False)
    monkeypatch.setattr(packs, "FOLDER", tmp_path / "packs")
    (tmp_path / "packs").mkdir()
    caplog.set_level(logging.INFO, "cliplib")
    return tmp_path / "packs"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split in ("Training", "Testing"):
        for name in DATASETS["brain_tumor_mri"].classes:
            place = tmp_path / "data" / "brain_tumor_mri" / split / name
            place.mkdir(parents=True)
            for number in range(6):
                values = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(values).save(place / f"{number}.png")
    return tmp_path / "data"


def test_images_then_pack(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder = Encoder()
    table = load_features("brain_tumor_mri", encoder, data=data)  # type: ignore[arg-type]
    assert len(table) == 48 and table.provenance["source"] == "folder"
    assert table.provenance["dataset"] == "brain_tumor_mri" and len(table.provenance["dataset_fingerprint"]) == 32
    path = save_pack("brain_tumor_mri", table.with_groups(np.arange(48) // 2), encoder)  # type: ignore[arg-type]
    first = path.read_bytes()
    save_pack("brain_tumor_mri", table.with_groups(np.arange(48) // 2), encoder)  # type: ignore[arg-type]
    assert path.read_bytes() == first
    seen = encoder.seen
    caplog.clear()
    pack = load_features("brain_tumor_mri", encoder)  # type: ignore[arg-type]
    assert encoder.seen == seen
    assert pack.provenance["source"] == "pack"
    assert pack.provenance["dataset_fingerprint"] == table.provenance["dataset_fingerprint"]
    assert pack.ids.tolist() == table.ids.tolist() and pack.splits.tolist() == table.splits.tolist()
    assert np.array_equal(pack.labels, table.labels) and np.array_equal(pack.groups, np.arange(48) // 2)
    assert np.allclose(pack.features, table.features, rtol=1e-3, atol=1e-6)
    assert caplog.messages[-1] == "brain_tumor_mri: 48 rows from the embedded pack of toy"


def test_limit_chooses_equal_rows_of_images_and_pack(data: Path) -> None:
    encoder: Any = Encoder()
    save_pack("brain_tumor_mri", load_features("brain_tumor_mri", encoder, data=data), encoder)
    encoder.seen = 0
    few = load_features("brain_tumor_mri", encoder, data=data, limit=20, seed=5)
    assert encoder.seen == len(few) == 16
    assert load_features("brain_tumor_mri", encoder, limit=20, seed=5).ids.tolist() == few.ids.tolist()


def test_groups_come_from_the_audit(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "near_duplicate_groups", lambda dataset: np.arange(len(dataset)) // 4)
    encoder: Any = Encoder()
    assert load_features("brain_tumor_mri", encoder, data=data, groups=True).groups.max() == 11
    assert load_features("brain_tumor_mri", encoder, data=data).groups.max() == 47


def test_near_duplicate_groups_ask_the_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = types.SimpleNamespace(audit=lambda dataset: types.SimpleNamespace(groups=[0, 0, len(dataset)]))
    monkeypatch.setitem(sys.modules, "cliplib.audit", fake)  # type: ignore[arg-type]
    assert packs.near_duplicate_groups("xyz").tolist() == [0, 0, 3]


def test_pack_of_another_model_is_refused(data: Path) -> None:
    encoder: Any = Encoder()
    save_pack("brain_tumor_mri", load_features("brain_tumor_mri", encoder, data=data), encoder)
    other: Any = Encoder("openai/clip", 2.0)
    sentence = (
        r"^The embedded features of 'brain_tumor_mri' are those of the encoder 'toy' \(fingerprint [0-9a-f]{12}\), "
        r"not of 'openai/clip' \([0-9a-f]{12}\): give the images with DATA=<folder>, or use the embedded model\.$"
    )
    with pytest.raises(CliplibError, match=sentence):
        load_features("brain_tumor_mri", other)
    assert len(load_features("brain_tumor_mri", other, data=data)) == 48  # its own features of images are welcome


def test_no_pack(folder: Path, tmp_path: Path) -> None:
    encoder: Any = Encoder()
    with pytest.raises(CliplibError, match=r"^There are no images and no embedded features of 'trashnet': give images"):
        load_features("trashnet", encoder)
    FeatureTable(np.ones((1, 3)), np.zeros(1, int), ("a",), np.array(["a"]), np.array([""])).save(
        tmp_path / "elsewhere.safetensors"
    )
    with pytest.raises(CliplibError, match="no embedded features"):  # names are names, never paths
        load_pack("../elsewhere", encoder)
    (folder / "trashnet.safetensors").write_bytes(b"cut")
    with pytest.raises(CliplibError, match=r"trashnet\.safetensors' is no feature table, or it is damaged"):
        load_pack("trashnet", encoder)


def test_what_is_no_pack(data: Path) -> None:
    encoder: Any = Encoder()
    table = load_features("brain_tumor_mri", encoder, data=data)
    with pytest.raises(CliplibError, match=r"with its classes, unlike 'trashnet'"):
        save_pack("trashnet", table, encoder)
    with pytest.raises(CliplibError, match=r"pooled features, 3 wide here, not 2\.$"):
        save_pack("brain_tumor_mri", table.with_features(table.features[:, :2]), encoder)
    with pytest.raises(CliplibError, match=r"with its classes, unlike 'mine'"):
        save_pack("mine", table, encoder)


def test_own_folder(data: Path) -> None:
    encoder: Any = Encoder()
    table = load_features(data / "brain_tumor_mri", encoder)
    assert table.provenance["dataset"] == "brain_tumor_mri" and len(table) == 48


def test_main(data: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    asked: list[Any] = []

    class ClipEncoder:
        @staticmethod
        def from_pretrained(model: str, **options: str) -> Encoder:
            asked.append((model, options))
            return Encoder()

    monkeypatch.setitem(sys.modules, "cliplib.encoder", types.SimpleNamespace(ClipEncoder=ClipEncoder))  # type: ignore[arg-type]
    monkeypatch.setattr(packs, "near_duplicate_groups", lambda dataset: np.arange(len(dataset)) // 3)
    assert main([str(data), "brain_tumor_mri"]) == 0
    assert asked == [("mini", {"dtype": "float32"})]
    assert FeatureTable.load(folder / "brain_tumor_mri.safetensors").groups.max() == 15
    assert main([str(data)]) == 1  # TrashNet is not there
    assert "holds neither trashnet/ nor its class folders" in caplog.messages[-1]
    monkeypatch.setattr("cliplib.data._public", lambda spec: None)
    assert main(["hub", "brain_tumor_mri"]) == 1
    assert caplog.messages[-1] == "There are no images of 'brain_tumor_mri' to make a pack from."


def test_main_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "DATA" in capsys.readouterr().out

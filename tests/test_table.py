"""The feature table: what it refuses, what survives the file, and the subsets of quick runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from cliplib.errors import CliplibError
from cliplib.table import FeatureTable, stratified_subset


def columns(n: int = 12) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "features": rng.normal(size=(n, 5)).astype(np.float32),
        "labels": np.arange(n) % 3,
        "classes": ("a", "b", "<c>"),
        "ids": [f"x/{i:02}é.png" for i in range(n)],
        "splits": ["train"] * (n - 4) + ["val", "val", "test", "test"],
        "groups": np.arange(n) // 2,
        "provenance": {"encoder": "mini", "kind": "pooled"},
    }


def table(**changes: Any) -> FeatureTable:
    return FeatureTable(**{**columns(), **changes})


def equal(a: FeatureTable, b: FeatureTable) -> bool:
    names = ("features", "labels", "ids", "splits", "groups")
    same = all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names)
    return same and a.classes == b.classes and a.provenance == b.provenance


def test_types_and_defaults() -> None:
    made = table(features=columns()["features"].astype(np.float64).tolist(), groups=np.empty(0, np.int64))
    assert made.features.dtype == np.float32 and made.labels.dtype == made.groups.dtype == np.int64
    assert made.ids.dtype.kind == made.splits.dtype.kind == "U"
    assert made.groups.tolist() == list(range(12)) == list(range(len(made)))


@pytest.mark.parametrize(("changes", "sentence"), [
    ({"features": np.zeros(12)}, r"^features must have the shape \(n, d\) with d > 0, not \(12,\)\.$"),
    ({"features": np.zeros((12, 0))}, r"not \(12, 0\)"),
    ({"labels": np.zeros(11, int)}, r"^labels must have the shape \(12,\) of the 12 feature rows, not \(11,\)\.$"),
    ({"labels": np.zeros(12)}, r"^labels must be whole numbers, not float64\.$"),
    ({"labels": np.full(12, 3)}, r"^labels must lie in 0 to 2, as there are 3 classes\.$"),
    ({"labels": np.full(12, -1)}, r"^labels must lie in 0 to 2"),
    ({"splits": ["train"]}, r"^splits must have the shape"),
    ({"groups": np.zeros((12, 1), int)}, r"^groups must have the shape \(12,\) .* not \(12, 1\)\.$"),
    ({"ids": ["same"] * 12}, r"^ids must be unique, but 'same' occurs more than once\.$"),
    ({"classes": ("a", "a", "b")}, r"^classes must be one or more unique names\.$"),
    ({"classes": ()}, r"^classes must be"),
    ({"provenance": {"n": 3}}, r"^provenance must map names to texts\.$"),
])  # fmt: skip
def test_refusals(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(CliplibError, match=sentence):
        table(**changes)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_features_must_be_finite(value: float) -> None:
    features = columns()["features"]
    features[7, 2] = value
    with pytest.raises(CliplibError, match=r"^features hold NaN or infinity in 1 rows, the first one 'x/07é\.png'\.$"):
        table(features=features)


def test_select_and_split() -> None:
    made = table()
    assert equal(made.split("val"), made.select([8, 9]))
    assert equal(made.select(made.splits == "test"), made.select(np.array([10, 11])))
    assert made.select([3, 1]).ids.tolist() == ["x/03é.png", "x/01é.png"]
    assert made.select([3, 1]).groups.tolist() == [1, 0]
    assert len(made.select([])) == 0
    with pytest.raises(CliplibError, match=r"^The table has no split 'dev'; its splits are 'test', 'train', 'val'\.$"):
        made.split("dev")


def test_with() -> None:
    made = table()
    other = made.with_features(np.ones((12, 2)), kind="projected")
    assert other.features.shape == (12, 2) and other.provenance == {"encoder": "mini", "kind": "projected"}
    assert made.provenance["kind"] == "pooled" and np.array_equal(other.groups, made.groups)
    assert made.with_groups(np.zeros(12, int)).groups.sum() == 0
    with pytest.raises(CliplibError, match="feature rows"):
        made.with_features(np.ones((3, 2)))


def test_file_round_trip(tmp_path: Path) -> None:
    made = table()
    made.save(tmp_path / "t.safetensors")
    assert equal(FeatureTable.load(tmp_path / "t.safetensors"), made)
    assert equal(FeatureTable.load(str(tmp_path / "t.safetensors")), made)
    empty = made.select([])
    empty.save(tmp_path / "empty.safetensors", dtype="float16")
    assert len(FeatureTable.load(tmp_path / "empty.safetensors")) == 0
    made.save(tmp_path / "half.safetensors", dtype="float16")
    half = FeatureTable.load(tmp_path / "half.safetensors")
    assert half.features.dtype == np.float32
    assert np.array_equal(half.features, made.features.astype(np.float16).astype(np.float32))
    assert equal(half.with_features(made.features), made)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty.safetensors", "half.safetensors", "t.safetensors"]


def test_equal_tables_give_equal_bytes(tmp_path: Path) -> None:
    many = {f"key{i}": str(i) for i in range(30)}
    table(provenance=many).save(tmp_path / "1")
    table(provenance=dict(reversed(many.items()))).save(tmp_path / "2")
    FeatureTable.load(tmp_path / "1").save(tmp_path / "3")
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes() == (tmp_path / "3").read_bytes()


def test_save_refusals(tmp_path: Path) -> None:
    with pytest.raises(CliplibError, match=r"exceeds the range of float16"):
        table(features=np.full((12, 1), 7e4)).save(tmp_path / "t", dtype="float16")
    with pytest.raises(CliplibError, match=r"^dtype must be 'float32' or 'float16', not 'int8'\.$"):
        table().save(tmp_path / "t", dtype="int8")  # type: ignore[arg-type]
    with pytest.raises(CliplibError, match=r"^Cannot write the feature table '.*none/t': No such file or directory\.$"):
        table().save(tmp_path / "none" / "t")
    assert not list(tmp_path.iterdir())


def test_interrupted_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table().save(tmp_path / "t")

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:50])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(CliplibError, match="No space left on device"):
        table(classes=("x", "y", "z")).save(tmp_path / "t")
    assert equal(FeatureTable.load(tmp_path / "t"), table())
    assert [p.name for p in tmp_path.iterdir()] == ["t"]


def test_cut_short_or_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    table().save(path)
    data = path.read_bytes()
    for length in (0, 4, 9, len(data) // 4, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(CliplibError, match=r"t\.safetensors' is no feature table, or it is damaged or cut short"):
            FeatureTable.load(path)
    path.write_bytes(b"\x80\x04]\x94." * 40)  # a pickle, say
    with pytest.raises(CliplibError, match="is no feature table"):
        FeatureTable.load(path)
    save_file({"weight": np.zeros(3, np.float32)}, path)
    with pytest.raises(CliplibError, match="is a safetensors file, but not a feature table"):
        FeatureTable.load(path)
    for missing in (tmp_path / "none", tmp_path):
        with pytest.raises(CliplibError, match=r"^There is no feature table '"):
            FeatureTable.load(missing)


@pytest.mark.parametrize("about", ["no json", "[]", "{}", json.dumps({"ids": ["a"], "splits": [""], "classes": ["a"]})])
def test_damaged_metadata(tmp_path: Path, about: str) -> None:
    arrays = {"features": np.zeros((1, 2), np.float32), "labels": np.zeros(1, int), "groups": np.zeros(1, int)}
    save_file(arrays, tmp_path / "t", metadata={"cliplib.FeatureTable": about})
    with pytest.raises(CliplibError, match=r"^The feature table '.*/t' cannot be read .*: make it anew\.$"):
        FeatureTable.load(tmp_path / "t")


def test_subset_keeps_every_class_in_every_split() -> None:
    rng = np.random.default_rng(1)
    labels = rng.choice(4, 1000, p=[0.5, 0.3, 0.19, 0.01])
    splits = rng.choice(["train", "val", "test"], 1000, p=[0.8, 0.1, 0.1])
    rows = stratified_subset(labels, splits, 100, seed=3)
    assert 90 <= len(rows) <= 120
    assert np.array_equal(rows, np.unique(rows))
    assert set(zip(labels[rows], splits[rows], strict=True)) == set(zip(labels, splits, strict=True))
    assert abs((splits[rows] == "train").mean() - 0.8) < 0.08
    assert np.array_equal(rows, stratified_subset(labels.tolist(), splits.tolist(), 100, seed=3))
    assert not np.array_equal(rows, stratified_subset(labels, splits, 100, seed=4))
    assert stratified_subset(labels, splits, 0).tolist() == list(range(1000))
    assert len(stratified_subset(labels, splits, 5000)) == 1000
    with pytest.raises(CliplibError, match=r"^limit must be 0 \(all\) or a number of images, not -1\.$"):
        stratified_subset(labels, splits, -1)
    small = table().subset(6)
    assert set(small.splits) == {"train", "val", "test"} and small.provenance == table().provenance
    assert equal(table().subset(0), table())

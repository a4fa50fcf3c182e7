"""The feature table: rows stay together, readouts are slices, groups are never lost."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save, save_file

from cliplib.features.table import ROW_FIELDS, FeatureTable
from study.compact import save_compact


def make_table(n=12, d=4, **changes):
    columns = {
        "features": np.arange(n * d, dtype=np.float32).reshape(n, d),
        "labels": np.arange(n) % 3,
        "classes": ("a", "b", "c"),
        "ids": np.array([f"{i:02}" for i in range(n)]),
        "splits": np.array(["train", "test"] * (n // 2)),
        "copies": np.arange(n) // 2,
        "groups": np.arange(n) // 2,
        "provenance": {"encoder": "none"},
    }
    return FeatureTable(**(columns | changes))


def equal(a, b):
    return all((getattr(a, name) == getattr(b, name)).all() for name in ROW_FIELDS)


def test_rows_stay_together():
    table = make_table()
    for index in ([3, 1, 7], np.arange(12) > 8):
        part = table.select(index)
        numbers = part.ids.astype(int)
        assert (part.features[:, 0] == 4 * numbers).all()
        assert (part.labels == numbers % 3).all()
        assert (part.groups == numbers // 2).all()
        assert (part.copies == numbers // 2).all()


@pytest.mark.parametrize("y", [["a", "b"], [0, 1]])
def test_two_classes_of_one_name_are_refused(y):
    with pytest.raises(ValueError, match="Two classes are called 'a'"):
        FeatureTable.from_arrays(np.zeros((2, 3)), y, classes=("a", "b", "a"))


def test_a_split_that_is_not_there_names_the_remedy():
    assert set(make_table().split("train").splits) == {"train"}
    with pytest.raises(ValueError, match=r"test, train.*train_test_split"):
        make_table().split("val")


def test_without_published_splits_a_grouped_fifth_is_held_out():
    table = make_table(n=60, splits=np.full(60, ""))
    train, test = table.train_test_split(seed=1)
    assert len(train) + len(test) == 60
    assert 8 <= len(test) <= 16
    assert not set(train.groups) & set(test.groups)
    drawn = [table.train_test_split(**seed)[1] for seed in ({}, {"seed": 0})]
    assert equal(*drawn)  # 0 unless another is given
    assert drawn[0].ids.tolist() != test.ids.tolist()
    published = make_table().train_test_split()
    of_test_images = make_table(n=60, splits=np.full(60, "test"))
    assert all(len(part) for part in of_test_images.train_test_split())
    assert set(published[1].splits) == {"test"}
    assert set(make_table(n=60).train_test_split(published=False)[0].splits) >= {"test"}


def test_declared_groups_that_near_duplicates_merge_are_named(caplog):
    table = make_table()  # copies: two and two
    merged = table.with_groups(["x"] * 3 + ["y"] * 3 + ["z"] * 5 + ["w"])
    assert len(set(merged.groups)) == 2
    assert "4 become 2. 02 of x and 03 of y show the same" in caplog.text
    assert "the first of 2 such pairs of groups" in caplog.text
    caplog.clear()
    table.with_groups(np.arange(12) // 4)
    assert caplog.text == ""


def test_a_published_split_that_separates_groups_is_kept_with_a_warning(caplog):
    table = make_table(n=60, provenance={"dataset": "torn"})
    _, test = table.train_test_split()
    assert (test.splits == "test").all()
    assert "torn does not keep groups whole: 30 of 30 test images" in caplog.text
    assert "published=False" in caplog.text
    caplog.clear()
    table.train_test_split()  # said once
    whole = make_table(n=60, groups=np.arange(60), copies=np.arange(60))
    whole.train_test_split()
    train, test = table.train_test_split(published=False)
    assert not set(train.groups) & set(test.groups)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"labels": np.zeros(3, int)}, "labels"),
        ({"labels": np.arange(12) // 3}, "labels"),
        ({"labels": np.arange(12) % 3 - 1}, "labels"),
        ({"ids": np.full(12, "same")}, "ids"),
        ({"features": np.where(np.eye(12, 2) > 0, np.nan, 0)}, "'00'"),
        ({"features": np.zeros(12, np.float32)}, "features must be"),
        ({"copies": np.zeros(3, int)}, "copies"),
        (
            {"splits": np.array(["train", "Test"] * 6)},
            "The split of '01' must be",
        ),
    ],
)
def test_what_does_not_fit_together_is_named(changes, named):
    with pytest.raises(ValueError, match=named):
        make_table(**changes)


def test_columns_of_a_wider_table_are_saved_in_their_order(tmp_path):
    table = make_table()
    part = table.with_features(table.features[:, [2, 1]])
    part.save(tmp_path / "part.safetensors")
    assert equal(FeatureTable.load(tmp_path / "part.safetensors"), part)


def test_a_saved_table_comes_back_and_equal_tables_give_equal_bytes(tmp_path):
    table = make_table()
    table = replace(table, provenance={"encoder": "none", "dataset": "x"})
    table.save(tmp_path / "a")
    # In another order, which says nothing else.
    replace(table, provenance={"dataset": "x", "encoder": "none"}).save(tmp_path / "b")
    back = FeatureTable.load(tmp_path / "a")
    assert equal(table, back)
    assert (back.classes, back.provenance) == (table.classes, table.provenance)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_file_that_is_no_table_is_named(tmp_path):
    (tmp_path / "x").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="no feature table"):
        FeatureTable.load(tmp_path / "x")


def test_a_smaller_readout_bears_its_name():
    about = {"readout": "deep", "width": "4", "blocks": "2"}
    table = make_table(d=24, provenance=about).with_readout("pooled")
    assert table.readout == "pooled" and table.features.shape == (12, 4)
    assert "x 4 (pooled)" in repr(table) and "6 test, 6 train" in repr(table)
    with pytest.raises(ValueError, match="holds the readout 'pooled' alone"):
        table.with_readout("deep")


def test_features_of_other_kinds_become_float32():
    table = make_table().with_features(np.eye(12, 3), readout="own")
    assert table.features.dtype == np.float32 and table.readout == "own"
    assert make_table().with_features([[1, 2]] * 12).features.shape == (12, 2)


def test_other_features_are_no_readout_of_the_encoder():
    about = {"readout": "deep", "width": "4", "blocks": "2"}
    table = make_table(d=24, provenance=about)
    assert table.with_features(table.features * 2).readout == "own"
    assert table.with_features(table.features, readout="deep").readout == "deep"
    own = table.with_features(np.eye(12, 7))
    assert own.readout == "own" and "x 7 (own)" in repr(own)
    with pytest.raises(ValueError, match="the readout 'own' alone, not 'pooled'"):
        own.with_readout("pooled")


def test_a_compact_file_keeps_pooled_features_and_nearly_all_else(tmp_path):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(12, 24)).astype(np.float32)
    features[7] = features[2]  # a copy
    about = {"readout": "deep", "width": "4", "blocks": "2"}
    table = make_table(features=features, provenance=about)
    save_compact(table, tmp_path / "table")
    found = FeatureTable.load(tmp_path / "table")
    assert equal(found.with_features(features, readout="deep"), table)
    np.testing.assert_allclose(
        found.features, features, atol=np.abs(features).max() / 250
    )
    pooled = table.with_readout("pooled").features.astype(np.float16)
    assert (found.with_readout("pooled").features == pooled).all()
    assert (found.features[7] == found.features[2]).all()


@pytest.mark.parametrize(
    ("width", "rows"),
    [(10**9, [0] * 12), (4, [7] * 12)],  # wider than the file; of rows it lacks
)
def test_a_compact_file_that_says_what_it_has_not_is_refused(tmp_path, width, rows):
    table = make_table(d=24, provenance={"width": "4", "blocks": "2"})
    save_compact(table, tmp_path / "x")
    with safe_open(tmp_path / "x", framework="numpy") as file:
        metadata = file.metadata()
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    arrays["rows"] = 5 + np.array(rows, np.int32) if width == 4 else arrays["rows"]
    about = metadata["cliplib.FeatureTable"].replace('"4"', f'"{width}"')
    save_file(arrays, tmp_path / "y", {"cliplib.FeatureTable": about})
    with pytest.raises(ValueError, match="damaged"):
        FeatureTable.load(tmp_path / "y")


def test_a_compact_file_of_few_rows_that_are_many_is_refused(tmp_path):
    table = make_table(d=24, provenance={"width": "4", "blocks": "2"})
    equal = replace(table, features=np.ones_like(table.features))
    save_compact(equal, tmp_path / "x")
    with pytest.raises(ValueError, match="damaged"):
        FeatureTable.load(tmp_path / "x")


def test_rows_are_taken_by_number_slice_or_mask():
    table = make_table()
    assert table.select(slice(2)).ids.tolist() == ["00", "01"]
    assert table.select([3, 1]).ids.tolist() == ["03", "01"]
    assert table.select(-1).ids.tolist() == ["11"]
    assert table.select(table.labels == 2).ids.tolist() == ["02", "05", "08", "11"]
    assert len(table.select([])) == 0


def test_a_table_is_made_of_arrays_alone():
    table = FeatureTable.from_arrays(np.eye(4), ["b", "a", "b", "c"])
    assert table.classes == ("a", "b", "c")
    assert table.labels.tolist() == [1, 0, 1, 2]
    assert table.features.dtype == np.float32
    assert table.groups.tolist() == table.copies.tolist() == [0, 1, 2, 3]
    assert table.ids.tolist() == ["0", "1", "2", "3"]
    assert set(table.splits) == {""}


def test_a_table_of_arrays_takes_what_is_known():
    table = FeatureTable.from_arrays(
        np.eye(3),
        [2, 0, 2],
        groups=["anna", "ben", "anna"],
        classes=["x", "y", "z"],
        ids=["1.png", "2.png", "3.png"],
        splits=["train", "test", "train"],
    )
    assert table.labels.tolist() == [2, 0, 2]
    assert table.groups.tolist() == [0, 1, 0]
    assert table.split("test").ids.tolist() == ["2.png"]
    named = FeatureTable.from_arrays(np.eye(2), ["z", "x"], classes=["x", "y", "z"])
    assert named.labels.tolist() == [2, 0]
    read = FeatureTable.from_arrays(np.eye(2), np.array([b"cat", b"ant"]))  # as HDF5
    assert read.labels.tolist() == [1, 0]
    with pytest.raises(ValueError, match="'w' is not among the classes x, y"):
        FeatureTable.from_arrays(np.eye(2), ["w", "x"], classes=["x", "y"])
    with pytest.raises(ValueError, match="have no group"):
        FeatureTable.from_arrays(np.eye(2), [0, 1], groups=[1.0, np.nan])


@pytest.mark.parametrize(
    "labels", [[0.0, np.nan, 1.0], ["a", None, "b"], np.array(["a", np.nan], object)]
)
def test_an_unknown_label_is_no_class(labels):
    X = np.zeros((len(labels), 2))
    with pytest.raises(ValueError, match="1 of . images have no class.*row 1"):
        FeatureTable.from_arrays(X, labels)
    with pytest.raises(ValueError, match="1 of . images have no class.*row 1"):
        FeatureTable.from_arrays(X, labels, classes=["a", "b"])


def test_declared_groups_are_merged_with_copies():
    table = make_table(n=6).with_groups(["a", "b", "a", "c", "d", "e"])
    assert table.groups.tolist() == [0, 0, 0, 0, 1, 1]
    assert table.copies.tolist() == [0, 0, 1, 1, 2, 2]
    with pytest.raises(ValueError, match="have no group"):
        table.with_groups(["a", "", "a", "c", "d", "e"])


def test_an_older_file_calls_its_copies_groups(tmp_path):
    table = make_table()
    table.save(tmp_path / "new")
    arrays = load_file(tmp_path / "new")
    del arrays["copies"]
    arrays["folds"] = np.zeros(12, np.int64)  # which a table had until version 0.3
    about = (tmp_path / "new").read_bytes()
    length = int.from_bytes(about[:8], "little")
    metadata = json.loads(about[8 : 8 + length])["__metadata__"]
    save_file(arrays, tmp_path / "old", metadata=metadata)
    back = FeatureTable.load(tmp_path / "old")
    assert (back.copies == table.groups).all()
    assert (back.groups == table.groups).all()


def test_a_compact_file_of_no_rows_comes_back(tmp_path):
    about = {"readout": "deep", "width": "4", "blocks": "2"}
    table = make_table(d=24, provenance=about).select([])
    save_compact(table, tmp_path / "x")
    assert FeatureTable.load(tmp_path / "x").features.shape == (0, 24)


def large_table(n=2000, d=1000):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(n, d)).astype(np.float32)
    return FeatureTable.from_arrays(features, np.arange(n) % 3, classes=list("abc"))


def test_a_file_is_what_safetensors_would_write(tmp_path):
    table = replace(
        large_table(20, 7), provenance={"dataset": "Eßbares", "readout": "own"}
    )
    table.save(tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", framework="numpy") as file:
        metadata = file.metadata()
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert (tmp_path / "a.safetensors").read_bytes() == save(arrays, metadata)
    np.testing.assert_array_equal(arrays["features"], table.features)


def test_features_stored_by_column_come_back_by_row(tmp_path):
    table = large_table(200, 10)
    by_column = table.with_features(np.asfortranarray(table.features))
    by_column.save(tmp_path / "a")
    loaded = FeatureTable.load(tmp_path / "a")
    np.testing.assert_array_equal(loaded.features, table.features)


def test_features_that_an_older_release_saved_in_float16_are_read_as_float32(tmp_path):
    table = large_table(20, 7)
    table.save(tmp_path / "a")
    with safe_open(tmp_path / "a", framework="numpy") as file:
        metadata = file.metadata()
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    arrays["features"] = arrays["features"].astype(np.float16)
    (tmp_path / "half").write_bytes(save(arrays, metadata))
    loaded = FeatureTable.load(tmp_path / "half")
    assert loaded.features.dtype == np.float32
    np.testing.assert_array_equal(loaded.features, arrays["features"])


@pytest.mark.parametrize(
    "given", [{"ids": ["a", "b\n", "c"]}, {"y": ["\u202ea", "b", "b"]}]
)
def test_names_that_cannot_be_shown_as_they_are_are_refused(given) -> None:
    with pytest.raises(ValueError, match=r"The name '.*\\(n|u202e).*rename it"):
        FeatureTable.from_arrays(**{"X": np.eye(3), "y": ["a", "b", "b"], **given})


def test_what_cannot_be_split_is_named_and_not_numbered():
    table = FeatureTable.from_arrays(np.eye(5), ["cat"] * 4 + ["dog"])
    with pytest.raises(ValueError, match="Class dog has too few images"):
        table.train_test_split()

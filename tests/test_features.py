"""The feature table: rows stay together, readouts are slices, precomputed features are checked."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cliplib.encoder import ClipEncoder
from cliplib.extract import load_features
from cliplib.features import FeatureTable
from cliplib.splits import stratified_subset


def make_table(n=12, d=4, **changes):
    columns = {
        "features": np.arange(n * d, dtype=np.float32).reshape(n, d),
        "labels": np.arange(n) % 3,
        "classes": ("a", "b", "c"),
        "ids": np.array([f"{i:02}" for i in range(n)]),
        "splits": np.array(["train", "test"] * (n // 2)),
        "groups": np.arange(n) // 2,
        "provenance": {"encoder": "none"},
    }
    return FeatureTable(**(columns | changes))


def equal(a, b):
    names = ("features", "labels", "ids", "splits", "groups")
    return all((getattr(a, name) == getattr(b, name)).all() for name in names)


def test_rows_stay_together():
    table = make_table()
    for index in ([3, 1, 7], np.arange(12) > 8):
        part = table.select(index)
        numbers = part.ids.astype(int)
        assert (part.features[:, 0] == 4 * numbers).all()
        assert (part.labels == numbers % 3).all()
        assert (part.groups == numbers // 2).all()


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
    published = make_table().train_test_split()
    assert set(published[1].splits) == {"test"}
    assert set(make_table(n=60).train_test_split(published=False)[0].splits) >= {"test"}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"labels": np.zeros(3, int)}, "labels"),
        ({"labels": np.full(12, 3)}, "labels"),
        ({"ids": np.full(12, "same")}, "ids"),
        ({"features": np.full((12, 2), np.nan, np.float32)}, "'00'"),
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
    table.save(tmp_path / "a")
    table.save(tmp_path / "b")
    back = FeatureTable.load(tmp_path / "a")
    assert equal(table, back)
    assert (back.classes, back.provenance) == (table.classes, table.provenance)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_file_that_is_no_table_is_named(tmp_path):
    (tmp_path / "x").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="no feature table"):
        FeatureTable.load(tmp_path / "x")


def test_readouts_of_a_table_are_those_of_the_encoder(tiny, image_folder):
    folder = image_folder(n=3)
    table = load_features(folder, tiny)
    paths = [folder / name for name in table.ids]
    for readout in ("pooled", "dinov2", "deep"):
        assert (
            table.with_readout(readout).features == tiny.images(paths, readout=readout)
        ).all()
    with pytest.raises(ValueError, match="'pooled' alone"):
        table.with_readout("pooled").with_readout("deep")


def test_images_get_groups_labels_and_splits(tiny, image_folder):
    folder = image_folder(n=3, splits=("train", "test"))
    twin = folder / "test" / "disc" / "copy.png"
    twin.write_bytes((folder / "train" / "disc" / "disc0.png").read_bytes())
    table = load_features(folder, tiny)
    assert len(table) == 19
    assert len(np.unique(table.groups)) == 18
    first = table.groups[table.ids == "train/disc/disc0.png"]
    assert table.groups[table.ids == "test/disc/copy.png"] == first
    assert [table.classes[k] for k in table.labels] == [
        i.split("/")[1] for i in table.ids
    ]
    assert "19 images" in repr(table)
    assert "10 test" in repr(table)


def test_no_image_is_left_out_in_silence(tiny, image_folder):
    folder = image_folder(n=3)
    (folder / "disc" / "disc1.png").write_bytes(b"broken")
    with pytest.raises(OSError, match=r"disc1\.png"):
        load_features(folder, tiny)
    errors: dict[str, str] = {}
    table = load_features(folder, tiny, errors=errors)
    assert list(errors) == ["disc/disc1.png"]
    assert len(table) == 8
    assert "disc/disc1.png" not in table.ids


def test_the_limit_keeps_classes_and_splits(tiny, image_folder):
    table = load_features(image_folder(n=10, splits=("train", "test")), tiny, limit=24)
    assert len(table) == 24
    assert np.bincount(table.labels).tolist() == [8, 8, 8]


def test_precomputed_features_stand_in_for_images(mini, caplog):
    with caplog.at_level(logging.INFO):
        table = load_features("trashnet", mini)
    assert len(table) == 2527
    assert table.provenance["source"] == "precomputed"
    assert table.with_readout("pooled").features.shape == (2527, mini.dim)
    assert "precomputed" in caplog.text


def test_precomputed_features_of_another_encoder_are_refused(tiny):
    with pytest.raises(ValueError, match="name a folder with the images"):
        load_features("trashnet", tiny)


def test_encoding_again_gives_the_same_bits(checkpoint, image_folder):
    folder, encoder = image_folder(n=4), ClipEncoder(checkpoint)
    first, again = load_features(folder, encoder), load_features(folder, encoder)
    fresh = load_features(folder, ClipEncoder(checkpoint, cache=False))
    assert equal(first, again)
    assert equal(first, fresh)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=80), st.integers(0, 100))
def test_a_subset_keeps_two_of_every_class_in_every_split(labels, limit):
    y, splits = np.array(labels), np.array(["a", "b"])[np.arange(len(labels)) % 2]
    rows = stratified_subset(y, splits, limit)
    assert (np.diff(rows) > 0).all()
    for label in np.unique(y):
        for split in ("a", "b"):
            there = ((y == label) & (splits == split)).sum()
            kept = ((y[rows] == label) & (splits[rows] == split)).sum()
            assert kept >= min(2, there)
    assert (rows == stratified_subset(y, splits, limit)).all()


def test_a_compact_file_keeps_pooled_features_and_nearly_all_else(tmp_path):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(12, 24)).astype(np.float32)
    features[7] = features[2]  # a copy
    about = {"readout": "deep", "width": "4", "blocks": "2"}
    table = make_table(features=features, provenance=about)
    table.save(tmp_path / "table", compact=True)
    found = FeatureTable.load(tmp_path / "table")
    assert equal(found.with_features(features), table)
    np.testing.assert_allclose(
        found.features, features, atol=np.abs(features).max() / 250
    )
    pooled = table.with_readout("pooled").features.astype(np.float16)
    assert (found.with_readout("pooled").features == pooled).all()
    assert (found.features[7] == found.features[2]).all()

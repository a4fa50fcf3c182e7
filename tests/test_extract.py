"""From a data set to its table: images are encoded, or committed features taken."""

from __future__ import annotations

import logging
import shutil

import numpy as np
import pandas as pd
import pytest

from cliplib.data.datasets import load_dataset
from cliplib.data.image import UnreadableImage
from cliplib.encoders.clip import ClipEncoder
from cliplib.features.encode import encode, encode_dataset
from cliplib.features.table import ROW_FIELDS, FeatureTable
from study.data import DATASETS, PRECOMPUTED
from study.features import (
    MissingImages,
    load_available,
    load_features,
    with_copies,
    with_patients,
)
from study.subset import drawn_images


def equal(a, b):
    return all((getattr(a, name) == getattr(b, name)).all() for name in ROW_FIELDS)


def test_readouts_of_a_table_are_those_of_the_encoder(tiny, image_folder):
    folder = image_folder(n=3)
    table = load_features(folder, tiny)
    paths = [folder / name for name in table.ids]
    for readout in ("pooled", "deep"):
        assert (
            table.with_readout(readout).features
            == tiny.encode_images(paths, readout=readout)
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
    errors: dict[str, UnreadableImage] = {}
    table = load_features(folder, tiny, errors=errors)
    assert list(errors) == ["disc/disc1.png"]
    assert len(table) == 8
    assert "disc/disc1.png" not in table.ids


def test_misspelt_copies_are_refused_before_a_model_is_loaded(image_folder):
    with pytest.raises(ValueError, match="nera"):
        encode(image_folder(n=1), "no model", copies="nera")


def test_pairs_and_hashes_are_of_the_images_that_can_be_read(tiny, image_folder):
    folder = image_folder(n=3)
    (folder / "disc" / "disc0.png").write_bytes(b"broken")
    shutil.copy(folder / "disc" / "disc2.png", folder / "square" / "copy.png")
    encoded = encode_dataset(load_dataset(folder), tiny, errors={})
    ids = encoded.table.ids
    assert encoded.dataset["id"][:] == ids.tolist()
    assert len(encoded.hashes) == len(ids) == 9
    (pair,) = encoded.pairs.to_dict("records")
    assert ids[pair["index_a"]] == "disc/disc2.png"
    assert ids[pair["index_b"]] == "square/copy.png"
    hashes = [bytes(encoded.hashes[pair[index]]) for index in ("index_a", "index_b")]
    assert hashes[0] == hashes[1]


def test_a_class_of_which_no_image_can_be_read_counts_none(tiny, image_folder):
    folder = image_folder(n=2)
    for path in (folder / "disc").iterdir():
        path.write_bytes(b"broken")
    counts = encode_dataset(load_dataset(folder), tiny, errors={}).counts
    assert counts.loc["disc"].tolist() == [0, 0, 0]
    assert counts.loc["square"].tolist() == [2, 2, 2]


def test_the_limit_keeps_classes_and_splits(tiny, image_folder):
    folder = image_folder(n=10, splits=("train", "test"))
    table = load_features(folder, tiny, limit=24)
    assert len(table) == 24
    assert np.bincount(table.labels).tolist() == [8, 8, 8]
    same, other = (load_features(folder, tiny, limit=24, seed=seed) for seed in (0, 1))
    assert same.ids.tolist() == table.ids.tolist() != other.ids.tolist()
    assert drawn_images(folder, 24)["id"][:] == table.ids.tolist()
    assert drawn_images(folder, 0) == folder


def test_precomputed_features_stand_in_for_images(mini, caplog):
    with caplog.at_level(logging.INFO):
        table = load_features("trashnet", mini)
    assert len(table) == 2527
    assert table.provenance["source"] == "precomputed"
    assert table.with_readout("pooled").features.shape == (2527, mini.width)
    assert "precomputed" in caplog.text


def test_precomputed_features_of_another_encoder_are_refused(tiny):
    with pytest.raises(ValueError, match="name a folder with the images"):
        load_features("trashnet", tiny)


def test_encoding_again_gives_the_same_bits(checkpoint, image_folder):
    folder, encoder = image_folder(n=4), ClipEncoder(checkpoint)
    first, again = load_features(folder, encoder), load_features(folder, encoder)
    fresh = load_features(folder, ClipEncoder(checkpoint, cache=None))
    assert equal(first, again)
    assert equal(first, fresh)


def some_table(copies):
    n = len(copies)
    table = FeatureTable.from_arrays(np.eye(n), [0, 1] * (n // 2), ids=[*"abcdef"[:n]])
    return with_copies_of(table, copies)


def with_copies_of(table, copies):
    return FeatureTable(
        **{name: getattr(table, name) for name in ROW_FIELDS}
        | {"copies": np.array(copies), "groups": np.array(copies)},
        classes=table.classes,
    )


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n")
    return path


def test_copies_are_those_of_the_file_by_id(tmp_path):
    table = some_table([0, 1, 2, 3])
    path = write(tmp_path / "x_groups.csv", "id,group", "d,7", "c,9", "b,7", "a,8")
    found = with_copies(table, path)
    assert found.copies.tolist() == found.groups.tolist() == [0, 1, 2, 1]
    path = write(tmp_path / "x_groups.csv", "id,group", "a,0")
    with pytest.raises(ValueError, match=r"x_groups\.csv lacks 3 of 4 images.*'b'"):
        with_copies(table, path)
    assert with_copies(table, tmp_path / "none.csv") is table


def test_patients_join_copies_and_give_their_folds(tmp_path):
    table = some_table([0, 0, 1, 2, 3, 4])
    path = write(tmp_path / "p.csv", "id,patient,fold", "a,5,2", "c,5,2", "f,6,1")
    found = with_patients(table, path)
    # b is a copy of a; of d and e nothing is known, and they are no common patient.
    assert found.groups.tolist() == [0, 0, 0, 1, 2, 3]
    assert found.folds.tolist() == [2, 2, 2, 0, 0, 1]
    assert found.copies.tolist() == table.copies.tolist()
    assert with_patients(table, tmp_path / "none.csv") is table


def test_a_group_that_published_folds_tear_apart_is_dealt_anew(tmp_path, caplog):
    table = some_table([0, 0, 1, 2])
    path = write(tmp_path / "p.csv", "id,patient,fold", "a,5,2", "b,6,1", "c,7,1")
    found = with_patients(table, path)
    assert found.folds.tolist() == [0, 0, 1, 0]
    assert "2 images" in caplog.text
    write(path, "id,patient,fold", "a,5,two")
    with pytest.raises(ValueError, match="fold that is no number"):
        with_patients(table, path)


@pytest.mark.parametrize("name", list(DATASETS))
def test_committed_groups_and_patients_are_those_of_the_table(name, mini):
    table = load_features(name, mini)
    path = PRECOMPUTED / f"{name}_groups.csv"
    if path.is_file():
        listed = pd.read_csv(path)
        assert listed["id"].tolist() == table.ids.tolist()
        assert listed["group"].nunique() == len(np.unique(table.copies))
    path = PRECOMPUTED / f"{name}_patients.csv"
    if path.is_file():
        listed = pd.read_csv(path).set_index("id")
        assert set(listed.index) <= set(table.ids)
        groups = pd.Series(table.groups, table.ids)[listed.index]
        assert groups.groupby(listed["patient"]).nunique().max() == 1
        folds = pd.Series(table.folds, table.ids)[listed.index]
        assert (folds == listed["fold"]).all()


def test_objects_of_one_photograph_are_one_group(mini):
    table = load_features("waste_aquatrash", mini)
    assert (len(table), len(np.unique(table.groups))) == (183, 118)
    photos = pd.Series(table.ids).str.extract(r"/\d+_(.*)\.jpg$")[0]
    assert photos.groupby(table.groups).nunique().max() == 1


def test_a_folder_that_is_called_like_a_named_set_has_none_of_its_groups(
    tiny, image_folder
):
    folder = image_folder(n=3, name="waste_aquatrash")
    table = load_features(folder, tiny)
    assert table.groups.tolist() == table.copies.tolist()


@pytest.fixture
def trashnet(image_folder, tmp_path):
    """Make a copy of TrashNet of one image a class, with ids that are committed."""
    for name in DATASETS["trashnet"].phrases:
        source = next(image_folder(n=1, name=f"x{name}").rglob("*.png"))
        (tmp_path / "data/trashnet" / name).mkdir(parents=True)
        source.rename(tmp_path / "data/trashnet" / name / f"{name}1.jpg")
    return tmp_path / "data"


def test_committed_features_win_over_images_unless_told_otherwise(mini, trashnet):
    table = load_features("trashnet", mini, data=trashnet)
    assert len(table) == 6 and table.provenance["source"] == "precomputed"
    fresh = load_features("trashnet", mini, data=trashnet, precomputed=False)
    assert len(fresh) == 6 and fresh.provenance["source"] == "folder"
    with pytest.raises(ValueError, match="no images of 'trashnet'"):
        load_features("trashnet", mini, precomputed=False)


def test_other_images_than_the_committed_ones_are_all_encoded(mini, trashnet):
    known = trashnet / "trashnet" / "glass" / "glass1.jpg"
    known.rename(known.with_name("a_new_one.jpg"))
    table = load_features("trashnet", mini, data=trashnet)
    assert len(table) == 6 and table.provenance["source"] == "folder"
    assert "glass/a_new_one.jpg" in table.ids


def test_images_of_a_named_set_are_encoded_where_the_features_are_another_s(
    tiny, trashnet
):
    assert len(load_features("trashnet", tiny, data=trashnet)) == 6


def test_patients_of_encoded_images_come_from_the_file(tiny, image_folder, tmp_path):
    listed = pd.read_csv(PRECOMPUTED / "brain_tumor_mri_patients.csv")
    per_patient = listed.groupby("patient")["id"].agg(list)
    ids = next(ids for ids in per_patient if len(ids) > 1)[:2]
    for number, name in enumerate([*ids, "Testing/notumor/n.jpg"]):
        path = tmp_path / "data/brain_tumor_mri" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        source = image_folder(n=1, name=f"x{number}", seed=number) / "disc/disc0.png"
        source.rename(path)
    for kind in ("glioma", "meningioma", "pituitary"):
        folder = tmp_path / "data/brain_tumor_mri/Testing" / kind
        if not folder.exists():
            folder.mkdir()
            image = image_folder(n=1, name=kind, seed=len(kind)) / "disc/disc0.png"
            image.rename(folder / "other.jpg")
    table = load_features("brain_tumor_mri", tiny, data=tmp_path / "data")
    rows = np.isin(table.ids, ids)
    assert len(set(table.groups[rows])) == 1
    assert len(set(table.copies)) == len(table)
    assert len(set(table.groups)) == len(table) - 1
    assert (table.folds[rows] > 0).all() and not table.folds[~rows].any()


def test_declared_groups_are_merged_with_near_duplicates(tiny, image_folder):
    folder = image_folder(n=4)
    twin = folder / "disc" / "disc9.png"
    twin.write_bytes((folder / "disc" / "disc0.png").read_bytes())
    pattern = r"((?:disc|square)[123])\.png|(?:disc|square|stripes)\d"
    with pytest.raises(ValueError, match="do not cover"):
        load_features(folder, tiny, groups=pattern)
    table = load_features(folder, tiny, groups=r"(\d)\.png")
    group = dict(zip(table.ids, table.groups, strict=True))
    # Of several classes, and a copy brings its group along.
    assert group["disc/disc1.png"] == group["stripes/stripes1.png"]
    assert group["disc/disc9.png"] == group["square/square0.png"]
    assert len(set(table.groups)) == 4


def test_declared_groups_are_checked_before_anything_is_encoded(image_folder):
    folder = image_folder(n=2)
    with pytest.raises(ValueError, match="do not cover 6 of 6"):
        load_features(folder, None, groups="(photo_of_.*)", limit=3)


def test_declared_groups_of_committed_features(mini):
    table = load_features("trashnet", mini, groups=r"(\d+)\.jpg", limit=300)
    assert len(table) < 400
    assert len(set(table.groups)) < len(set(table.copies))


def test_of_unreadable_images_alone_there_is_no_table(tiny, image_folder):
    folder = image_folder(n=1)
    for path in folder.rglob("*.png"):
        path.write_bytes(b"broken")
    with pytest.raises(ValueError, match="No image of 'images' can be read"):
        load_features(folder, tiny, errors={})


def test_sets_that_are_not_here_are_left_out_with_a_warning(
    tiny, trashnet, caplog, monkeypatch
):
    names = ("waste_aquatrash", "trashnet")
    with pytest.raises(MissingImages):
        load_available(names, tiny)
    monkeypatch.setenv("CLIPLIB_DATA", str(trashnet))
    assert [*load_available(names, tiny)] == ["trashnet"]
    assert "Without waste_aquatrash: " in caplog.text


def test_a_seed_is_a_whole_number(image_folder, tiny):
    with pytest.raises(ValueError, match="seed='one' must be a whole number"):
        load_features(image_folder(n=1), tiny, seed="one")

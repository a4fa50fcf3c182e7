"""Images from anywhere: one door, the same table, and a sentence for each misuse."""

from __future__ import annotations

import errno
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets.exceptions import (
    DatasetGenerationCastError,
    DatasetGenerationError,
    DatasetNotFoundError,
)
from datasets.table import CastError
from fake_hub import FakeHub
from PIL import Image

from cliplib.aids.decision_aid import DecisionAid
from cliplib.data.datasets import load_dataset
from cliplib.data.declared_groups import declared_groups
from cliplib.encoders.clip import ClipEncoder
from cliplib.features.audit import audit_dataset
from cliplib.features.duplicates import find_near_duplicates
from cliplib.features.encode import encode, encode_dataset
from cliplib.features.table import FeatureTable
from cliplib.inspection.search import search
from cliplib.inspection.zero_shot import zero_shot
from cliplib.probes.linear import LinearProbe

CLASSES = ("disc", "square", "stripes")


@pytest.fixture
def folder(image_folder) -> Path:
    return image_folder(n=4, splits=("train", "test"))


@pytest.fixture
def expected(folder, tiny) -> FeatureTable:
    return encode(folder, tiny)


def as_frame(folder: Path) -> pd.DataFrame:
    """Return the table of the folder's files, with labels and splits."""
    listed = load_dataset(folder)
    names = listed.features["label"].names
    return pd.DataFrame(
        {
            "file": listed["id"][:],
            "label": [names[label] for label in listed["label"]],
            "split": listed["split"][:],
        }
    )


def as_splits(folder: Path) -> datasets.DatasetDict:
    """Return the folder as `datasets` itself reads it, images decoded."""
    return datasets.load_dataset("imagefolder", data_dir=str(folder))


def assert_same(found: FeatureTable, expected: FeatureTable) -> None:
    """Check that tables hold the same images, in whatever order and by other ids."""
    assert found.classes == expected.classes == CLASSES
    for one, two in ((found, expected), (expected, found)):
        for row in range(len(one)):
            alike = np.isclose(two.features, one.features[row], atol=1e-5).all(axis=1)
            assert two.labels[alike].tolist() == [one.labels[row]] * alike.sum()
            assert one.splits[row] in two.splits[alike]


def test_a_table_row_without_a_file_is_named(folder):
    frame = as_frame(folder)
    frame.loc[2, "file"] = ""
    frame.to_csv(folder / "files.csv", index=False)
    with pytest.raises(ValueError, match=r"files\.csv names no file in its row 3"):
        load_dataset(folder / "files.csv")


def test_a_table_of_files_is_a_source(folder, tiny, expected, tmp_path):
    frame = as_frame(folder)
    frame.to_csv(folder / "files.csv", index=False, sep=";")
    assert_same(encode(folder / "files.csv", tiny), expected)
    frame["file"] = [str(folder / name) for name in frame["file"]]
    assert_same(encode(frame, tiny), expected)
    renamed = frame.rename(columns={"file": "path", "label": "kind"})
    named = {"image_column": "path", "label_column": "kind"}
    assert_same(encode(renamed, tiny, **named), expected)
    frame["group"] = ["one", "two"] * (len(frame) // 2)
    grouped = encode(frame, tiny)
    assert len(np.unique(grouped.groups)) <= 2 < len(np.unique(expected.groups))
    frame.loc[3, "group"] = ""
    with pytest.raises(ValueError, match="1 of 24 images of table have no group"):
        encode(frame, tiny)


def test_one_of_two_columns_of_images_must_be_named(folder, tiny):
    frame = as_frame(folder)
    files = [str(folder / name) for name in frame["file"]]
    kinds = {"image": datasets.Image(), "mask": datasets.Image()}
    two = datasets.Dataset.from_dict(
        {"image": files, "mask": files, "label": frame["label"].tolist()},
        datasets.Features({**kinds, "label": datasets.Value("string")}),
    )
    with pytest.raises(ValueError, match="image, mask, label: name it by image_column"):
        encode(two, tiny)
    assert len(encode(two, tiny, image_column="image")) == len(two)


@pytest.mark.parametrize("option", ["image_column", "label_column"])
def test_a_folder_has_no_columns_to_name(folder, option):
    with pytest.raises(ValueError, match=f"is a folder.*leave .*{option}"):
        load_dataset(folder, **{option: "kind"})


def test_a_data_set_and_its_splits_are_sources(folder, tiny, expected):
    splits = as_splits(folder)
    assert_same(encode(splits, tiny), expected)
    train = encode(splits, tiny, split="train")
    assert set(train.splits) == {"train"} and len(train) == 12
    alone = encode(splits["train"], tiny)
    assert set(alone.splits) == {""} and len(alone) == 12
    listed = load_dataset(folder)
    again = load_dataset(listed)  # what came through the door goes through again
    assert again["id"][:] == listed["id"][:] and again.features == listed.features


def test_labels_may_be_texts_and_columns_have_other_names(folder, tiny, expected):
    splits = as_splits(folder)
    names = splits["train"].features["label"].names
    texts = splits.map(lambda row: {"kind": names[row["label"]]})
    texts = texts.remove_columns("label").rename_column("image", "photo")
    with pytest.raises(ValueError, match=r"name it by label_column \(--label-column"):
        load_dataset(texts)
    assert_same(encode(texts, tiny, label_column="kind"), expected)


def test_each_misuse_has_its_sentence(folder, tmp_path):
    splits = as_splits(folder)
    frame = as_frame(folder)
    with pytest.raises(TypeError, match="cannot come from a int: give a folder"):
        load_dataset(7)
    with pytest.raises(ValueError, match="has no split 'dev', but test, train"):
        load_dataset(splits, split="dev")
    with pytest.raises(ValueError, match="has no split 'dev', but test, train"):
        load_dataset(folder, split="dev")
    with pytest.raises(ValueError, match="Only a data set of the hub has a revision"):
        load_dataset(folder, revision="v2")
    with pytest.raises(ValueError, match="no column 'label', but file, split"):
        load_dataset(frame.drop(columns="label"))
    twice = pd.concat([frame, frame[:1]]).assign(
        file=lambda rows: [str(folder / name) for name in rows["file"]]
    )
    with pytest.raises(ValueError, match="twice: leave one out"):
        load_dataset(twice)
    with pytest.raises(FileNotFoundError, match="is no folder.* hf://datasets/OWNER/"):
        load_dataset("owner/digits")
    unlabelled = splits["train"].cast_column(
        "label", datasets.ClassLabel(names=list(CLASSES))
    )
    rows = [{"image": unlabelled[0]["image"], "label": -1}]
    none = datasets.Dataset.from_list(rows, features=unlabelled.features)
    with pytest.raises(ValueError, match="has no label: leave it out"):
        load_dataset(none)


def test_the_same_images_are_compared_once(image_folder, checkpoint, monkeypatch):
    folder = image_folder()
    source = next(Path(folder).rglob("*.png"))
    again = source.with_name("again.png")
    again.write_bytes(source.read_bytes())
    encoder = ClipEncoder(checkpoint)
    first = encode_dataset(load_dataset(folder), encoder)
    assert len(first.pairs)
    monkeypatch.setattr("cliplib.features.encode.find_near_duplicates", None)
    second = encode_dataset(load_dataset(folder), encoder)
    pd.testing.assert_frame_equal(second.pairs, first.pairs)
    with monkeypatch.context() as patch, pytest.raises(TypeError):  # by other code
        patch.setattr("cliplib.features.encode.__file__", str(folder / "none.py"))
        encode_dataset(load_dataset(folder), encoder)
    with pytest.raises(TypeError):  # other copies are sought
        encode_dataset(load_dataset(folder), encoder, copies=0.9)
    again.unlink()
    with pytest.raises(TypeError):  # among other images
        encode_dataset(load_dataset(folder), encoder)


def test_a_source_without_images_is_refused(folder, tmp_path):
    frame = as_frame(folder)[:0]
    frame.to_csv(tmp_path / "empty.csv", index=False)
    empty = as_splits(folder)["train"].select([])
    for source in (frame, tmp_path / "empty.csv", empty, {"train": empty}):
        with pytest.raises(ValueError, match="holds no image: name files"):
            load_dataset(source)
    with pytest.raises(ValueError, match="The data set has no split"):
        load_dataset(datasets.DatasetDict())


def test_ids_that_each_split_counts_anew_get_its_name(folder):
    rows = {"image": ["a.png", "b.png"], "label": ["cat", "dog"], "id": [0, 1]}
    train = datasets.Dataset.from_dict(rows)
    test = datasets.Dataset.from_dict(rows | {"id": [1, 2]})
    ids = ["train/0", "train/1", "test/1", "test/2"]
    assert load_dataset({"train": train, "test": test})["id"][:] == ids
    assert load_dataset({"train": train})["id"][:] == ["0", "1"]
    twice = datasets.Dataset.from_dict(rows | {"id": [1, 1]})
    with pytest.raises(ValueError, match=" names 1 twice"):
        load_dataset(twice)


def test_a_column_may_be_added_to_a_data_set_on_the_disk(folder):
    splits = as_splits(folder)
    for name, part in splits.items():
        splits[name] = part.add_column("group", [f"{name} {n // 2}" for n in range(12)])
    assert load_dataset(splits["test"])["group"][:3] == ["test 0", "test 0", "test 1"]
    assert load_dataset(splits)["group"][11:13] == ["train 5", "test 0"]


def test_a_tilde_is_left_to_the_shell_wherever_a_path_is_read(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    as_frame(folder).to_csv(folder / "files.csv", index=False)
    for name in ("~", "~/files.csv"):
        with pytest.raises(FileNotFoundError, match="is no folder"):
            load_dataset(name)
    with pytest.raises(FileNotFoundError):
        declared_groups(["1.jpg"], "~/files.csv")


def test_the_first_line_of_a_table_may_begin_with_a_hash(folder):
    table = as_frame(folder).rename(columns={"file": "#file"})
    table.to_csv(folder / "files.csv", index=False)
    listed = load_dataset(folder / "files.csv", image_column="#file")
    assert listed["id"][:] == table["#file"].tolist()


def test_a_data_set_of_the_hub_is_a_source(
    folder, tiny, expected, monkeypatch, tmp_path
):
    asked = []

    def of_hub(name, revision):
        asked.append((name, revision))
        if name == "nobody/nothing":
            raise ConnectionError(f"Couldn't reach '{name}' on the Hub")
        if name == "owner/several":
            raise ValueError("Config name is missing.\nPick one among ['a', 'b']")
        return as_splits_of_home

    as_splits_of_home = as_splits(folder)
    monkeypatch.setattr(datasets, "load_dataset", of_hub)
    found = encode("hf://datasets/owner/shapes", tiny, revision="v1")
    assert_same(found, expected)
    assert asked == [("owner/shapes", "v1")]
    with pytest.raises(OSError, match="HF_HUB_OFFLINE or .* forbids a download"):
        load_dataset("hf://datasets/nobody/nothing")
    hub = FakeHub(tmp_path)
    hub.use(monkeypatch, tmp_path / "hub cache")
    with pytest.raises(OSError, match="datasets/nobody/nothing is not there, or not"):
        load_dataset("hf://datasets/nobody/nothing")
    hub.end()
    with pytest.raises(ValueError, match="Config name is missing"):
        load_dataset("hf://datasets/owner/several")


@pytest.mark.parametrize(
    ("error", "cause", "told"),
    [
        (DatasetNotFoundError("'o/n' is gated."), None, "not there, or not for you"),
        (
            DatasetGenerationError("An error occurred"),
            OSError(errno.ENOSPC, "No space left on device"),
            r"cannot be written to \(No space left on device\): make room",
        ),
        (
            RuntimeError("Dataset scripts are no longer supported, but found n.py"),
            None,
            "o/n: Dataset scripts are no longer supported, but found n.py.$",
        ),
        (DatasetGenerationError("An error"), ValueError("Bad column"), "Bad column.$"),
        (
            DatasetGenerationCastError.from_cast_error(
                CastError(
                    "Couldn't cast",
                    table_column_names=["image", "kind"],
                    requested_column_names=["image"],
                ),
                "csv",
                {},
                token=None,
            ),
            None,
            r"o/n: All the data files must have .* 1 new columns \({'kind'}\)\.$",
        ),
    ],
)
def test_what_the_library_of_data_sets_hides_is_told(
    error, cause, told, monkeypatch, tmp_path
):
    def failing(name, revision):
        raise error from cause

    monkeypatch.setattr(datasets, "load_dataset", failing)
    (tmp_path / "datasets" / "o" / "n").mkdir(parents=True)
    hub = FakeHub(tmp_path)
    hub.use(monkeypatch, tmp_path / "hub cache")
    with pytest.raises(OSError, match=told):
        load_dataset("hf://datasets/o/n")
    hub.end()


def test_other_verbs_take_any_source(folder, tiny):
    frame = as_frame(folder)
    paths = [folder / name for name in frame["file"]]
    frame["file"] = [str(path) for path in paths]
    of_frame, of_folder = audit_dataset(frame), audit_dataset(folder)
    assert (of_frame.summary["count"] == of_folder.summary["count"]).all()
    copy = folder.parent / "copy.png"
    Image.open(paths[0]).save(copy)
    pairs = find_near_duplicates([paths[0], paths[5], copy])
    assert [*pairs.index_a] == [0] and [*pairs.index_b] == [2]
    assert (pairs.kind == "exact").all()


def test_words_search_a_table(expected, tiny):
    rows, cosines = search("three", expected, 2, encoder=tiny)
    assert rows.shape == cosines.shape == (1, 2)
    projected = tiny.project(expected.with_readout("pooled").features)
    best = (projected @ tiny.encode_texts("three")[0]).argmax()
    assert rows[0, 0] == best
    other = replace(expected, provenance={"model_fingerprint": "0" * 64})
    with pytest.raises(ValueError, match="made by another encoder than"):
        search("three", other, 2, encoder=tiny)


def test_texts_and_tables_need_the_encoder_itself(expected, tiny):
    for words in ("three", ["three", "four"]):
        with pytest.raises(ValueError, match="Give encoder=, what made the gallery"):
            search(words, expected)
    with pytest.raises(TypeError, match="str is no encoder"):
        search("three", expected, encoder="mini")
    with pytest.raises(TypeError, match="str is no encoder"):
        DecisionAid.fit(expected, "mini", probe=LinearProbe())
    with pytest.raises(TypeError, match="FeatureTable is no encoder"):
        DecisionAid.fit(tiny, expected, probe=LinearProbe())
    with pytest.raises(TypeError, match="FeatureTable is no encoder"):
        zero_shot(expected, tiny, CLASSES)


def test_images_are_encoded_as_a_table_of_them_is(expected, folder, tiny):
    paths = [folder / name for name in expected.ids]
    features = tiny.encode_images(paths, progress=False)
    np.testing.assert_allclose(features, expected.features, atol=1e-5)
    probe = LinearProbe(Cs=(1.0,)).fit(expected.features, expected.labels)
    assert probe.predict(features).shape == (len(paths),)


def test_what_is_no_image_and_no_pooled_feature_is_told(folder, tiny, expected):
    splits = as_splits(folder)
    with pytest.raises(TypeError, match=r"give its column, dataset\['image'\]"):
        tiny.encode_images(splits["train"])
    assert len(tiny.encode_images(splits["train"]["image"])) == len(splits["train"])
    with pytest.raises(ValueError, match=r"project takes pooled features, \(n, 32\)"):
        tiny.project(expected.features)


def test_a_table_goes_to_pandas_and_parquet_and_back(expected, tmp_path):
    frame = expected.to_pandas()
    assert [*frame.index] == [*expected.ids]
    assert [*frame["label"]] == [expected.classes[label] for label in expected.labels]
    assert (frame.iloc[:, 4:].to_numpy() == expected.features).all()
    expected.to_parquet(tmp_path / "table.parquet")
    again = FeatureTable.from_parquet(tmp_path / "table.parquet")
    for name in ("features", "labels", "ids", "splits", "copies", "groups"):
        assert (getattr(again, name) == getattr(expected, name)).all(), name
    assert again.classes == expected.classes
    assert again.provenance == expected.provenance
    expected.select([]).to_parquet(tmp_path / "empty.parquet")
    empty = FeatureTable.from_parquet(str(tmp_path / "empty.parquet"))
    assert empty.features.shape == (0, expected.features.shape[1])
    assert empty.classes == expected.classes
    half = replace(expected, features=expected.features.astype(np.float16))
    half.to_parquet(tmp_path / "half.parquet")
    kept = pq.read_schema(tmp_path / "half.parquet").field("features").type
    assert kept.value_type == pa.float32()
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="is no feature table"):
        FeatureTable.from_parquet(str(tmp_path / "other.parquet"))


def test_a_table_is_read_without_what_makes_or_fits_one() -> None:
    code = "import sys, cliplib; cliplib.FeatureTable; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    imported = set(done.stdout.split())
    assert "cliplib.features.table" in imported
    slow = {"torch", "transformers", "datasets", "huggingface_hub", "sklearn"}
    assert not imported & slow


def test_the_command_line_takes_a_table_and_its_columns(
    folder, tmp_path, capsys, monkeypatch
):
    from cliplib import __main__ as cli

    asked = {}

    def measure(source, **options):
        asked.update(options, source=source)
        raise ValueError("that is all")

    monkeypatch.setattr("cliplib.reports.measure.measure", measure)
    files = folder / "files.csv"
    as_frame(folder).rename(columns={"label": "kind"}).to_csv(files, index=False)
    out = str(tmp_path / "aid")
    named = ["--label-column", "kind", "--split", "train"]
    assert cli.main([str(files), "--out", out, *named]) == 1
    assert capsys.readouterr().err == "that is all\n"
    assert asked["source"] == str(files)
    assert (asked["label_column"], asked["split"]) == ("kind", "train")


def with_paths(folder: Path) -> pd.DataFrame:
    """Return the table of the folder's files, each with its whole path."""
    frame = as_frame(folder)
    return frame.assign(file=[str(folder / name) for name in frame["file"]])


def test_a_split_of_a_table_is_taken_by_its_own_name_or_refused(folder):
    table = with_paths(folder)
    table["split"] = [
        "holdout" if name == "test" else "rest" for name in table["split"]
    ]
    n_held_out = int((table["split"] == "holdout").sum())
    assert 0 < n_held_out < len(table)
    assert len(load_dataset(table, split="holdout")) == n_held_out
    with pytest.raises(ValueError, match="has a split '(holdout|rest)'.*none of train"):
        load_dataset(table)
    for unknown in ("tset", "train"):
        with pytest.raises(ValueError, match=f"has no split '{unknown}'"):
            load_dataset(table, split=unknown)
    with pytest.raises(ValueError, match="has no split 'holdout'"):
        load_dataset(table.drop(columns="split"), split="holdout")


@pytest.mark.parametrize("column", ["label", "group"])
def test_a_label_that_cannot_be_shown_is_refused_at_the_door(folder, column):
    table = with_paths(folder).assign(group="one")
    table.loc[2, column] = "a\x1b[2J"
    with pytest.raises(ValueError, match=r"The name 'a\\x1b\[2J' .*: rename it"):
        load_dataset(table)


def test_a_file_that_is_not_there_is_named(folder, tiny):
    table = with_paths(folder)
    table.loc[2, "file"] = "gone.png"
    with pytest.raises(OSError, match=r"'gone\.png': No such file"):
        encode(table, tiny)

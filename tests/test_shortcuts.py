"""Probes that see no object: what they find is what was planted, and where."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cliplib.data.cache import map_images
from cliplib.data.image import file_facts
from cliplib.evaluation.intervals import Estimate
from cliplib.evaluation.metrics import evaluate
from cliplib.features.table import FeatureTable
from cliplib.inspection.image_statistics import (
    PATCHES,
    image_statistics,
    statistic_columns,
)
from cliplib.inspection.shortcuts import (
    Shortcut,
    probe_shortcuts,
    relative_gain,
    strongest,
)

N = 80


def images_with(trap: Callable[[Image.Image], Image.Image]) -> list[Image.Image]:
    """Noise without any class; every second image has the trap."""
    rng = np.random.default_rng(0)
    images = []
    for row in range(N):
        coarse = Image.fromarray(rng.integers(60, 200, (12, 12, 3), np.uint8))
        image = coarse.resize((96, 72), Image.Resampling.BICUBIC)
        images.append(trap(image) if row % 2 else image)
    return images


def table() -> FeatureTable:
    labels = np.arange(N) % 2
    return FeatureTable.from_arrays(
        np.zeros((N, 1)), labels, classes=("without", "with")
    )


def files(images: list[Image.Image]) -> list[bytes]:
    contents = []
    for image in images:
        image.save(file := io.BytesIO(), "PNG")
        contents.append(file.getvalue())
    return contents


def probed(
    labelled: FeatureTable, images: list[bytes], predicted: NDArray[np.integer]
) -> list[Shortcut]:
    found = evaluate(labelled.labels, predicted, groups=labelled.groups)
    of_clip = found.estimate("balanced_accuracy")
    facts = pd.DataFrame([file_facts(image) for image in images])
    fields = facts.loc[:, "format":"software"]
    return probe_shortcuts(labelled, images, fields, of_clip, n_splits=3)


@cache
def found_with(trap: Callable[[Image.Image], Image.Image]) -> list[Shortcut]:
    return probed(table(), files(images_with(trap)), table().labels)


def untouched(image: Image.Image) -> Image.Image:
    return image


def stamp(image: Image.Image) -> Image.Image:
    ImageDraw.Draw(image).rectangle((0, 66, 10, 71), fill=(255, 255, 255))
    return image


def frame(image: Image.Image) -> Image.Image:
    ImageDraw.Draw(image).rectangle((0, 0, 95, 71), outline=(0, 0, 0), width=3)
    return image


def brighter(image: Image.Image) -> Image.Image:
    return image.point(lambda level: min(255, level + 60))


def smaller(image: Image.Image) -> Image.Image:
    return image.resize((64, 48))


def blurred(image: Image.Image) -> Image.Image:
    return image.resize((8, 6)).resize((96, 72))


@pytest.mark.parametrize(
    ("trap", "name", "place"),
    [
        (stamp, "bottom left corner", "in the bottom left corner"),
        (frame, "border", "along the border"),
        (brighter, "brightness", "in the whole picture"),
        (blurred, "sharpness", "in the whole picture"),
        (smaller, "size", "in the file"),
    ],
)
def test_a_planted_trap_is_found_where_it_is(trap, name, place):
    by_name = {shortcut.name: shortcut for shortcut in found_with(trap)}
    shortcut = by_name[name]
    assert shortcut.place == place
    assert shortcut.balanced.value > 0.95
    assert shortcut.relative_gain.value > 0.9
    best = strongest(list(by_name.values()))
    assert best is not None
    assert best.relative_gain.value >= shortcut.relative_gain.value


def test_a_stamp_is_in_one_corner_only() -> None:
    by_name = {shortcut.name: shortcut for shortcut in found_with(stamp)}
    elsewhere = [name for name in PATCHES if "left" not in name]
    assert max(by_name[name].balanced.value for name in elsewhere) < 0.7


def test_nothing_is_found_where_nothing_was_planted() -> None:
    shortcuts = found_with(untouched)
    best = strongest(shortcuts)
    assert best is not None
    assert best.relative_gain.value < 0.5
    # A field with one value for all images has no probe.
    assert not {"mode", "size", "format"} & {shortcut.name for shortcut in shortcuts}


def test_colour_informs_and_does_not_decide() -> None:
    def redder(image: Image.Image) -> Image.Image:
        red, green, blue = image.split()
        return Image.merge("RGB", (red.point(lambda v: min(255, v + 40)), green, blue))

    by_name = {shortcut.name: shortcut for shortcut in found_with(redder)}
    assert by_name["colour moments"].balanced.value > 0.95
    strong = [by_name["colour moments"], by_name["thumbnail"], by_name["border"]]
    assert strongest(strong) is by_name["border"]


def test_two_images_a_class_are_shown() -> None:
    for shortcut in found_with(stamp):
        labels = table().labels[shortcut.examples]
        assert (np.bincount(labels, minlength=2) <= 2).all()
        assert (labels == np.sort(labels)).all()


def test_without_a_gain_of_clip_that_is_shown_there_is_no_share() -> None:
    hardly_better = table().labels.copy()
    hardly_better[:36] = 1 - hardly_better[:36]  # right for 44 of 80
    shortcuts = probed(table(), files(images_with(stamp)), hardly_better)
    assert all(np.isnan(shortcut.relative_gain.value) for shortcut in shortcuts)
    best = strongest(shortcuts)
    assert best is not None
    assert best.balanced.value > 0.95


def test_the_share_of_a_gain_holds_that_gain_fixed() -> None:
    reached = Estimate(0.8, 0.7, 0.9)
    assert relative_gain(reached, Estimate(0.9, 0.8, 1.0), 0.5) == pytest.approx(
        (0.75, 0.5, 1.0)
    )
    unknown = relative_gain(reached, Estimate(0.6, 0.5, 0.7), 0.5)
    assert np.isnan(unknown).all()


def test_groups_are_kept_whole() -> None:
    """Copies of six images with random labels: by image they would be known again."""
    rng = np.random.default_rng(1)
    few = images_with(lambda image: image)[:10]
    images = files([few[row % 10] for row in range(N)])
    labels = np.repeat(rng.permutation([0, 1] * 5)[None], N // 10, axis=0).ravel()
    apart = FeatureTable.from_arrays(np.zeros((N, 1)), labels)
    together = FeatureTable.from_arrays(
        np.zeros((N, 1)), labels, groups=np.arange(N) % 10
    )
    by_image = strongest(probed(apart, images, labels))
    by_group = strongest(probed(together, images, labels))
    assert by_image is not None
    assert by_group is not None
    assert by_image.balanced.value == 1
    assert by_group.balanced.value < 0.9


def test_statistics_of_tiny_images_are_numbers() -> None:
    images = [Image.new("RGB", size, (10, 20, 30)) for size in ((8, 8), (200, 3))]
    (rows,) = map_images(images, image_statistics)
    assert rows.shape == (2, max(s.stop for s in statistic_columns().values()))
    assert np.isfinite(rows).all()
    brightness = rows[:, statistic_columns()["brightness"]]
    np.testing.assert_allclose(brightness, [[18, 0], [18, 0]], atol=1)


def test_brightness_is_mean_and_deviation_of_grey_levels() -> None:
    halves = np.repeat(np.uint8([[[50] * 3], [[70] * 3]]), 8, axis=0)  # (16, 1, 3)
    image = Image.fromarray(np.tile(halves, (1, 16, 1)))
    (rows,) = map_images([image], image_statistics)
    assert rows[0, statistic_columns()["brightness"]].tolist() == [60, 10]


def test_no_accuracy_lies_beyond_one() -> None:
    for shortcut in found_with(frame):
        for share in (shortcut.accuracy, shortcut.balanced):
            assert 0 <= share.low <= share.high <= 1

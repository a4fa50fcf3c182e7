"""Swaps: what a probe uses is told from what merely goes with the classes."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression

from cliplib.data.arrays import Floats
from cliplib.data.image import file_facts
from cliplib.encoders.encoder import FunctionEncoder
from cliplib.evaluation.intervals import Estimate
from cliplib.features.table import FeatureTable
from cliplib.inspection import swaps
from cliplib.inspection.image_statistics import PATCHES
from cliplib.inspection.shortcuts import NOT_MEASURED, probe_shortcuts
from cliplib.inspection.swaps import (
    SWAPS,
    blur,
    measure_swaps,
    paste_region,
    shift_brightness,
)
from cliplib.probes.out_of_fold import fit_folds, table_folds

N = 60
SIDE = 50


@pytest.fixture(autouse=True)
def all_are_swapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The white corner tells the classes by border and sharpness, too."""
    monkeypatch.setattr(swaps, "MOST_STATISTICS", len(SWAPS))


def marked_images() -> list[Image.Image]:
    """Return noise, every second with a white corner and a bright centre."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(60, 100, (N, SIDE, SIDE, 3))
    pixels += rng.integers(0, 100, (N, 1, 1, 1))
    pixels[1::2, 43:, 43:] = 255
    pixels[1::2, 20:30, 20:30] = 20
    return [Image.fromarray(image.astype(np.uint8)) for image in pixels]


def corner(images: list[Image.Image]) -> Floats:
    return np.array([[np.asarray(image)[43:, 43:].mean() / 255] for image in images])


def centre(images: list[Image.Image]) -> Floats:
    seen = [np.asarray(image)[20:30, 20:30].mean() / 255 for image in images]
    return np.array(seen)[:, None]


def cost_by(
    function: Callable[[list[Image.Image]], Floats], groups: Sequence[int] | None = None
) -> dict[str, Estimate]:
    """Return what swaps cost a probe that sees what a function returns of images."""
    images = marked_images()
    encoder = FunctionEncoder(function, function.__name__)
    labels = np.arange(N) % 2
    table = FeatureTable.from_arrays(
        function(images), labels, classes=("plain", "marked"), groups=groups
    )
    files = []
    for image in images:
        image.save(file := io.BytesIO(), "PNG")
        files.append(file.getvalue())
    table = replace(table, provenance=encoder.provenance)
    of_clip = Estimate(0.9, 0.8, 1.0)
    facts = pd.DataFrame([file_facts(file) for file in files])
    fields = facts.loc[:, "format":"software"]
    shortcuts = probe_shortcuts(table, files, fields, of_clip, n_splits=3)
    probe = LogisticRegression(C=1000)
    fits = list(fit_folds(probe, table, table_folds(table)))
    found = measure_swaps(shortcuts, fits, table, encoder, files)
    assert [one.name for one in found] == [one.name for one in shortcuts]
    return {s.name: s.swap_cost for s in found if s.swap_cost is not NOT_MEASURED}


def test_a_corner_is_used_that_the_probe_looks_at_and_that_tells_a_class() -> None:
    cost = cost_by(corner)
    assert cost["bottom right corner"].low > 0.9
    assert "top left corner" not in cost


def test_a_corner_that_only_goes_with_the_classes_is_not_used() -> None:
    cost = cost_by(centre)["bottom right corner"]
    assert cost == pytest.approx((0, 0, 0), abs=0.01)


def test_few_are_swapped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swaps, "MOST_STATISTICS", 1)
    assert len(cost_by(corner)) == 1


def test_no_image_is_its_own_donor(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = []

    def swap(image: Image.Image, donor: Image.Image) -> Image.Image:
        pairs.append((image, donor))
        return image

    monkeypatch.setattr(swaps, "SWAPS", {"bottom right corner": swap})
    # Of the marked images, a fold has one group only.
    groups = [N + i % 10 if i % 2 else i for i in range(N)]
    cost_by(corner, groups)
    assert pairs and not [1 for image, donor in pairs if image == donor]


@pytest.mark.parametrize("name", [*PATCHES, "border"])
def test_a_swap_changes_its_region_only(name: str) -> None:
    black = Image.new("RGB", (SIDE, 2 * SIDE))
    white = Image.new("RGB", (20, 20), "white")
    pasted = np.asarray(paste_region(name, black, white))[..., 0] == 255
    if name == "border":
        expected = np.ones((2 * SIDE, SIDE), bool)
        expected[2:-2, 2:-2] = False
    else:
        across, down = np.zeros(SIDE, bool), np.zeros(2 * SIDE, bool)
        n = 7 if "edge" in name else 14
        across[side_of(name, 0, n)] = True
        down[side_of(name, 1, 2 * n)] = True
        expected = down[:, None] & across
    np.testing.assert_array_equal(pasted, expected)
    assert not np.asarray(black).any()


@pytest.mark.parametrize("name", [*PATCHES, "border"])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 40)])
def test_an_image_of_a_pixel_or_two_can_be_swapped(name, size):
    white = Image.new("RGB", (20, 20), "white")
    pasted = np.asarray(paste_region(name, Image.new("RGB", size), white))
    assert pasted.shape[:2] == size[::-1]
    assert pasted.all() if name == "border" else pasted.any()


def side_of(name: str, axis: int, n: int) -> slice:
    """Return which pixels of a side lie in a corner or at an edge that is n deep."""
    first, last = (("left", "right"), ("top", "bottom"))[axis]
    if first in name:
        return slice(n)
    return slice(-n, None) if last in name else slice(None)


def test_brightness_is_that_of_the_donor() -> None:
    dark, bright = marked_images()[0], Image.new("RGB", (9, 9), (150, 150, 150))
    assert np.asarray(shift_brightness(dark, bright)).mean() == pytest.approx(
        150, abs=1
    )


def test_an_image_is_blurred_and_never_sharpened() -> None:
    sharp, flat = marked_images()[0], Image.new("RGB", (SIDE, SIDE), (99, 99, 99))
    assert np.asarray(blur(sharp, flat)).std() < np.asarray(sharp).std() / 2
    assert blur(flat, sharp) is flat
    assert {*SWAPS} == {*PATCHES, "border", "brightness", "sharpness"}

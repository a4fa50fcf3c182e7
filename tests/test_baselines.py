"""Few labels, worse images, file traces and other representations."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cliplib.baselines import (
    SHORTCUTS,
    color_histogram,
    efficientnet,
    hog,
    metadata_features,
)
from cliplib.cache import map_images
from cliplib.corruption import CORRUPTIONS, corrupt
from cliplib.data import load_dataset
from cliplib.splits import few_shot


@pytest.mark.parametrize(("shots", "held"), [(1, 1), (2, 2), (4, 4), (16, 4), (32, 8)])
def test_few_shot_draws_as_many_as_coop_does(shots: int, held: int) -> None:
    labels = np.repeat([0, 1, 2], 60)
    train, val = few_shot(labels, shots, seed=3)
    assert np.bincount(labels[train]).tolist() == [shots] * 3
    assert np.bincount(labels[val]).tolist() == [held] * 3
    assert not np.intersect1d(train, val).size


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**16), st.integers(1, 8))
def test_no_group_is_drawn_twice(seed: int, shots: int) -> None:
    rng = np.random.default_rng(seed)
    labels, groups = rng.integers(0, 3, 900), rng.integers(0, 180, 900)
    train, val = few_shot(labels, shots, groups=groups, seed=seed)
    drawn = groups[np.concatenate([train, val])]
    assert len(np.unique(drawn)) == len(drawn)
    assert set(labels[train]) == set(labels[val]) == {0, 1, 2}


def test_more_shots_contain_the_fewer_and_seeds_differ() -> None:
    labels = np.repeat([0, 1], 100)
    sets = [set(few_shot(labels, shots, seed=5)[0]) for shots in (1, 4, 16, 64)]
    assert all(small < large for small, large in pairwise(sets))
    assert set(few_shot(labels, 16, seed=6)[0]) != sets[2]


def test_a_class_with_too_few_groups_is_refused() -> None:
    with pytest.raises(ValueError, match="Each class needs 2 groups, 1 to validate"):
        few_shot([0, 0, 1, 1], 1, groups=[0, 1, 2, 2])


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    """An image with coarse and fine structure."""
    rng = np.random.default_rng(0)
    shapes = ((6, 8, 3), (60, 80, 3))
    layers = [
        Image.fromarray(rng.integers(0, 160, shape, np.uint8)) for shape in shapes
    ]
    return Image.blend(*(layer.resize((400, 300)) for layer in layers), 0.4)


@pytest.mark.parametrize(("kind", "strength"), [("fog", 1), ("blur", -1), ("blur", 6)])
def test_a_damage_that_is_unknown_is_named(
    kind: str, strength: int, photo: Image.Image
) -> None:
    with pytest.raises(
        ValueError, match=f"no '{kind}' of strength {strength}; kinds: .*'noise'"
    ):
        corrupt(photo, kind, strength)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_each_strength_is_farther_from_the_original(
    kind: str, photo: Image.Image
) -> None:
    clean = np.asarray(corrupt(photo, kind, 0), np.float64)
    assert clean.shape == (224, 299, 3)
    images = [
        np.asarray(corrupt(photo, kind, s, seed=1), np.float64) for s in range(1, 6)
    ]
    errors = [np.abs(image - clean).mean() for image in images]
    assert errors[0] > 0.2
    assert errors == sorted(errors)


def test_what_each_corruption_does(photo: Image.Image) -> None:
    grey = Image.new("L", (224, 224), 100)
    noisy = np.asarray(corrupt(grey, "noise", 1, seed=2), np.float64)
    assert abs(noisy.std() / (0.08 * 255) - 1) < 0.02
    assert (np.asarray(corrupt(grey, "noise", 1, seed=2)) == noisy).all()
    assert (
        np.abs(np.asarray(corrupt(grey, "brightness", 2), np.float64) - 151).max() <= 1
    )
    assert (
        np.asarray(corrupt(grey, "rotation", 5)) == 100
    ).all()  # corners: the background
    blurred, clean = (
        np.asarray(corrupt(photo, "blur", s), np.float64)[..., 0] for s in (5, 0)
    )
    assert np.abs(np.diff(blurred)).mean() < np.abs(np.diff(clean)).mean() / 3


def test_metadata_features_are_what_was_planted(
    image_folder: Callable[..., Path],
) -> None:
    folder = image_folder(n=2)
    framed = np.full((50, 100, 3), 10, np.uint8)
    framed[2:-2, 2:-2] = 250
    Image.fromarray(framed).save(folder / "disc" / "framed.png")
    for quality in (30, 95):
        Image.fromarray(framed).save(
            folder / "square" / f"q{quality}.jpg", quality=quality
        )
    Image.new("L", (20, 30), 120).save(folder / "stripes" / "grey.png")
    dataset = load_dataset(folder)
    assert dataset is not None
    frame = metadata_features(dataset)
    assert list(frame.index) == list(dataset["id"])
    assert sorted(frame) == sorted(
        column for kind in SHORTCUTS.values() for column in kind
    )
    row = frame.loc["disc/framed.png"]
    stored = ["width", "height", "format", "mode", "quantisation"]
    assert row[stored].tolist() == [100, 50, "PNG", "RGB", 0]
    assert (row["border_mean"], row["border_std"]) == (10, 0)
    assert row["mean"] == pytest.approx(framed.mean())
    assert (
        row["bytes_per_pixel"] == (folder / "disc" / "framed.png").stat().st_size / 5000
    )
    worse, better = frame.loc[["square/q30.jpg", "square/q95.jpg"], "quantisation"]
    assert worse > better > 0
    assert frame.loc["stripes/grey.png", ["mode", "mean"]].tolist() == ["L", 120]


def test_an_unreadable_image_is_named(image_folder: Callable[..., Path]) -> None:
    folder = image_folder(n=2)
    (folder / "disc" / "broken.png").write_bytes(b"no image")
    dataset = load_dataset(folder)
    assert dataset is not None
    with pytest.raises(OSError, match=r"broken\.png"):
        metadata_features(dataset)


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
    (batched,) = map_images(images, efficientnet(), batch_size=2)  # in several threads
    (alone,) = map_images(images, efficientnet(), batch_size=1)
    assert batched.shape == (5, 1280 + 2 * (112 + 320))
    np.testing.assert_allclose(batched, alone, rtol=1e-3, atol=1e-3)
    assert (np.abs(np.diff(batched, axis=0)).max(axis=1) > 0.01).all()

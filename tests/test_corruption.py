"""Worse copies of an image, and neutral ones."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter
from scipy.stats import spearmanr

from study.corruption import CORRUPTIONS, corrupt, head_mask, neutral_copy


def corrupted(image: Image.Image, kind: str, strength: int, seed: int = 0):
    return np.asarray(corrupt(image, kind, strength, seed=seed), np.float64)


@pytest.mark.parametrize(("kind", "strength"), [("fog", 1), ("blur", -1), ("blur", 6)])
def test_a_damage_that_is_unknown_is_named(kind, strength, photo):
    with pytest.raises(
        ValueError, match=f"no '{kind}' of strength {strength}; kinds: .*'noise'"
    ):
        corrupt(photo, kind, strength)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_each_strength_is_farther_from_the_original(kind, photo):
    clean = corrupted(photo, kind, 0)
    assert clean.shape == (224, 299, 3)
    errors = [
        np.abs(corrupted(photo, kind, strength, seed=1) - clean).mean()
        for strength in range(1, 6)
    ]
    assert errors[0] > 0.2
    assert errors == sorted(errors)


def test_settings_of_imagenet_c_are_its_own():
    # As in imagenet_c/corruptions.py of Hendrycks and Dietterich's code.
    assert CORRUPTIONS["noise"] == (0.08, 0.12, 0.18, 0.26, 0.38)
    assert CORRUPTIONS["blur"] == (1, 2, 3, 4, 6)
    assert CORRUPTIONS["jpeg"] == (25, 18, 15, 10, 7)
    assert CORRUPTIONS["brightness"] == (0.1, 0.2, 0.3, 0.4, 0.5)


def test_corners_of_a_rotated_image_have_the_median_of_all_four_borders():
    pixels = np.zeros((224, 224), np.uint8)
    pixels[-1] = pixels[:, -1] = 200  # with a pixel each above and on the left: most
    rotated = corrupted(Image.fromarray(pixels), "rotation", 5)
    assert (rotated[[0, 0, -1, -1], [0, -1, 0, -1]] == 200).all()


def test_what_each_corruption_does(photo):
    grey = Image.new("L", (224, 224), 100)
    noisy = corrupted(grey, "noise", 1, seed=2)
    assert abs(noisy.std() / (0.08 * 255) - 1) < 0.02
    assert (corrupted(grey, "noise", 1, seed=2) == noisy).all()
    assert (corrupted(grey, "noise", 1, seed=3) != noisy).any()
    assert np.abs(corrupted(grey, "brightness", 2) - 151).max() <= 1
    assert (corrupted(grey, "rotation", 5) == 100).all()  # corners: the background
    sharp, blurred = (corrupted(photo, "blur", strength)[..., 0] for strength in (0, 5))
    assert np.abs(np.diff(blurred)).mean() < np.abs(np.diff(sharp)).mean() / 3


def slice_of_a_head(
    *, exposure: float = 1.0, background: int = 0, size: int = 300, letter: bool = False
) -> Image.Image:
    """Draw a disc with a bright rim, dark ventricles and one bright spot."""
    image = Image.new("L", (300, 300), 0)
    pen = ImageDraw.Draw(image)
    pen.ellipse((60, 60, 240, 240), fill=200)
    pen.ellipse((70, 70, 230, 230), fill=110)
    pen.ellipse((120, 120, 150, 180), fill=5)
    pen.ellipse((180, 130, 210, 160), fill=240)
    levels = np.asarray(image.filter(ImageFilter.GaussianBlur(2)), np.float64)
    levels = background + levels * exposure
    image = Image.fromarray(levels.clip(0, 255).astype(np.uint8))
    if letter:
        ImageDraw.Draw(image).rectangle((5, 5, 25, 25), fill=255)
    return image.resize((size, size), Image.Resampling.BICUBIC)


def test_the_head_is_the_largest_part_with_its_holes():
    grey = np.asarray(slice_of_a_head(letter=True))
    head = head_mask(grey)
    rows, columns = np.indices(head.shape)
    distance = np.hypot(rows - 150, columns - 150)
    assert head[distance < 88].all()  # the dark ventricles, too
    assert not head[distance > 95].any()  # no letter in the corner
    with pytest.raises(ValueError, match="No head stands out"):
        head_mask(np.full((20, 20), 70, np.uint8))


def test_the_head_begins_a_tenth_of_the_way_from_dark_to_bright():
    grey = np.full((100, 100), 100, np.uint8)
    grey[40:60, 20:80] = [[200]]
    grey[30:40, 20:80] = 111
    grey[60:70, 20:80] = 109
    rows = np.flatnonzero(head_mask(grey).any(axis=1))
    assert rows.tolist() == list(range(30, 60))


def test_neutral_copies_hold_neither_file_nor_exposure():
    plain = neutral_copy(slice_of_a_head())
    others = [
        neutral_copy(slice_of_a_head(exposure=0.5)),
        neutral_copy(slice_of_a_head(background=12, exposure=0.8, letter=True)),
        neutral_copy(slice_of_a_head(size=512).convert("RGB")),
    ]
    assert plain.mode == "L" and plain.size == (224, 224)
    expected = np.asarray(plain, np.float64)
    for other in others:
        assert other.mode == "L" and other.size == (224, 224)
        levels = np.asarray(other, np.float64)
        differing = (levels == 0) != (expected == 0)
        assert differing.mean() < 0.005
        inside = (levels > 0) & (expected > 0)
        assert np.abs(levels - expected)[inside].mean() < 5


def test_grey_levels_of_a_neutral_copy_are_the_gaussian_s_in_the_old_order():
    rng = np.random.default_rng(0)
    grain = rng.gamma(1.5, 20, (224, 224)) + 20
    disc = np.hypot(*(np.indices((224, 224)) - 111.5)) < 90
    image = Image.fromarray((grain * disc).clip(0, 255).astype(np.uint8))
    neutral = np.asarray(neutral_copy(image, mean=120, deviation=30))
    assert (neutral[~disc] == 0).all()
    inside = neutral[disc]
    assert inside.min() >= 1
    assert inside.mean() == pytest.approx(120, abs=1)
    assert inside.std() == pytest.approx(30, abs=1)
    assert spearmanr(np.asarray(image)[disc], inside).statistic > 0.999


def test_a_slice_that_is_not_square_keeps_its_shape():
    wide = Image.new("L", (400, 300), 0)
    wide.paste(slice_of_a_head(), (50, 0))
    rows, columns = np.nonzero(np.asarray(neutral_copy(wide, side=200)))
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert height == pytest.approx(width, abs=2)
    assert width == pytest.approx(200 * 184 / 400, abs=4)

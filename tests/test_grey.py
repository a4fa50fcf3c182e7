"""Grey levels of a slice, given to another."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from study.grey import BACKGROUND, counts_of_levels, twelve_levels, with_levels_of


def slice_of(mean: float, deviation: float, seed: int = 0) -> Image.Image:
    """A disc of smooth random grey levels on black."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1:1:120j, -1:1:120j]
    pixels = rng.normal(mean, deviation, x.shape)
    pixels[x**2 + y**2 > 0.6] = 0
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def in_head(image: Image.Image) -> np.ndarray:
    grey = np.asarray(image.convert("L")).astype(int)
    return grey[grey > BACKGROUND]


def test_a_slice_gets_the_quantiles_of_another():
    dark, bright = slice_of(70, 10), slice_of(150, 25, seed=1)
    found = with_levels_of(dark, counts_of_levels(bright))
    assert found.mode == "RGB"
    shares = np.arange(5, 100, 5)
    wanted = np.percentile(in_head(bright), shares)
    assert np.percentile(in_head(found), shares) == pytest.approx(wanted, abs=3)
    assert np.percentile(in_head(dark), 50) < 75  # the one given is as it was


def test_order_and_background_stay():
    dark, bright = slice_of(40, 15), slice_of(150, 25, seed=1)
    before = np.asarray(dark)
    after = np.asarray(with_levels_of(dark, counts_of_levels(bright)))[..., 0]
    is_background = before <= BACKGROUND
    assert is_background.any()
    assert (after[is_background] == before[is_background]).all()
    assert after[~is_background].min() > BACKGROUND
    order = np.argsort(before, axis=None)
    assert (np.diff(after.ravel()[order].astype(int)) >= 0).all()


def test_its_own_levels_change_nothing():
    image = slice_of(90, 20)
    found = with_levels_of(image, counts_of_levels(image))
    assert (np.asarray(found)[..., 0] == np.asarray(image)).all()


def test_a_black_slice_has_no_levels_to_give_or_to_change():
    black = Image.new("L", (20, 20))
    for image, levels in ((black, slice_of(90, 20)), (slice_of(90, 20), black)):
        with pytest.raises(ValueError, match="background"):
            with_levels_of(image, counts_of_levels(levels))


def test_twelve_levels_are_deciles_mean_and_deviation():
    ramp = Image.fromarray(np.tile(np.arange(101, dtype=np.uint8), (4, 1)))
    found = twelve_levels(ramp)
    assert found[:10] == pytest.approx(np.arange(5, 100, 10), abs=1)
    assert found[10:] == pytest.approx([50, np.arange(101).std()])

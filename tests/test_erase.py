"""Erasing: the filling continues what surrounds it; masks, crops and boxes."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cliplib.inspection.erase import Box, ellipse, erase, fill
from study.states import keep

pytest.importorskip("skimage")


def ramp(width: int = 80, height: int = 60) -> Image.Image:
    """A grey image that brightens from left to right."""
    row = np.linspace(40, 200, width)
    return Image.fromarray(np.tile(row, (height, 1)).astype(np.uint8)).convert("RGB")


def with_object(image: Image.Image, box: Box) -> Image.Image:
    """The same image with a white rectangle where the box is."""
    pixels = np.array(image)
    height, width = pixels.shape[:2]
    left, right = ((box.x_center + s * box.width / 2) * width for s in (-1, 1))
    top, bottom = ((box.y_center + s * box.height / 2) * height for s in (-1, 1))
    pixels[round(top) : round(bottom), round(left) : round(right)] = 255
    return Image.fromarray(pixels)


BOX = Box(0.5, 0.4, 0.25, 0.3)


@pytest.mark.parametrize("size", [(80, 60), (640, 480)])
def test_an_erased_object_gives_way_to_what_surrounds_it(size):
    # The larger image is filled on a reduced copy.
    image = ramp(*size)
    erased = np.asarray(erase(with_object(image, BOX), BOX), float)
    assert np.abs(erased - np.asarray(image, float)).max() < 12


def test_only_the_ellipse_changes():
    image = with_object(ramp(), BOX)
    changed = np.any(np.asarray(erase(image, BOX)) != np.asarray(image), axis=2)
    assert changed.any()
    assert not changed[~ellipse(BOX, image.size)].any()


def test_the_filling_has_the_noise_of_its_rim_and_grey_stays_grey():
    rng = np.random.default_rng(0)
    pixels = np.clip(rng.normal(120, 10, (90, 90)), 0, 255).astype(np.uint8)
    image = Image.fromarray(pixels)
    box = Box(0.5, 0.5, 0.4, 0.4)
    filled = np.asarray(erase(image, box))[ellipse(box, image.size)]
    assert 6 < filled.std() < 14
    assert (filled == filled[:, :1]).all()
    assert erase(image, box) == erase(image, box)
    assert erase(image, box) != erase(image, box, seed=1)


def test_the_filling_stays_within_the_range_of_its_rim():
    image = ramp()
    box = Box(0.5, 0.5, 0.3, 0.3)
    filled = np.asarray(erase(with_object(image, box), box), float)
    assert filled.max() <= 204
    assert filled.min() >= 36


def test_a_filling_that_is_interpolated_stays_within_the_range_of_its_rim():
    pixels = np.full((200, 200), 20, np.uint8)
    pixels[:, :50] = 235
    image = Image.fromarray(pixels)
    box = Box(0.5, 0.5, 0.4, 0.4)
    filled = np.asarray(erase(image, box))[ellipse(box, image.size)]
    assert filled.min() == 20 and filled.max() > 200


def test_the_filling_has_the_colour_around_it():
    image = Image.new("RGB", (60, 60), (200, 60, 10))
    assert fill(image, ellipse(BOX, image.size)).getcolors() == [(3600, (200, 60, 10))]


def test_the_ellipse_holds_the_box_and_little_more():
    mask = ellipse(BOX, (400, 400))
    y, x = np.mgrid[:400, :400] / 400 + 1 / 800
    inside = (abs(x - 0.5) < 0.125) & (abs(y - 0.4) < 0.15)
    assert mask[inside].all()
    assert mask.mean() == pytest.approx(np.pi / 2 * 0.25 * 0.3, rel=0.01)


def test_the_smallest_box_holds_a_pixel():
    assert ellipse(Box(1.0, 0.0, 1e-6, 1e-6), (50, 30)).sum() == 1


def test_what_is_kept_is_all_that_is_left():
    image = ramp()
    kept = np.asarray(keep(image, BOX))
    mask = ellipse(BOX, image.size)
    assert (kept[mask] == np.asarray(image)[mask]).all()
    assert not kept[~mask].any()


def test_a_mirrored_box_marks_the_same_in_a_mirrored_image():
    box = Box(0.3, 0.4, 0.1, 0.2)
    mirrored = ellipse(box.mirrored(), (200, 100))
    assert (mirrored == ellipse(box, (200, 100))[:, ::-1]).all()


@pytest.mark.parametrize(
    "shares", [(50, 40, 10, 10), (0.5, 0.5, 0, 0.1), (-0.1, 0.5, 0.1, 0.1)]
)
def test_a_box_outside_the_image_is_refused(shares):
    with pytest.raises(ValueError, match="shares of the image's sides"):
        Box(*shares)


def test_masks_that_leave_nothing_are_refused():
    image = ramp()
    with pytest.raises(ValueError, match="smaller part"):
        fill(image, np.ones((60, 80), bool))
    with pytest.raises(ValueError, match="smaller part"):  # corners alone are left
        erase(ramp(224, 224), Box(0.5, 0.5, 0.97, 0.97))
    assert fill(image, np.zeros((60, 80), bool)) == image

"""Controls for an erased object: elsewhere, mirrored, in healthy slices, on a board."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cliplib.inspection.erase import Box, ellipse
from study.states import (
    box_elsewhere,
    first_in_head,
    moved_off,
    object_on_board,
    with_mirrored_tissue,
)

BOX = Box(0.35, 0.5, 0.1, 0.1)
CENTRE = Box(0.5, 0.5, 0.1, 0.1)
OUTSIDE = Box(0.05, 0.05, 0.08, 0.08)


def head(*spots: tuple[Box, int], side: int = 160) -> Image.Image:
    """A grey disc on black, with brighter ellipses in it."""
    rng = np.random.default_rng(0)
    pixels = np.zeros((side, side))
    pixels[ellipse(Box(0.5, 0.5, 0.6, 0.6), (side, side))] = 90
    for box, level in spots:
        pixels[ellipse(box, (side, side))] = level
    pixels[pixels > 0] += rng.normal(0, 2, (pixels > 0).sum())
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def test_the_other_place_is_in_the_head_and_as_bright():
    twin = Box(0.6, 0.7, 0.1, 0.1)
    image = head((BOX, 180), (twin, 180))
    other = box_elsewhere(image, BOX)
    assert other is not None
    assert other.x_center == pytest.approx(0.6, abs=0.02)
    assert other.y_center == pytest.approx(0.7, abs=0.02)
    assert (other.width, other.height) == (BOX.width, BOX.height)


def test_without_another_bright_place_it_still_does_not_meet_the_box():
    image = head((BOX, 180))
    other = box_elsewhere(image, BOX)
    assert other is not None
    assert first_in_head(image, [other]) == other
    both = ellipse(other, image.size) & ellipse(BOX, image.size)
    assert not both.any()


def test_a_head_without_room_has_no_other_place():
    assert box_elsewhere(head(), Box(0.5, 0.5, 0.5, 0.5)) is None


def test_mirrored_tissue_takes_the_place_of_the_tumour():
    image = head((BOX, 200), (BOX.mirrored(), 60))
    mixed = with_mirrored_tissue(image, BOX)
    assert mixed is not None
    pixels = np.asarray(mixed)[..., 0].astype(float)
    middle = ellipse(Box(0.35, 0.5, 0.05, 0.05), image.size)
    assert pixels[middle].mean() == pytest.approx(60, abs=6)
    unchanged = ~ellipse(BOX, image.size)
    assert (pixels[unchanged] == np.asarray(image)[unchanged]).all()


def test_a_tumour_in_the_middle_has_no_mirror_of_its_own():
    assert with_mirrored_tissue(head((CENTRE, 200)), CENTRE) is None


def test_of_several_boxes_the_first_in_the_head_is_taken():
    image = head()
    assert first_in_head(image, [OUTSIDE, CENTRE, BOX]) == CENTRE
    assert first_in_head(image, [OUTSIDE]) is None


def board(width: int = 160, height: int = 120) -> np.ndarray:
    """A white board that darkens to one side."""
    light = np.linspace(230, 200, width)
    return np.repeat(np.tile(light, (height, 1))[..., None], 3, axis=2)


def test_an_object_on_a_board_is_cut_out():
    pixels = board()
    pixels[40:80, 60:100] = (60, 90, 160)
    mask = object_on_board(Image.fromarray(pixels.astype(np.uint8)))
    assert mask is not None
    assert mask[40:80, 60:100].all()
    assert mask.mean() < 2 * 40 * 40 / (160 * 120)


@pytest.mark.parametrize("what", ["nothing", "everything", "a dark ground"])
def test_where_there_is_no_object_on_a_board_nothing_is_cut_out(what):
    pixels = board()
    if what == "everything":
        rng = np.random.default_rng(0)
        pixels[:] = rng.uniform(0, 255, pixels.shape)
    if what == "a dark ground":
        pixels *= 0.3
        pixels[40:80, 60:100] = 255
    assert object_on_board(Image.fromarray(pixels.astype(np.uint8))) is None


def test_a_mask_moves_off_itself_or_is_given_up():
    small = np.zeros((60, 80), bool)
    small[10:20, 10:20] = True
    moved = moved_off(small)
    assert moved is not None and moved.sum() == small.sum()
    assert not (moved & small).any()
    large = np.zeros((60, 80), bool)
    large[5:55, 5:75] = True
    assert moved_off(large) is None

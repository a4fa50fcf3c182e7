"""Where a slice is cropped: round its tumour, at another place, or not quite there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cliplib import FeatureTable, load_image
from cliplib.inspection.erase import Box
from study.crops import (
    committed_boxes,
    crop_in_proportion,
    ids_to_crop,
    inexact,
    is_clear_of_mirror,
    load_crops,
    random_box,
)
from study.features import MissingImages, load_features


def ramp() -> Image.Image:
    """Return an image whose grey level is the column, and its red one the row."""
    y, x = np.mgrid[:100, :200].astype(np.uint8)
    return Image.fromarray(np.stack([y, x, x], axis=-1))


def ends(image: Image.Image) -> tuple[int, int, int, int]:
    """Return the first and last column, and the first and last row, of a crop."""
    pixels = np.asarray(image)
    first, last = pixels[0, 0], pixels[-1, -1]
    return int(first[1]), int(last[1]), int(first[0]), int(last[0])


def test_a_margin_is_a_share_of_each_side():
    box = Box(0.5, 0.5, 0.2, 0.1)  # columns 80 to 120, rows 45 to 55
    assert ends(crop_in_proportion(ramp(), box, 0)) == (80, 119, 45, 54)
    assert ends(crop_in_proportion(ramp(), box, 0.5)) == (60, 139, 40, 59)


def test_what_lies_outside_is_left_out():
    assert ends(crop_in_proportion(ramp(), Box(0, 0, 0.2, 0.2), 0.5)) == (0, 39, 0, 19)
    assert crop_in_proportion(ramp(), Box(1, 1, 1e-4, 1e-4)).size == (1, 1)


def test_a_box_on_the_midline_meets_its_mirrored_one():
    assert is_clear_of_mirror(Box(0.3, 0.5, 0.4, 0.1))
    assert not is_clear_of_mirror(Box(0.3, 0.5, 0.41, 0.1))
    assert not is_clear_of_mirror(Box(0.3, 0.5, 0.4, 0.1), margin=0.5)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_an_inexact_box_is_off_by_a_share_of_its_size(share):
    box, rng = Box(0.5, 0.5, 0.2, 0.1), np.random.default_rng(0)
    widths = set()
    for _ in range(20):
        found = inexact(box, share, rng)
        across = (found.x_center - box.x_center) / box.width
        down = (found.y_center - box.y_center) / box.height
        assert np.hypot(across, down) == pytest.approx(share)
        widths.add(round(found.width / box.width, 6))
    assert widths == {1 - share, 1 + share}


def test_a_random_box_lies_in_the_head():
    pixels = np.zeros((100, 100), np.uint8)
    pixels[:, :50] = 200  # the head is the left half
    boxes = [Box(0.25, 0.5, 0.1, 0.1), Box(0.75, 0.5, 0.2, 0.2)]
    image, rng = Image.fromarray(pixels), np.random.default_rng(0)
    found = [random_box(image, boxes, rng) for _ in range(10)]
    assert {box.x_center for box in found if box} == {0.25}
    assert {box.width for box in found if box} == {0.1, 0.2}
    assert random_box(image, boxes[1:], rng) is None


def test_each_picture_is_cropped_once_and_few_of_a_patient_at_the_mirrored_place():
    classes = ("glioma", "pituitary")
    labels = np.repeat([0, 1], [10, 2])
    copies = np.array([0, 0, *range(2, 12)])  # the first two are one picture
    table = FeatureTable.from_arrays(
        np.zeros((12, 2)), labels, classes=classes, groups=[*[0] * 10, 1, 2]
    )
    table = replace(table, copies=copies)
    aside, central = Box(0.2, 0.5, 0.1, 0.1), Box(0.5, 0.5, 0.1, 0.1)
    boxes = {id: aside for id in table.ids}
    boxes[table.ids[2]] = central
    whole, opposite = ids_to_crop(table, boxes)
    assert whole == [*table.ids[:1], *table.ids[2:]]
    assert opposite == table.ids[[0, 3, 4, 5, 6, 7]].tolist()


@pytest.fixture(scope="module")
def brain(mini):
    return load_features("brain_tumor_mri", mini)


def test_crops_are_committed_of_each_picture(brain, mini):
    crops, mirrored = load_crops(brain, mini)
    assert (len(crops), len(mirrored)) == (3054, 603)
    assert np.isin(mirrored.ids, crops.ids).all()
    assert crops.features.shape[1] == brain.features.shape[1]
    rows = np.isin(brain.ids, crops.ids)
    assert (crops.ids == brain.ids[rows]).all()
    assert (crops.folds == brain.folds[rows]).all()
    assert not np.allclose(crops.features, brain.features[rows])


def test_crops_of_another_encoder_need_the_images(brain, tiny):
    with pytest.raises(MissingImages, match="name a folder with the images"):
        load_crops(brain, tiny)


def test_another_encoder_crops_the_images(brain, tiny, tmp_path):
    boxes = committed_boxes()
    shown = np.array(
        [id in boxes and is_clear_of_mirror(boxes[id]) for id in brain.ids]
    )
    without_tumour = brain.classes.index("notumor")
    shown |= brain.labels == without_tumour
    one_a_class = pd.Series(brain.ids[shown]).groupby(brain.labels[shown]).first()
    drawn = np.random.default_rng(0)
    for id in one_a_class:
        path = tmp_path / "brain_tumor_mri" / id
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = drawn.integers(0, 256, (64, 64), np.uint8)
        Image.fromarray(pixels).save(path, quality=100)
    table = load_features("brain_tumor_mri", tiny, data=tmp_path)
    crops, mirrored = load_crops(table, tiny, tmp_path)
    glioma, meningioma, pituitary = one_a_class.drop(without_tumour)
    assert set(crops.ids) == {glioma, meningioma, pituitary}
    assert set(mirrored.ids) == {glioma, meningioma}
    image = load_image(tmp_path / "brain_tumor_mri" / glioma)
    box = boxes[glioma]
    for table, place in ((crops, box), (mirrored, box.mirrored())):
        expected = tiny.map([crop_in_proportion(image, place)])[0][0]
        found = table.features[table.ids == glioma][0]
        np.testing.assert_allclose(found, expected, atol=1e-4)

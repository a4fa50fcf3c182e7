"""Where patch tokens say that an object lies."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cliplib import ClipEncoder
from cliplib.inspection.erase import Box
from study.finding import (
    best_box,
    log_odds_by_fold,
    overlap,
    patch_tokens,
    patches_in,
)


def test_patches_belong_to_a_box_by_their_centres():
    own = patches_in(Box(0.5, 0.25, 0.5, 0.5), 4)
    assert np.argwhere(own).tolist() == [[0, 1], [0, 2], [1, 1], [1, 2]]
    assert patches_in(Box(0.4, 0.1, 0.01, 0.01), 4).sum() == 1


def test_the_best_box_holds_the_raised_patches():
    odds = np.full((8, 8), -1.0)
    odds[2:4, 4:7] = 3
    found = best_box(odds)
    assert found.x_center == pytest.approx(5.5 / 8, abs=0.02)
    assert found.y_center == pytest.approx(3 / 8, abs=0.02)
    assert found.width > found.height
    assert overlap(found, Box(5.5 / 8, 3 / 8, 3 / 8, 2 / 8)) > 0.6


def test_overlap_by_hand():
    box = Box(0.5, 0.5, 0.4, 0.2)
    assert overlap(box, box) == pytest.approx(1)
    assert overlap(box, Box(0.7, 0.5, 0.4, 0.2)) == pytest.approx(1 / 3)
    assert overlap(box, Box(0.5, 0.9, 0.4, 0.2)) == 0


def test_log_odds_are_those_of_other_folds():
    """Where a fold's boxes are marked by another component, they are not found."""
    rng = np.random.default_rng(0)
    in_box = rng.random((40, 4, 4)) < 0.3
    folds = np.arange(40) % 4
    tokens = rng.normal(size=(40, 4, 4, 6)).astype(np.float16)
    tokens[..., 0] += 4 * in_box * (folds != 3)[:, None, None]
    tokens[..., 1] += 4 * in_box * (folds == 3)[:, None, None]
    odds = log_odds_by_fold(tokens, in_box, folds)
    is_found = (odds > 0) == in_box
    assert is_found[folds != 3].mean() > 0.9
    assert (odds[folds == 3][in_box[folds == 3]] > 0).mean() < 0.5


def test_tokens_lie_where_their_patches_do(tiny: ClipEncoder):
    """The means over patches are those of the deep readout."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (2, 40, 40, 3), np.uint8)
    images = [Image.fromarray(one) for one in pixels]
    tokens = patch_tokens(tiny, images).astype(np.float32)
    n, side, _, d = tokens.shape
    deep = tiny.encode_images(images, readout="deep")
    means = tokens.reshape(n, side * side, d).mean(axis=1)
    assert np.allclose(means, deep[:, d : 2 * d], atol=2e-2)

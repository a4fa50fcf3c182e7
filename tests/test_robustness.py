"""Tests of cliplib.robustness."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cliplib.errors import CliplibError
from cliplib.robustness import CORRUPTIONS, SIDE, corrupt, few_shot, mean_interval


@pytest.mark.parametrize(("shots", "held"), [(1, 1), (2, 2), (4, 4), (16, 4), (32, 8)])
def test_few_shot_draws_as_many_as_coop_does(shots: int, held: int) -> None:
    labels = np.repeat([0, 1, 2], 60)
    train, val = few_shot(labels, shots, seed=3)
    assert np.bincount(labels[train]).tolist() == [shots] * 3
    assert np.bincount(labels[val]).tolist() == [held] * 3
    assert not np.intersect1d(train, val).size


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**16), st.integers(1, 40))
def test_no_group_is_drawn_twice(seed: int, shots: int) -> None:
    rng = np.random.default_rng(seed)
    labels, groups = rng.integers(0, 3, 300), rng.integers(0, 60, 300)  # groups hold several classes too
    train, val = few_shot(labels, shots, groups=groups, seed=seed)
    drawn = groups[np.concatenate([train, val])]
    assert len(np.unique(drawn)) == len(drawn)
    assert set(labels[train]) == set(labels[val]) == {0, 1, 2}


def test_more_shots_contain_the_fewer_and_seeds_differ() -> None:
    labels = np.repeat([0, 1], 100)
    sets = [set(few_shot(labels, shots, seed=5)[0]) for shots in (1, 4, 16, 64)]
    assert all(small < large for small, large in pairwise(sets))
    assert set(few_shot(labels, 16, seed=6)[0]) != sets[2]
    assert np.array_equal(few_shot(labels, 16, seed=5)[0], sorted(sets[2]))


def test_a_small_class_gives_what_it_has() -> None:
    labels = np.array([0] * 50 + [1] * 6)
    train, val = few_shot(labels, 8, seed=0)
    assert np.bincount(labels[train]).tolist() == [8, 4]
    assert np.bincount(labels[val]).tolist() == [4, 2]


def test_few_shot_refuses_what_it_cannot_do() -> None:
    with pytest.raises(CliplibError, match="shots must be at least 1"):
        few_shot([0, 1], 0)
    with pytest.raises(CliplibError, match="The class '1' needs two groups"):
        few_shot([0, 0, 1, 1], 1, groups=[0, 1, 2, 2])


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    rng = np.random.default_rng(0)  # coarse and fine structure, as photographs have
    coarse, fine = (Image.fromarray(rng.integers(0, 160, (h, w, 3), np.uint8)) for h, w in ((6, 8), (60, 80)))
    return Image.blend(coarse.resize((400, 300)), fine.resize((400, 300)), 0.4)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_each_strength_is_farther_from_the_original(kind: str, picture: Image.Image) -> None:
    clean = np.asarray(corrupt(picture, kind, 0), np.float64)
    assert clean.shape == (SIDE, 299, 3)
    images = [np.asarray(corrupt(picture, kind, strength, seed=1), np.float64) for strength in range(1, 6)]
    errors = [np.abs(image - clean).mean() for image in images]
    assert all(image.shape == clean.shape for image in images)
    assert errors[0] > 0.2
    assert errors == sorted(errors)


def test_what_each_corruption_does(picture: Image.Image) -> None:
    grey = Image.new("L", (SIDE, SIDE), 100)
    noisy = np.asarray(corrupt(grey, "noise", 1, seed=2))
    noise = noisy.astype(np.float64) - 100
    assert abs(noise.std() / (0.08 * 255) - 1) < 0.02
    assert (np.asarray(corrupt(grey, "noise", 1, seed=2)) == noisy).all()
    assert np.abs(np.asarray(corrupt(grey, "brightness", 2), np.float64) - 151).max() <= 1
    assert (np.asarray(corrupt(grey, "rotation", 5)) == 100).all()  # corners are filled with the background
    assert (np.asarray(corrupt(grey, "blur", 5)) == 100).all()
    blurred, clean = (np.asarray(corrupt(picture, "blur", s), np.float64)[..., 0] for s in (5, 0))
    assert np.abs(np.diff(blurred)).mean() < np.abs(np.diff(clean)).mean() / 3


def test_an_unknown_corruption_is_refused(picture: Image.Image) -> None:
    for kind, strength in (("fog", 1), ("noise", 6), ("noise", -1)):
        with pytest.raises(CliplibError, match="No corruption is"):
            corrupt(picture, kind, strength)


def test_the_interval_of_a_mean_covers_at_its_rate() -> None:
    rng, covered = np.random.default_rng(0), 0
    groups = np.repeat(np.arange(80), 3)
    for trial in range(150):
        values = np.repeat(rng.normal(1.0, 1.0, 80), 3) + rng.normal(0, 0.2, 240)
        found = mean_interval(values, groups=groups, n_boot=400, seed=trial)
        covered += found["low"] <= 1.0 <= found["high"]
    assert 0.89 <= covered / 150 <= 0.99  # rows taken as independent would cover about 0.75


def test_repeats_are_averaged_and_rows_left_out() -> None:
    right = np.array([[True, True, False, False], [True, False, False, False]])
    assert mean_interval(right, n_boot=200)["value"] == pytest.approx(3 / 8)
    assert mean_interval(right, where=[1, 1, 0, 0], n_boot=200)["value"] == pytest.approx(3 / 4)
    assert np.isnan(list(mean_interval(right, where=[0] * 4).values())).all()
    sure = mean_interval(np.ones(20, bool), n_boot=200)
    assert sure["value"] == 1 and sure["low"] < 1  # no error among 20 does not prove that there are none
    assert mean_interval(np.zeros(20), n_boot=200) == {"value": 0, "low": 0, "high": 0}
    with pytest.raises(CliplibError, match="where must have the shape"):
        mean_interval(right, where=[1, 1])

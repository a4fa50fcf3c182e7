"""Views of few things are told from images of many, and lower the accuracy."""

from __future__ import annotations

import numpy as np
import pytest

from cliplib import LinearProbe
from cliplib.features.table import FeatureTable
from cliplib.inspection import lookalikes as module
from cliplib.inspection.lookalikes import look_alikes

N = 200


def views(n_things: int, *, groups: bool = False) -> FeatureTable:
    """Images of things that look alike, whose classes hardly show."""
    rng = np.random.default_rng(0)
    thing = np.arange(N) % n_things
    labels = thing % 2
    features = rng.normal(size=(n_things, 50))[thing]
    features += 0.2 * rng.normal(size=(N, 50))
    features[:, 0] += labels
    declared = thing if groups else None
    return FeatureTable.from_arrays(features, labels, groups=declared)


def test_views_of_few_things_are_noticed() -> None:
    found = look_alikes(views(40), LinearProbe())
    assert found.looks_like_views
    assert found.upper_quartile > 0.9
    assert found.n_clusters == 40
    assert found.accuracy is not None
    assert found.accuracy.value < 0.8


def test_images_of_many_things_are_not() -> None:
    found = look_alikes(views(N), LinearProbe())
    assert not found.looks_like_views
    assert found.accuracy is None
    assert found.n_clusters == N


def test_classes_far_apart_are_no_look_alikes() -> None:
    far = views(N)
    far.features[far.labels == 1] += 5  # beside the others, all images of it are alike
    assert not look_alikes(far, LinearProbe()).looks_like_views


def test_views_are_noticed_in_classes_far_apart() -> None:
    far = views(40)
    far.features[far.labels == 1] += 5
    found = look_alikes(far, LinearProbe())
    assert found.looks_like_views
    assert found.n_clusters == 40


def test_a_quarter_of_look_alikes_is_enough() -> None:
    mixed = views(N)
    n_twins = N // 7  # in two places each: more than a quarter of the images
    mixed.features[:n_twins] = mixed.features[-n_twins:]
    assert look_alikes(mixed, LinearProbe()).looks_like_views


def test_neighbours_are_of_other_groups() -> None:
    assert not look_alikes(views(40, groups=True), LinearProbe()).looks_like_views


def test_six_pairs_show_how_alike_they_are() -> None:
    pairs = look_alikes(views(40), LinearProbe()).pairs
    assert len(pairs) == 6
    cosines = [cosine for _, _, cosine in pairs]
    assert cosines == sorted(cosines, reverse=True)
    assert all(a % 40 == b % 40 and a < b for a, b, _ in pairs)
    assert len(set(pairs)) == 6


def test_too_few_clusters_of_a_class_cannot_be_tested() -> None:
    found = look_alikes(views(6), LinearProbe())
    assert found.looks_like_views
    assert found.accuracy is None


def test_too_many_groups_are_not_clustered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_GROUPS", 120)
    monkeypatch.setattr(module, "BATCH_SIZE", 30)
    found = look_alikes(views(20), LinearProbe())
    assert found.looks_like_views
    assert found.n_clusters == N
    assert found.accuracy is None

"""Which labels look wrong, and how methods are tested."""

from __future__ import annotations

import numpy as np
import pytest

from cliplib import FeatureTable
from cliplib.features.table import groups_per_class
from cliplib.reports.methods import number_of_folds, suspect_labels


def test_a_wrong_label_is_found_and_a_hard_image_is_not() -> None:
    labels = np.repeat([0, 1], 10)
    proba = np.where(np.arange(2) == labels[:, None], 0.9, 0.1)
    proba[3] = [0.05, 0.95]  # surely of the other class
    proba[4] = [0.45, 0.55]  # wrongly classified, but without confidence
    proba[14] = [0.55, 0.45]
    suspects = suspect_labels(labels, proba)
    assert suspects["row"].tolist() == [3]
    assert suspects["likely"].tolist() == [1]
    assert suspects["margin"].tolist() == pytest.approx([0.9])


def test_thresholds_are_those_of_each_class() -> None:
    # Class 1 is never predicted with more than 0.6: 0.6 is confident there.
    labels = np.repeat([0, 1], 10)
    proba = np.where(labels[:, None] == 0, [0.95, 0.05], [0.4, 0.6])
    proba[0] = [0.4, 0.6]
    assert suspect_labels(labels, proba)["row"].tolist() == [0]


def test_a_probability_that_just_reaches_the_mean_is_confident() -> None:
    proba = np.array([[0.9, 0.1]] * 5 + [[0.2, 0.8]] * 2)
    # The one image of class 1 has 0.8; so has an image that is called class 0.
    assert suspect_labels([0] * 6 + [1], proba)["row"].tolist() == [5]


def test_a_label_that_is_the_most_probable_one_is_no_suspect() -> None:
    # 0.45 is confident for class 0, and 0.55 is not for class 1.
    proba = np.array([[0.4, 0.6]] * 5 + [[0.46, 0.54]] * 5 + [[0.05, 0.95]] * 9)
    proba = np.vstack([proba, [0.45, 0.55]])
    assert suspect_labels([0] * 10 + [1] * 10, proba).empty


def test_a_class_that_nothing_bears_is_not_suspected() -> None:
    proba = np.array([[0.8, 0.1, 0.1]] * 5 + [[0.1, 0.1, 0.8]] + [[0.1, 0.8, 0.1]] * 5)
    assert suspect_labels([0] * 6 + [1] * 5, proba).empty


def test_the_worst_label_comes_first() -> None:
    labels = np.repeat([0, 1], 10)
    proba = np.where(np.arange(2) == labels[:, None], 0.9, 0.1)
    proba[3], proba[5], proba[12] = [0.1, 0.9], [0.02, 0.98], [0.95, 0.05]
    assert suspect_labels(labels, proba)["row"].tolist() == [5, 12, 3]


def table(groups_of_a_class: int, images: int = 3) -> FeatureTable:
    """Return two classes that a line separates, in groups of some images."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], groups_of_a_class * images)
    features = rng.normal(size=(len(labels), 4)) + 4 * labels[:, None]
    groups = np.repeat(np.arange(2 * groups_of_a_class), images)
    return FeatureTable.from_arrays(features, labels, groups=groups, classes="ab")


def test_folds_are_those_that_the_groups_allow() -> None:
    assert number_of_folds(table(20)) == 5
    assert number_of_folds(table(4)) == 4


def test_a_class_of_three_groups_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'a' has images of 3 groups"):
        number_of_folds(table(3))


def test_a_class_without_images_has_no_group() -> None:
    whole = table(4)
    of_one_class = whole.select(np.flatnonzero(whole.labels == 0))
    assert groups_per_class(of_one_class).tolist() == [4, 0]

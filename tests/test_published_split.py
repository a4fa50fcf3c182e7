"""Accuracy on a folder's own split and in folds, and the split that replaces it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cliplib import LinearProbe
from cliplib.evaluation.intervals import Estimate
from cliplib.features.table import FeatureTable
from cliplib.inspection.published_split import (
    PublishedSplit,
    corrected_splits,
    evaluate_published_split,
)


def leaky(n_groups: int = 40, size: int = 4) -> FeatureTable:
    """Groups of images with a look of their own, divided between train and test.

    The class hardly shows. The first two images of a group are copies.
    """
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(n_groups), size)
    labels = group % 2
    features = 3 * rng.normal(size=(n_groups, 60))[group]
    features += 0.3 * rng.normal(size=features.shape)
    features[:, 0] += labels
    splits = np.tile(["train", "test", "train", "test"], n_groups)
    table = FeatureTable.from_arrays(features, labels, groups=group, splits=splits)
    place = np.arange(len(group))
    copies = np.where(place % size == 1, place - 1, place)
    return replace(table, copies=copies)


BY_IMAGE = Estimate(0.9, 0.8, 1.0)
BY_GROUP = Estimate(0.5, 0.4, 0.6)


def evaluated(table: FeatureTable) -> PublishedSplit | None:
    return evaluate_published_split(
        table, LinearProbe(), by_image=BY_IMAGE, by_group=BY_GROUP
    )


def test_accuracy_on_the_own_split_stands_beside_that_in_folds() -> None:
    found = evaluated(leaky())
    assert found is not None
    right = found.accuracy_by_protocol["right"]
    assert list(right.index) == ["own split", "by image", "without copies", "by group"]
    assert right["own split"].value > 0.9
    assert right["without copies"].value > 0.9  # others of their group are in training
    assert right["by image"] is BY_IMAGE
    assert right["by group"] is BY_GROUP
    assert found.accuracy_by_protocol["images"].tolist() == [80, 160, 160, 160]
    assert all(share.low <= share.value for share in right)


def test_test_images_with_a_copy_or_a_group_in_training_are_listed() -> None:
    found = evaluated(leaky())
    assert found is not None
    shared = found.shared.set_index("file")
    assert len(shared) == 80
    assert shared.loc["1", ["with_file", "by"]].tolist() == ["0", "copy"]
    assert shared.loc["3", ["with_file", "by"]].tolist() == ["0", "group"]
    assert shared["by"].value_counts().to_dict() == {"copy": 40, "group": 40}


def test_without_a_test_part_there_is_nothing_to_compare() -> None:
    table = leaky(10)
    no_test = replace(table, splits=np.full(len(table), "train"))
    assert evaluated(no_test) is None


def test_one_group_of_a_class_is_too_few_to_train_on() -> None:
    table = leaky(10)
    splits = np.full(len(table), "train")
    splits[8:] = "test"  # what is left to train on are two groups, one of each class
    assert evaluated(replace(table, splits=splits)) is None


def test_the_corrected_split_keeps_groups_whole() -> None:
    table = leaky()
    table = table.select(np.random.default_rng(1).permutation(len(table)))
    splits = corrected_splits(table)
    assert splits["file"].tolist() == table.ids.tolist()
    by_group = splits.groupby("group")
    assert (by_group["split"].nunique() == 1).all()
    assert (by_group["fold"].nunique() == 1).all()
    images = splits["split"].value_counts()
    assert images.to_dict() == {"train": 104, "test": 32, "val": 24}
    assert sorted(splits["fold"].unique()) == [1, 2, 3, 4, 5]
    for part in ("train", "val", "test"):
        assert set(splits.loc[splits["split"] == part, "label"]) == {"0", "1"}


def test_too_few_groups_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="too few images"):
        corrected_splits(leaky(4))

"""The published split of a folder: the leaks that it has, and a split without them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from cliplib.evaluation.intervals import Estimate, share_with_interval
from cliplib.features.splits import fold_numbers, group_train_test_split
from cliplib.features.table import FeatureTable, groups_per_class
from cliplib.probes.out_of_fold import fit_with_groups, out_of_fold_proba

PUBLISHED = "own split"
BY_IMAGE = "by image"
WITHOUT_COPIES = "without copies"
BY_GROUP = "by group"


@dataclass(frozen=True, eq=False)
class PublishedSplit:
    """The accuracy of a probe on a folder's published split, and by other protocols.

    Attributes
    ----------
    accuracy_by_protocol
        images (their number) and right (the accuracy, an `Estimate`), a row for each
        protocol: the published split; folds by image; folds that keep copies together;
        and folds that keep groups together.
    shared
        Test images with a copy, or an image of their group, in training: file, label,
        with_file (the first such training image) and by ("copy" or "group").
    """

    accuracy_by_protocol: pd.DataFrame
    shared: pd.DataFrame


def evaluate_published_split(
    table: FeatureTable,
    probe: Any,
    *,
    by_image: Estimate,
    by_group: Estimate,
    n_splits: int = 5,
    seed: int = 0,
) -> PublishedSplit | None:
    """Compare a probe's accuracy on a folder's published split with that in folds.

    Parameters
    ----------
    table
        Features, labels, splits, copies and groups.
    probe
        A scikit-learn classifier.
    by_image, by_group
        Its accuracy in folds that may separate the images of a group, and in folds that
        keep groups whole.
    n_splits, seed
        Number of folds, and random seed of their draw and of the intervals.

    Returns
    -------
    PublishedSplit or None
        None if there is no test part, or a class has fewer than two groups in the
        training part: a probe holds one out to choose its settings.
    """
    is_train = table.splits == "train"
    is_test = table.splits == "test"
    train = table.select(is_train)
    if not is_test.any() or groups_per_class(train).min() < 2:
        return None
    share = partial(share_with_interval, seed=seed)
    test = table.select(is_test)
    fitted = fit_with_groups(probe, train)
    on_test = share(fitted.predict(test.features) == test.labels, groups=test.groups)
    proba = out_of_fold_proba(
        probe, table, groups=table.copies, n_splits=n_splits, seed=seed
    )
    without_copies = share(proba.argmax(axis=1) == table.labels, groups=table.groups)
    accuracy = {
        PUBLISHED: on_test,
        BY_IMAGE: by_image,
        WITHOUT_COPIES: without_copies,
        BY_GROUP: by_group,
    }
    by_protocol = pd.DataFrame({"images": len(table), "right": accuracy})
    by_protocol.loc[PUBLISHED, "images"] = len(test)
    return PublishedSplit(
        by_protocol.rename_axis("protocol"), _shared(table, is_train, is_test)
    )


def _shared(table: FeatureTable, is_train: Any, is_test: Any) -> pd.DataFrame:
    """List test images with a copy in training, then others with their group there."""
    parts = []
    for by, groups in (("copy", table.copies), ("group", table.groups)):
        files = _files(table).assign(group=groups)
        first_in_training = files[is_train].drop_duplicates("group")
        training_file = first_in_training.set_index("group")["file"].rename("with_file")
        part = files[is_test].join(training_file, on="group").dropna()
        parts.append(part.assign(by=by))
    shared = pd.concat(parts).drop_duplicates("file")  # keeps "copy", which comes first
    return shared[["file", "label", "with_file", "by"]].reset_index(drop=True)


def corrected_splits(
    table: FeatureTable, *, n_splits: int = 5, seed: int = 0
) -> pd.DataFrame:
    """Return a training, validation and test part, and folds, that keep groups whole.

    The test part has about a fifth of each class's groups, and the validation part a
    fifth of the remaining ones.

    Returns
    -------
    DataFrame
        A row for each image: file, label, group, split ("train", "val" or "test") and
        fold (from 1 to `n_splits`).

    Raises
    ------
    ValueError
        If a class has too few groups.
    """
    labels = table.label_names
    rest, test = group_train_test_split(labels, table.groups, seed=seed)
    _, validation = group_train_test_split(labels[rest], table.groups[rest], seed=seed)
    splits = np.full(len(table), "train", object)
    splits[test] = "test"
    splits[rest[validation]] = "val"
    folds = fold_numbers(labels, table.groups, n_splits=n_splits, seed=seed)
    return _files(table).assign(split=splits, fold=folds + 1)


def _files(table: FeatureTable) -> pd.DataFrame:
    """Return a table of file, label and group, with a row for each image."""
    return pd.DataFrame(
        {
            "file": table.ids.astype(object),
            "label": table.label_names,
            "group": table.groups,
        }
    )

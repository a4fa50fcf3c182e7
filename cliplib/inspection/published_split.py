"""The split that a folder comes with: what it hides, and a better one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from cliplib.evaluation.intervals import Estimate, share_with_interval
from cliplib.features.splits import fold_numbers, group_train_test_split
from cliplib.features.table import FeatureTable
from cliplib.probes.out_of_fold import fit_with_groups, out_of_fold_proba

PUBLISHED = "own split"
BY_IMAGE = "by image"
WITHOUT_COPIES = "without copies"
BY_GROUP = "by group"


@dataclass(frozen=True, eq=False)
class PublishedSplit:
    """What a folder's published split says of a probe, and what other protocols say.

    Attributes
    ----------
    accuracy_by_protocol
        images (their number) and right (the accuracy, an `Estimate`): on the published
        test part, by a probe trained on the training part; in folds by image; in folds
        that keep copies together; in folds that keep groups together.
    shared
        Test images that have a copy or a group in training: file, label, with_file (the
        first such training image) and by, "copy" or "group".
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
        Features, splits, copies and groups.
    probe
        A scikit-learn classifier.
    by_image, by_group
        Its accuracy in folds that separate images of a group, and in those that do not.
    n_splits, seed
        Number of folds, and seed of their draw and of the intervals.

    Returns
    -------
    PublishedSplit or None
        None where there is no test part, or a class is missing in training.
    """
    is_train = table.splits == "train"
    is_test = table.splits == "test"
    if not is_test.any() or len(set(table.labels[is_train])) < len(table.classes):
        return None
    share = partial(share_with_interval, seed=seed)
    test = table.select(is_test)
    answers = fit_with_groups(probe, table.select(is_train)).predict(test.features)
    on_test = share(answers == test.labels, groups=test.groups)
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
    """List test images with a copy in training, then those with a group there."""
    parts = []
    for by, groups in (("copy", table.copies), ("group", table.groups)):
        files = _files(table).assign(group=groups)
        in_training = files[is_train].drop_duplicates("group").set_index("group")
        with_file = in_training["file"].rename("with_file")
        found = files[is_test].join(with_file, on="group").dropna()
        parts.append(found.assign(by=by))
    shared = pd.concat(parts).drop_duplicates("file")  # a copy before a group
    return shared[["file", "label", "with_file", "by"]].reset_index(drop=True)


def corrected_splits(
    table: FeatureTable, *, n_splits: int = 5, seed: int = 0
) -> pd.DataFrame:
    """Return a training, validation and test part, and folds, that keep groups whole.

    About a fifth of each class's groups are the test part, and a fifth of the others
    the validation part.

    Returns
    -------
    DataFrame
        file, label, group, split ("train", "val" or "test") and fold, from 1 to
        `n_splits`, a row for each image.

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
    """Return file, label and group, a row for each image."""
    return pd.DataFrame(
        {
            "file": table.ids.astype(object),
            "label": table.label_names,
            "group": table.groups,
        }
    )

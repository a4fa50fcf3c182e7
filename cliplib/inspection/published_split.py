"""The split that a folder comes with: what it hides, and a better one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cliplib.data.arrays import Ints
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
    ladder
        images (their number) and right (the accuracy, an `Estimate`): on the published
        test part, by a probe trained on the training part; in folds by image; in folds
        that keep copies together; in folds that keep groups together.
    shared
        Test images that have a copy or a group in training: file, label, with_file (the
        first such training image) and by, "copy" or "group".
    """

    ladder: pd.DataFrame
    shared: pd.DataFrame


def evaluate_published_split(
    table: FeatureTable, probe: Any, by_group: Ints, *, n_splits: int = 5, seed: int = 0
) -> PublishedSplit | None:
    """Measure a probe on a folder's published split, and in folds of three kinds.

    Parameters
    ----------
    table
        Features, splits, copies and groups.
    probe
        A scikit-learn classifier.
    by_group
        Its out-of-fold answers by group, (n,).
    n_splits, seed
        Number of folds, and seed of their draw.

    Returns
    -------
    PublishedSplit or None
        None where there is no test part, or a class is missing in training.
    """
    is_train = table.splits == "train"
    is_test = table.splits == "test"
    if not is_test.any() or len(set(table.labels[is_train])) < len(table.classes):
        return None
    train = table.select(is_train)
    test = table.select(is_test)
    fitted = fit_with_groups(probe, train)
    accuracy = {PUBLISHED: _accuracy(test, fitted.predict(test.features), seed)}
    kept_together = {BY_IMAGE: np.arange(len(table)), WITHOUT_COPIES: table.copies}
    for name, groups in kept_together.items():
        proba = out_of_fold_proba(
            probe, table, groups=groups, n_splits=n_splits, seed=seed
        )
        accuracy[name] = _accuracy(table, proba.argmax(axis=1), seed)
    accuracy[BY_GROUP] = _accuracy(table, by_group, seed)
    ladder = pd.DataFrame({"images": len(table), "right": accuracy})
    ladder.loc[PUBLISHED, "images"] = len(test)
    return PublishedSplit(
        ladder.rename_axis("protocol"), _shared(table, is_train, is_test)
    )


def _accuracy(table: FeatureTable, predicted: Ints, seed: int) -> Estimate:
    is_right = predicted == table.labels
    return share_with_interval(is_right, groups=table.groups, seed=seed)


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
    rest, test = group_train_test_split(table.labels, table.groups, seed=seed)
    _, validation = group_train_test_split(
        table.labels[rest], table.groups[rest], seed=seed
    )
    splits = np.full(len(table), "train", object)
    splits[test] = "test"
    splits[rest[validation]] = "val"
    folds = fold_numbers(table.labels, table.groups, n_splits=n_splits, seed=seed)
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

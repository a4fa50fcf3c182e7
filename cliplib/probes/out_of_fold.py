"""Each row predicted by a classifier that was fitted without its fold."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import clone
from sklearn.utils.validation import has_fit_parameter

from cliplib.data.arrays import Features, Floats, Ints
from cliplib.features.splits import check_number_of_groups, checked_groups, group_folds
from cliplib.features.table import FeatureTable


def out_of_fold_proba(
    estimator: Any,
    table: FeatureTable,
    *,
    groups: ArrayLike | None = None,
    n_splits: int = 5,
    seed: int = 0,
) -> Floats:
    """Predict each row by a classifier that was fitted without its fold.

    Parameters
    ----------
    estimator
        A scikit-learn classifier; a `fit` that takes `groups` gets those of its rows.
    table
        The features and labels, and by default the groups and the published folds.
    groups
        Other groups (n,), such as ``table.copies`` or ``np.arange(len(table))``; the
        published folds are set aside then.
    n_splits, seed
        Number of folds, and seed of the draw that assigns groups to them.

    Returns
    -------
    Floats
        Probabilities (n, k), columns in the order of ``table.classes``; 0 for a class
        that a fold's training rows lack.
    """
    published = table.folds if groups is None else None
    given = table.groups if groups is None else groups
    group_of_row = checked_groups(given, len(table.labels))
    # `fold_numbers` checks as well, but could only name the class by its number.
    class_names = np.asarray(table.classes)[table.labels]
    check_number_of_groups(class_names, group_of_row, n_splits, f"for {n_splits} folds")
    folds = group_folds(
        table.labels, group_of_row, n_splits=n_splits, seed=seed, published=published
    )
    return predict_folds(
        estimator, table.features, table.labels, group_of_row, folds, len(table.classes)
    )


def predict_folds(
    estimator: Any,
    features: Features | Floats,
    labels: Ints,
    groups: Ints,
    folds: Iterable[tuple[Ints, Ints]],
    n_classes: int,
) -> Floats:
    """Predict each row by a clone of the estimator that was fitted without its fold.

    `folds` are training rows and test rows. Returns probabilities (n, n_classes), 0 for
    a class that the fold's training rows lack.
    """
    proba = np.zeros((len(labels), n_classes))
    for train_rows, test_rows in folds:
        fitted = fit_with_groups(
            estimator, features[train_rows], labels[train_rows], groups[train_rows]
        )
        # The training rows may lack a class.
        places = np.ix_(test_rows, fitted.classes_)
        proba[places] = fitted.predict_proba(features[test_rows])
    return proba


def fit_with_groups(
    estimator: Any, features: Features | Floats, labels: Ints, groups: Ints
) -> Any:
    """Return a clone of a classifier, fitted on features (n, d) and labels (n,).

    If its `fit` takes groups, it gets `groups` (n,): probes choose their settings on
    whole groups that they hold out.
    """
    options = {"groups": groups} if has_fit_parameter(estimator, "groups") else {}
    return clone(estimator).fit(features, labels, **options)

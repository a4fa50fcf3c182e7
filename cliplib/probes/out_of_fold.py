"""Out-of-fold predictions: each row by a classifier fitted without the row's fold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from sklearn import config_context
from sklearn.base import clone
from sklearn.utils.validation import has_fit_parameter

from cliplib.data.arrays import Floats, Ints
from cliplib.features.splits import checked_groups, fold_numbers
from cliplib.features.table import FeatureTable
from cliplib.probes.base import Probe

# The numbers of the training rows and of the test rows.
Fold = tuple[Ints, Ints]


def out_of_fold_proba(
    estimator: Any,
    table: FeatureTable,
    *,
    groups: ArrayLike | None = None,
    n_splits: int = 5,
    seed: int = 0,
) -> Floats:
    """Predict each row by a classifier that was fitted without the row's fold.

    Parameters
    ----------
    estimator
        A scikit-learn classifier. If its `fit` takes `groups`, it gets those of the
        training rows.
    table
        The features, labels, and by default the groups.
    groups
        Other groups (n,), such as ``table.copies`` or ``np.arange(len(table))``.
    n_splits, seed
        Number of folds, and seed of the draw that assigns groups to folds.

    Returns
    -------
    Floats
        Probabilities (n, k), columns in the order of ``table.classes``; 0 for a class
        that the training rows of a fold lack.
    """
    if groups is not None:
        table = replace(table, groups=checked_groups(groups, len(table)))
    folds = table_folds(table, n_splits, seed)
    return predict_fits(fit_folds(estimator, table, folds), table)


def table_folds(table: FeatureTable, n_splits: int = 5, seed: int = 0) -> list[Fold]:
    """Return folds that keep a table's groups whole, by `fold_numbers`."""
    folds = fold_numbers(table.label_names, table.groups, n_splits=n_splits, seed=seed)
    return rows_of_folds(folds)


def rows_of_folds(folds: Ints) -> list[Fold]:
    """Return the training and test rows of each fold, from each row's fold, (n,)."""
    return [
        (np.flatnonzero(folds != fold), np.flatnonzero(folds == fold))
        for fold in np.unique(folds)
    ]


class Fit(NamedTuple):
    """A classifier that was fitted without one fold, and the rows of that fold."""

    estimator: Any
    test_rows: Ints


def fit_folds(
    estimator: Any, table: FeatureTable, folds: Iterable[Fold]
) -> Iterator[Fit]:
    """Fit a clone of the estimator for each fold, to the fold's training rows."""
    for train_rows, test_rows in folds:
        yield Fit(fit_with_groups(estimator, table.select(train_rows)), test_rows)


def predict_fits(fits: Iterable[Fit], table: FeatureTable) -> Floats:
    """Predict each row of a table by the classifier that was fitted without its fold.

    Returns probabilities (n, k), 0 for a class that the fold's training rows lack.
    """
    proba = np.zeros((len(table), len(table.classes)))
    for fitted, rows in fits:
        fold_proba = fitted.predict_proba(table.features[rows])
        # Columns are set by class, since the training rows may lack one.
        proba[np.ix_(rows, fitted.classes_)] = fold_proba
    return proba


def fit_with_groups(estimator: Any, table: FeatureTable) -> Any:
    """Return a clone of a classifier, fitted to a table's features and labels.

    If its `fit` takes groups, it gets those of the table, and so does a probe inside
    another estimator, such as a pipeline: probes choose their hyperparameters on whole
    groups that they hold out.
    """
    parts = estimator.get_params().values()
    holds_probe = any(isinstance(part, Probe) for part in parts)
    takes_groups = holds_probe or has_fit_parameter(estimator, "groups")
    options = {"groups": table.groups} if takes_groups else {}
    # With metadata routing, scikit-learn passes groups on to a probe inside.
    with config_context(enable_metadata_routing=True):
        return clone(estimator).fit(table.features, table.labels, **options)

"""Each row predicted by a classifier that was fitted without its fold."""

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

# Numbers of the rows to train on, and of those to test.
Fold = tuple[Ints, Ints]


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
        The features and labels, and by default the groups.
    groups
        Other groups (n,), such as ``table.copies`` or ``np.arange(len(table))``.
    n_splits, seed
        Number of folds, and seed of the draw that assigns groups to them.

    Returns
    -------
    Floats
        Probabilities (n, k), columns in the order of ``table.classes``; 0 for a class
        that a fold's training rows lack.
    """
    if groups is not None:
        table = replace(table, groups=checked_groups(groups, len(table)))
    folds = table_folds(table, n_splits, seed)
    return predict_fits(fit_folds(estimator, table, folds), table)


def table_folds(table: FeatureTable, n_splits: int = 5, seed: int = 0) -> list[Fold]:
    """Return folds that keep a table's groups whole, by `fold_numbers`."""
    options = {"n_splits": n_splits, "seed": seed}
    return rows_of_folds(fold_numbers(table.label_names, table.groups, **options))


def rows_of_folds(folds: Ints) -> list[Fold]:
    """Return the rows to train on and to test of each fold; folds (n,) are numbers."""
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
    """Fit a clone of the estimator for each fold, without the fold's rows."""
    for train_rows, test_rows in folds:
        yield Fit(fit_with_groups(estimator, table.select(train_rows)), test_rows)


def predict_fits(fits: Iterable[Fit], table: FeatureTable) -> Floats:
    """Predict each row of a table by the classifier that was fitted without its fold.

    Returns probabilities (n, k), 0 for a class that the fold's training rows lack.
    """
    proba = np.zeros((len(table), len(table.classes)))
    for fitted, rows in fits:
        # Columns are set by class: the training rows may lack one.
        proba[np.ix_(rows, fitted.classes_)] = fitted.predict_proba(
            table.features[rows]
        )
    return proba


def fit_with_groups(estimator: Any, table: FeatureTable) -> Any:
    """Return a clone of a classifier, fitted on a table's features and labels.

    If its `fit` takes groups, it gets the table's: probes choose their settings on
    whole groups that they hold out. So does a probe inside of another estimator, such
    as a pipeline.
    """
    parts = estimator.get_params().values()
    holds_probe = any(isinstance(part, Probe) for part in parts)
    options = {}
    if holds_probe or has_fit_parameter(estimator, "groups"):
        options = {"groups": table.groups}
    # With metadata routing, scikit-learn hands groups on to a probe inside.
    with config_context(enable_metadata_routing=True):
        return clone(estimator).fit(table.features, table.labels, **options)

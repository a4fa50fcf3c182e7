"""Each row predicted by a classifier that was fitted without its fold."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash
from numpy.typing import ArrayLike
from sklearn.base import clone
from sklearn.utils.validation import has_fit_parameter
from tqdm.auto import tqdm

from cliplib.data.arrays import Features, Floats, Ints
from cliplib.features.splits import (
    check_number_of_groups,
    checked_groups,
    group_folds,
)
from cliplib.features.table import FeatureTable

if TYPE_CHECKING:
    from joblib import Memory


def out_of_fold_proba(
    estimator: Any,
    table: FeatureTable,
    *,
    groups: ArrayLike | None = None,
    n_splits: int = 5,
    seed: int = 0,
    memory: Memory | None = None,
    progress: bool = True,
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
    memory
        A ``joblib.Memory`` that keeps the answer, by the estimator's class with the
        source of its module, its parameters, features, labels, groups and folds.
    progress
        Show a bar that counts folds.

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
    features = np.ascontiguousarray(table.features)
    arguments = (clone(estimator), features, table.labels, group_of_row)
    drawn = {"n_splits": n_splits, "seed": seed, "published": published}
    predict: Any = _predict_in_folds
    key = ""
    if memory is not None:
        key = _digest(features) + _module_source(estimator)
        predict = memory.cache(_predict_in_folds, ignore=["features", "progress"])
    proba: Floats = predict(*arguments, len(table.classes), drawn, key, progress)
    return proba


def _predict_in_folds(
    estimator: Any,
    features: Features,
    labels: Ints,
    groups: Ints,
    n_classes: int,
    drawn: dict[str, Any],
    key: str,
    progress: bool,
) -> Floats:
    """Predict each row without its fold, in folds that are `drawn`.

    `key`, of the features and the code of the estimator's module, is an argument for
    the memory's sake alone, which finds kept answers by the arguments.
    """
    folds = list(group_folds(labels, groups, **drawn))
    return predict_folds(
        estimator, features, labels, groups, folds, n_classes, progress=progress
    )


def predict_folds(
    estimator: Any,
    features: Features | Floats,
    labels: Ints,
    groups: Ints,
    folds: Sequence[tuple[Ints, Ints]],
    n_classes: int,
    *,
    progress: bool = False,
) -> Floats:
    """Predict each row by a clone of the estimator that was fitted without its fold.

    `folds` are training rows and test rows. Returns probabilities (n, n_classes), 0 for
    a class that the fold's training rows lack.
    """
    proba = np.zeros((len(labels), n_classes))
    for train_rows, test_rows in tqdm(folds, "folds", disable=not progress):
        fitted = fit_with_groups(
            estimator,
            features[train_rows],
            labels[train_rows],
            groups[train_rows],
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


def _digest(features: Features) -> str:
    """Return a digest of features, which joblib would take ten times as long for."""
    content = xxhash.xxh3_128_hexdigest(features.data)
    return f"{features.dtype}, {features.shape}, {content}"


def _module_source(estimator: Any) -> str:
    """Return the code of the module that defines an estimator, "" if it has no file.

    It is part of the key by which a `joblib.Memory` finds kept predictions, so that
    those of older code are not taken for today's.
    """
    try:
        return inspect.getsource(sys.modules[type(estimator).__module__])
    except (OSError, TypeError):
        return ""

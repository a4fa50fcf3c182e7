"""Labels and predictions in the forms that users give, read into a single form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import check_array, check_consistent_length, column_or_1d
from sklearn.utils.multiclass import unique_labels

from cliplib.data.arrays import Bools, Floats, Ints
from cliplib.data.labels import label_indices


def is_correct(y: ArrayLike, predicted: ArrayLike) -> Bools:
    """Tell which rows are predicted correctly, (n,).

    `predicted` holds labels (n,) of the same kind as `y`, or probabilities (n, k), for
    which `y` holds column numbers. A ValueError is raised if the two do not fit
    together, or a label is missing.
    """
    if np.ndim(predicted) > 1:
        columns = range(np.shape(predicted)[-1])
        _, labels, proba = read_predictions(y, predicted, columns)
        return np.asarray(proba.argmax(axis=1) == labels)
    check_consistent_length(y, predicted)
    unique_labels(y, predicted)  # refuses NaN, fractions, and names mixed with numbers
    return np.asarray(column_or_1d(y) == np.asarray(predicted))


def read_predictions(
    y: ArrayLike, predicted: ArrayLike, classes: Sequence[object] | None = None
) -> tuple[Sequence[object], Ints, Floats]:
    """Return k classes, labels (n,) as indices into them, and probabilities (n, k).

    By default the classes are those of `y` and of predicted labels (n,), which become
    probabilities of 0 and 1. A ValueError is raised if the three arguments do not fit
    together, or probabilities are given without classes.
    """
    shape = np.shape(predicted)
    if len(shape) > 1 and (classes is None or shape[-1] != len(classes)):
        raise ValueError(
            f"Probabilities of shape {shape} need classes, the names of their "
            "columns in this order: the columns of a classifier are its classes_."
        )
    if classes is None:
        # `unique_labels` refuses names mixed with numbers, and fractions.
        found = unique_labels(y, predicted)
        if found.dtype.kind in "iuf":  # a label 1 may be an integer or a float
            found = found.astype(np.int64)
            y = np.asarray(y, np.int64)
            predicted = np.asarray(predicted, np.int64)
        classes = found.tolist()
    labels = label_indices(y, classes)
    if len(shape) == 1:
        columns = label_indices(predicted, classes)
        predicted = columns[:, None] == np.arange(len(classes))
    return classes, labels, checked_proba(labels, predicted)


def checked_proba(labels: Ints, predicted: ArrayLike) -> Floats:
    """Return probabilities (n, k) as an array, and refuse unusable ones.

    `labels` (n,) are column numbers. A ValueError is raised if the probabilities have
    another shape, do not sum to 1, or lack a column for a label.
    """
    proba = check_array(predicted, dtype=np.float64)
    check_consistent_length(labels, proba)
    k = proba.shape[1]
    if (proba < 0).any() or (np.abs(proba.sum(axis=1) - 1) > 1e-3).any():
        raise ValueError(
            f"Predictions must be labels (n,) from 0 to {k - 1}, or probabilities "
            "(n, k) that sum to 1 in every row."
        )
    if not 0 <= labels.min() <= labels.max() < k:
        raise ValueError(f"{k} columns of probabilities need labels from 0 to {k - 1}.")
    return np.asarray(proba)

"""Labels and predictions as users give them, checked."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import check_array, check_consistent_length, column_or_1d
from sklearn.utils.multiclass import unique_labels

from cliplib.data.arrays import Bools, Floats, Ints
from cliplib.data.labels import label_indices


def is_correct(y: ArrayLike, predicted: ArrayLike) -> Bools:
    """Tell which rows are predicted rightly, (n,).

    `predicted` is labels (n,), of any kind as those of `y`, or probabilities (n, k).
    ValueError where the two do not fit together, or a label is missing.
    """
    if np.ndim(predicted) > 1:
        labels = label_indices(y, range(np.shape(predicted)[1]))
        return np.asarray(checked_proba(labels, predicted).argmax(axis=1) == labels)
    check_consistent_length(y, predicted)
    unique_labels(y, predicted)  # it refuses NaN, fractions, names beside numbers
    return np.asarray(column_or_1d(y) == np.asarray(predicted))


def checked_proba(labels: Ints, predicted: ArrayLike) -> Floats:
    """Return probabilities (n, k) as an array; labels (n,) are column numbers.

    ValueError where probabilities are of another shape, do not sum to 1, or lack a
    column for a label.
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

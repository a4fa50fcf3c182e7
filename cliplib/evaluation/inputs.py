"""Labels and predictions as users give them, checked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from cliplib.data.arrays import Bools, Floats, Ints
from cliplib.features.splits import class_indices


def are_right(y: ArrayLike, predicted: ArrayLike, argument: str) -> Bools:
    """Tell which rows are predicted rightly, (n,).

    `predicted` is labels (n,), of any kind as those of `y`, or probabilities (n, k). A
    ValueError where the two do not fit calls it by `argument`, its name for the user.
    """
    given = np.asarray(predicted)
    if given.ndim == 1:
        labels = np.asarray(y)
        _check_labels(labels, "y")
        _check_labels(given, argument)
        _check_alike(labels, given, argument)
        return np.asarray(given == labels)
    labels = class_indices(y)
    answers = checked_proba(labels, given, argument).argmax(axis=1)
    return np.asarray(answers == labels)


def _check_labels(labels: NDArray[Any], argument: str) -> None:
    """Raise ValueError for labels that are not (n,), empty, missing or fractions."""
    if labels.ndim != 1 or not len(labels):
        raise ValueError(f"{argument}: labels must be (n,), and not {labels.shape}.")
    if missing := int(pd.isna(labels).sum()):
        raise ValueError(f"{argument}: {missing} of {len(labels)} labels are missing.")
    if labels.dtype.kind == "f" and (labels != np.rint(labels)).any():
        raise ValueError(
            f"{argument}: labels must be whole numbers; give probabilities with a "
            "column for each class."
        )


def _check_alike(labels: NDArray[Any], given: NDArray[Any], argument: str) -> None:
    """Raise ValueError for predictions of another length, or kind, than the labels."""
    if given.shape != labels.shape:
        raise ValueError(
            f"{argument}: {len(given)} predictions do not fit {len(labels)} labels."
        )
    kinds = {pd.api.types.infer_dtype(values) for values in (labels, given)}
    if len(kinds) > 1 and "string" in kinds:
        raise ValueError(
            f"{argument}: labels and predictions must both be names of classes, or "
            "both be numbers."
        )


def checked_proba(labels: Ints, predicted: Any, argument: str) -> Floats:
    """Return probabilities (n, k) as an array; labels (n,) are column numbers.

    Raises
    ------
    ValueError
        Where probabilities are of another shape, do not sum to 1, or lack a column for
        a label. It calls `predicted` by `argument`, its name for the user.
    """
    given = np.asarray(predicted, float)
    if given.ndim != 2 or len(given) != len(labels):
        raise ValueError(
            f"{argument}: predictions of shape {given.shape} do not fit {len(labels)} "
            "labels: give labels (n,), or probabilities (n, k)."
        )
    if not (given >= 0).all() or not (np.abs(given.sum(axis=1) - 1) < 1e-3).all():
        raise ValueError(
            f"{argument}: give labels (n,), or probabilities that sum to 1 in every "
            "row."
        )
    k = given.shape[1]
    if not len(labels) or not 0 <= labels.min() <= labels.max() < k:
        raise ValueError(
            f"{argument}: predictions of shape {given.shape} need labels from 0 to "
            f"{k - 1}."
        )
    return given

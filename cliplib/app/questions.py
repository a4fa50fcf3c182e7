"""Questions to labelled images: would more of them pay, and which labels look wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.base import clone
from sklearn.utils.validation import has_fit_parameter

from cliplib.images.arrays import Bools, Floats, Ints
from cliplib.images.wording import counted
from cliplib.judge.intervals import Share, bootstrap, intervals
from cliplib.tables.features import FeatureTable
from cliplib.tables.splits import group_codes, group_folds

LEAST_GROUPS = 4
"""Of a class: fewer cannot be tested, trained on and validated on in turn."""
MOST_TIMES = 10
"""As many groups as there are: no learning curve is read farther."""


def groups_of_classes(table: FeatureTable, groups: ArrayLike | None = None) -> Ints:
    """Return in how many groups each class occurs, (k,)."""
    rows = pd.DataFrame({"label": table.labels})
    rows["group"] = group_codes(table.groups if groups is None else groups, len(table))
    counts = rows.groupby("label")["group"].nunique()
    return np.asarray(counts.reindex(range(len(table.classes)), fill_value=0), np.int64)


def measurable(table: FeatureTable, folds: int = 5) -> tuple[FeatureTable, int]:
    """Return the table to measure with, and the folds that its groups allow.

    Where a class has fewer than four groups, nothing can be measured on groups not
    seen; then only near-duplicates are kept together, and that has to be said.

    Raises
    ------
    ValueError
        If a class has fewer than four images that are no copies of each other.
    """
    least = groups_of_classes(table).min()
    if least >= LEAST_GROUPS:
        return table, min(folds, int(least))
    copies = groups_of_classes(table, table.copies)
    if copies.min() < LEAST_GROUPS:
        name = table.classes[int(copies.argmin())]
        raise ValueError(
            f"Class {name!r} has {counted(int(copies.min()), 'image')}, copies counted "
            f"once: it needs {LEAST_GROUPS} at least. Add some, or leave the class out."
        )
    by_copies = replace(table, groups=table.copies, folds=np.zeros(len(table), int))
    return by_copies, min(folds, int(copies.min()))


def suspect_labels(labels: ArrayLike, proba: ArrayLike) -> pd.DataFrame:
    """Find labels that look wrong by confident learning.

    Northcutt, Jiang and Chuang, JAIR 70, 2021, section 3.1: an image is confidently of
    a class where its probability reaches the mean one of the images that bear this
    label; its label is suspect where the most probable such class is another.

    Parameters
    ----------
    labels
        The given labels, (n,), indices into the columns of `proba`.
    proba
        Out-of-fold probabilities, (n, k).

    Returns
    -------
    pd.DataFrame
        row, given and likely (indices of classes) and margin, the probability of the
        likely class less that of the given one; the largest margin first.
    """
    given = np.asarray(labels)
    probabilities = np.asarray(proba, float)
    threshold = np.full(probabilities.shape[1], np.inf)
    for label in np.unique(given):
        threshold[label] = probabilities[given == label, label].mean()
    confident = np.where(probabilities >= threshold, probabilities, -1)
    likely = confident.argmax(axis=1)
    rows = np.flatnonzero((confident.max(axis=1) > 0) & (likely != given))
    margin = probabilities[rows, likely[rows]] - probabilities[rows, given[rows]]
    columns = {"row": rows, "given": given[rows], "likely": likely[rows]}
    suspects = pd.DataFrame({**columns, "margin": margin})
    # A label that is the most probable one, beside a more certain kind, is no suspect.
    suspects = suspects[suspects["margin"] > 0]
    return suspects.sort_values("margin", ascending=False, ignore_index=True)


def learning_curve(
    probe: Any,
    table: FeatureTable,
    shares: Sequence[float] = (0.125, 0.25, 0.5, 1.0),
    *,
    n_splits: int = 5,
    seed: int = 0,
) -> tuple[pd.DataFrame, list[Floats]]:
    """Measure what a probe makes of ever more labelled groups.

    The same folds are tested each time; of the other ones a share of the groups of each
    class is trained on, larger shares holding the smaller ones.

    Parameters
    ----------
    probe
        A scikit-learn classifier.
    table
        In the probe's readout.
    shares
        Those that leave a class with fewer than two groups are left out.

    Returns
    -------
    table : pd.DataFrame
        share, and the mean number of images and groups that were trained on.
    proba : list of Floats
        Out-of-fold probabilities, (n, k), for each row of the table.
    """
    folds = list(group_folds(table.labels, table.groups, n_splits=n_splits, seed=seed))
    rows = []
    answers = []
    for share in shares:
        proba = np.zeros((len(table), len(table.classes)))
        sizes = []
        for train_rows, test_rows in folds:
            chosen = train_rows[_share_of_groups(table, train_rows, share, seed)]
            if groups_of_classes(table.select(chosen)).min() < 2:
                break
            fitted = fit_with_groups(probe, table.select(chosen))
            columns = np.asarray(fitted.classes_)
            answer = fitted.predict_proba(table.features[test_rows])
            proba[np.ix_(test_rows, columns)] = answer
            sizes.append((len(chosen), len(set(table.groups[chosen]))))
        if len(sizes) == len(folds):
            images, groups = np.mean(sizes, axis=0)
            rows.append({"share": share, "images": images, "groups": groups})
            answers.append(proba)
    return pd.DataFrame(rows, columns=["share", "images", "groups"]), answers


def fit_with_groups(probe: Any, table: FeatureTable) -> Any:
    """Return a copy of a classifier, fitted to a table, with its groups if it can."""
    options = {"groups": table.groups} if has_fit_parameter(probe, "groups") else {}
    return clone(probe).fit(table.features, table.labels, **options)


def groups_needed(
    points: pd.DataFrame,
    answers: Sequence[Floats],
    table: FeatureTable,
    target: float,
    *,
    seed: int = 0,
) -> Share | None:
    """Extrapolate a learning curve: how many times as many groups reach a target.

    On each bootstrap draw of the groups ``log error = a + b log n`` is fitted by least
    squares (a power law: Hestness et al., arXiv:1712.00409) and solved for the target.
    Nothing is said where the curve has fewer than three points, where the error is not
    shown to fall, or of more than ten times today's groups.

    Parameters
    ----------
    points, answers
        As from `learning_curve`.
    table
        The labels and groups.
    target
        An accuracy, 0 to 1.
    seed
        Of the draws.

    Returns
    -------
    Share or None
        How many times today's groups, with its 95% interval; None where that cannot be
        said.
    """
    if len(points) < 3:
        return None
    wrong = np.stack([a.argmax(axis=1) != table.labels for a in answers], axis=1)
    log_groups = np.log(points["groups"].to_numpy(float))
    mean_log_groups = log_groups.mean()
    centred = log_groups - mean_log_groups
    codes = group_codes(table.groups, len(table))
    least_error = 0.5 / (codes.max() + 1)  # half an error, where a draw holds none

    def fit_power_law(weights: Floats) -> dict[str, Floats]:
        errors = (weights @ wrong) / weights.sum(axis=1, keepdims=True)
        log_errors = np.log(np.maximum(errors, least_error))
        slope = log_errors @ centred / (centred @ centred)
        # The fitted line goes through both means.
        beyond_mean = (math.log(1 - target) - log_errors.mean(axis=1)) / slope
        log_groups_needed = beyond_mean + mean_log_groups
        return {"slope": slope, "log_times": log_groups_needed - log_groups[-1]}

    drawn = bootstrap(fit_power_law, codes, seed=seed)
    if np.quantile(drawn["slope"].draws, 0.975) >= 0:
        return None
    log_times = intervals(drawn["log_times"], len(set(codes))).iloc[0]
    if log_times["high"] > math.log(MOST_TIMES):
        return None
    low, value, high = np.exp(log_times[["low", "value", "high"]].to_numpy(float))
    return Share(value, low, high)


def _share_of_groups(table: FeatureTable, rows: Ints, share: float, seed: int) -> Bools:
    """Mark the rows, (m,), of this share of the groups of each class."""
    shuffled = np.random.default_rng(seed).permutation(table.groups.max() + 1)
    images = pd.DataFrame({"label": table.labels[rows], "group": table.groups[rows]})
    places = images.assign(place=shuffled[images["group"]]).drop_duplicates()
    rank = places.groupby("label")["place"].rank(method="first")
    wanted = np.ceil(share * places.groupby("label")["place"].transform("size"))
    chosen = places.loc[rank <= wanted, "group"]
    return np.asarray(images["group"].isin(chosen), bool)

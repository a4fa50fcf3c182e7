"""Questions to labelled images: would more of them pay, and which labels look wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from cliplib.images.arrays import Floats, Ints
from cliplib.images.wording import counted
from cliplib.judge.intervals import Share, bootstrap, intervals
from cliplib.tables.features import FeatureTable
from cliplib.tables.splits import fit_with_groups, group_codes, group_folds

MOST_FOLDS = 5
LEAST_GROUPS = 4
"""Of a class: in a fold one is tested, one validates, and two are trained on."""
MOST_TIMES = 10
"""No learning curve is extrapolated beyond so many times the groups that there are."""


def groups_per_class(table: FeatureTable, groups: ArrayLike | None = None) -> Ints:
    """Count the groups in which each class of a table occurs, (k,).

    These are the table's own groups, or others, (n,), such as ``table.copies``.
    """
    codes = group_codes(table.groups if groups is None else groups, len(table))
    rows = pd.DataFrame({"label": table.labels, "group": codes})
    counts = rows.groupby("label")["group"].nunique()
    return np.asarray(counts.reindex(range(len(table.classes)), fill_value=0), np.int64)


def prepare_evaluation(table: FeatureTable) -> tuple[FeatureTable, int]:
    """Return the table to test methods on, and how many folds its groups allow.

    Where each class has four groups at least, the given table itself is returned. Else
    nothing can be tested on groups that were not trained on, and a copy of the table is
    returned whose groups are the near-duplicates alone. Which of both it is tells
    callers whether groups are kept apart.

    Raises
    ------
    ValueError
        If a class has fewer than four images that are no copies of each other.
    """
    fewest_groups = int(groups_per_class(table).min())
    if fewest_groups >= LEAST_GROUPS:
        return table, min(MOST_FOLDS, fewest_groups)
    without_copies = groups_per_class(table, table.copies)
    fewest_images = int(without_copies.min())
    if fewest_images < LEAST_GROUPS:
        name = table.classes[int(without_copies.argmin())]
        raise ValueError(
            f"Class {name!r} has {counted(fewest_images, 'image')}, copies counted "
            f"once: it needs {LEAST_GROUPS} at least. Add some, or leave the class out."
        )
    # 0 for each row is no published fold: those go with the table's own groups.
    by_copies = replace(table, groups=table.copies, folds=np.zeros(len(table), int))
    return by_copies, min(MOST_FOLDS, fewest_images)


def suspect_labels(labels: ArrayLike, proba: ArrayLike) -> pd.DataFrame:
    """Find labels that look wrong by confident learning.

    An image is confidently of a class where its probability of this class reaches the
    mean one of the images that bear this label (Northcutt, Jiang and Chuang, JAIR 70,
    2021, section 3.1). Its label is suspect where the most probable of these classes is
    another one, and more probable than the given one.

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
    # By class, (k,): none is confidently of a class that no image bears.
    thresholds = np.full(probabilities.shape[1], np.inf)
    for label in np.unique(given):
        thresholds[label] = probabilities[given == label, label].mean()
    is_confident = probabilities >= thresholds
    likely = np.where(is_confident, probabilities, -1).argmax(axis=1)
    every_row = np.arange(len(given))
    margin = probabilities[every_row, likely] - probabilities[every_row, given]
    # Without a margin the given label is likely itself, or below its own threshold but
    # more probable than the likely one.
    rows = np.flatnonzero(is_confident.any(axis=1) & (margin > 0))
    suspects = pd.DataFrame(
        {
            "row": rows,
            "given": given[rows],
            "likely": likely[rows],
            "margin": margin[rows],
        }
    )
    return suspects.sort_values("margin", ascending=False, ignore_index=True)


def learning_curve(
    probe: Any,
    table: FeatureTable,
    shares: Sequence[float] = (0.125, 0.25, 0.5, 1.0),
    *,
    n_splits: int = 5,
    seed: int = 0,
) -> tuple[pd.DataFrame, list[Floats]]:
    """Test a probe that is trained on ever more of the labelled groups.

    The same folds are tested each time; of the groups of each class in the other folds
    a share is trained on. Larger shares hold the smaller ones.

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
    points : pd.DataFrame
        share, and the numbers of images and groups that were trained on, means over
        folds; a row for each share.
    answers : list of Floats
        For each row of `points` out-of-fold probabilities, (n, k), of the table's rows.
    """
    folds = list(group_folds(table.labels, table.groups, n_splits=n_splits, seed=seed))
    points = []
    answers = []
    for share in shares:
        drawn = [_draw_groups(table, train, share, seed) for train, _ in folds]
        if any(groups_per_class(table.select(rows)).min() < 2 for rows in drawn):
            continue
        proba = np.zeros((len(table), len(table.classes)))
        for train_rows, (_, test_rows) in zip(drawn, folds, strict=True):
            train = table.select(train_rows)
            fitted = fit_with_groups(probe, train.features, train.labels, train.groups)
            answer = fitted.predict_proba(table.features[test_rows])
            proba[np.ix_(test_rows, fitted.classes_)] = answer
        n_images = np.mean([len(rows) for rows in drawn])
        n_groups = np.mean([len(set(table.groups[rows])) for rows in drawn])
        points.append({"share": share, "images": n_images, "groups": n_groups})
        answers.append(proba)
    return pd.DataFrame(points, columns=["share", "images", "groups"]), answers


def groups_needed(
    points: pd.DataFrame,
    answers: Sequence[Floats],
    table: FeatureTable,
    target: float,
    *,
    seed: int = 0,
) -> Share | None:
    """Extrapolate a learning curve to the number of groups that reaches a target.

    On each bootstrap draw of the groups ``log error = a + b log n`` is fitted by least
    squares, n being the groups trained on (a power law: Hestness et al.,
    arXiv:1712.00409), and solved for the target.

    Parameters
    ----------
    points, answers
        As from `learning_curve`; the last point is that of all groups.
    table
        The one that the curve is of, for its labels and groups.
    target
        An accuracy, 0 to 1.
    seed
        Of the bootstrap draws.

    Returns
    -------
    Share or None
        How many times the groups of the last point, with its 95% interval (a factor; 2
        is twice as many). None for a curve of fewer than three points, where the error
        is not shown to fall, and where the interval goes beyond ten times.
    """
    if len(points) < 3:
        return None
    # (n, points): 1 where a row is answered wrongly by what was trained for a point.
    wrong = np.stack([a.argmax(axis=1) != table.labels for a in answers], axis=1)
    log_groups = np.log(points["groups"].to_numpy(float))
    mean_log_groups = log_groups.mean()
    centred = log_groups - mean_log_groups
    codes = group_codes(table.groups, len(table))
    n_groups = codes.max() + 1
    least_error = 0.5 / n_groups  # half an error, where a draw holds none

    def fit_power_law(weights: Floats) -> dict[str, Floats]:
        """Return b and the log of how many times the groups are needed, (draws,).

        `weights` (draws, n) say how often each draw holds each row.
        """
        errors = (weights @ wrong) / weights.sum(axis=1, keepdims=True)
        log_errors = np.log(np.maximum(errors, least_error))
        slope = log_errors @ centred / (centred @ centred)
        # The fitted line goes through both means; from there it is followed.
        log_error_to_go = math.log(1 - target) - log_errors.mean(axis=1)
        log_groups_needed = log_error_to_go / slope + mean_log_groups
        return {"slope": slope, "log_times": log_groups_needed - log_groups[-1]}

    resampled = bootstrap(fit_power_law, codes, seed=seed)
    error_may_not_fall = np.quantile(resampled["slope"].draws, 0.975) >= 0
    if error_may_not_fall:
        return None
    log_times = intervals(resampled["log_times"], n_groups).iloc[0]
    if log_times["high"] > math.log(MOST_TIMES):
        return None
    return Share.of(np.exp(log_times))


def _draw_groups(table: FeatureTable, rows: Ints, share: float, seed: int) -> Ints:
    """Draw a share of the groups of each class among `rows`, rounded up.

    Returns those of the row numbers that are of a drawn group, in the same order. All
    shares take the first groups of one random order: larger ones hold the smaller.
    """
    place_of_group = np.random.default_rng(seed).permutation(table.groups.max() + 1)
    images = pd.DataFrame({"label": table.labels[rows], "group": table.groups[rows]})
    # A row for each class and each of its groups, with the group's place.
    pairs = images.drop_duplicates()
    pairs = pairs.assign(place=place_of_group[pairs["group"]])
    by_class = pairs.groupby("label")["place"]
    n_wanted = np.ceil(share * by_class.transform("size"))
    is_drawn = by_class.rank(method="first") <= n_wanted  # ranks are from 1
    return rows[np.isin(images["group"], pairs["group"][is_drawn])]

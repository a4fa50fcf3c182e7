"""Questions to labelled images: would more of them pay, and which labels look wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from cliplib.data.arrays import Floats, Ints
from cliplib.evaluation.intervals import Share
from cliplib.features.splits import group_folds
from cliplib.features.table import FeatureTable
from cliplib.probes.out_of_fold import predict_folds
from cliplib.reports.methods import EvaluationPlan, Methods, groups_per_class


@dataclass(frozen=True, eq=False)
class Curve:
    """Accuracy of the best probe by how much was labelled.

    Attributes
    ----------
    points
        share, images and groups trained on; value, low and high of the accuracy.
    gain_by_doubling
        Accuracy with all groups less that with half; None if it was not measured.
    """

    points: pd.DataFrame
    gain_by_doubling: Share | None


def measure_curve(plan: EvaluationPlan, methods: Methods) -> Curve:
    """Measure the best probe's learning curve, in the folds of a plan."""
    probe, table = methods.method
    points, answers = learning_curve(
        probe, table, n_splits=plan.n_splits, seed=plan.seed
    )
    if points.empty:
        return Curve(points, None)
    answers[-1] = methods.proba  # all groups: the answers that stand elsewhere
    predicted = [proba.argmax(axis=1) for proba in answers]
    shares = [plan.evaluate(answer).share("accuracy") for answer in predicted]
    points = points.join(pd.DataFrame(shares, points.index, [*Share._fields]))
    gain_by_doubling = None
    if len(points) > 1:  # the last two are of half of the groups, and of all
        gain_by_doubling = plan.gain(predicted[-1], predicted[-2])
    return Curve(points, gain_by_doubling)


def suspect_labels(labels: ArrayLike, proba: ArrayLike) -> pd.DataFrame:
    """Find labels that look wrong by confident learning.

    An image is confidently of a class if its probability of this class is at least the
    mean over the images that bear this label (Northcutt, Jiang and Chuang, JAIR 70,
    2021, section 3.1). Its label is suspect if the most probable of these classes is
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
    # By class, (k,); infinite, and never reached, for a class that no image bears.
    thresholds = np.full(probabilities.shape[1], np.inf)
    for label in np.unique(given):
        thresholds[label] = probabilities[given == label, label].mean()
    is_confident = probabilities >= thresholds  # (n, k)
    # The most probable of each row's confident classes, (n,); 0 where it has none.
    likely = np.where(is_confident, probabilities, -1).argmax(axis=1)
    every_row = np.arange(len(given))
    margin = probabilities[every_row, likely] - probabilities[every_row, given]
    # It is 0 where the given label is the likely class, and below 0 where the given
    # label does not reach its threshold but is more probable than that class.
    rows = np.flatnonzero(is_confident.any(axis=1) & (margin > 0))
    suspects = pd.DataFrame({"row": rows, "given": given[rows], "likely": likely[rows]})
    suspects["margin"] = margin[rows]
    return suspects.sort_values("margin", ascending=False, ignore_index=True)


def learning_curve(
    probe: Any,
    table: FeatureTable,
    shares: Sequence[float] = (0.125, 0.25, 0.5, 1.0),
    *,
    n_splits: int = 5,
    seed: int = 0,
) -> tuple[pd.DataFrame, list[Floats]]:
    """Cross-validate a probe that is trained on a growing share of the groups.

    Each fold is tested by a probe that is trained on this share of each class's groups
    in the other folds. Larger shares include the groups of smaller ones.

    Parameters
    ----------
    probe
        A scikit-learn classifier.
    table
        In the probe's readout.
    shares
        0 to 1. Those that leave a class with fewer than two groups are left out.
    n_splits, seed
        Number of folds, and seed of the draws of folds and groups.

    Returns
    -------
    points : pd.DataFrame
        share, and the numbers of images and groups that were trained on, means over
        folds; a row for each share.
    answers : list of Floats
        For each row of `points` out-of-fold probabilities, (n, k), of the table's rows.
    """
    labels = table.labels
    groups = table.groups
    n_classes = len(table.classes)
    folds = list(group_folds(labels, groups, n_splits=n_splits, seed=seed))
    points = []
    answers = []
    for share in shares:
        # Of each fold a part of its training rows.
        drawn = [(_draw_groups(table, rows, share, seed), test) for rows, test in folds]
        trained = [table.select(rows) for rows, _ in drawn]
        if any(groups_per_class(part).min() < 2 for part in trained):
            continue
        n_images = np.mean([len(part) for part in trained])
        n_groups = np.mean([len(set(part.groups)) for part in trained])
        points.append({"share": share, "images": n_images, "groups": n_groups})
        answers.append(
            predict_folds(probe, table.features, labels, groups, drawn, n_classes)
        )
    return pd.DataFrame(points, columns=["share", "images", "groups"]), answers


def _draw_groups(table: FeatureTable, rows: Ints, share: float, seed: int) -> Ints:
    """Draw a share of the groups of each class among `rows`, rounded up.

    Returns the row numbers, of `rows` and in their order, of the groups drawn. Each
    share takes the first groups of a class in the same random order, so that larger
    shares include the groups of smaller ones.
    """
    labels = table.labels[rows]
    groups = table.groups[rows]
    place_of_group = np.random.default_rng(seed).permutation(table.groups.max() + 1)
    is_drawn = np.zeros(len(rows), bool)
    for label in np.unique(labels):
        members = np.unique(groups[labels == label])
        in_random_order = members[place_of_group[members].argsort()]
        n_drawn = math.ceil(share * len(members))
        is_drawn |= np.isin(groups, in_random_order[:n_drawn])
    return rows[is_drawn]

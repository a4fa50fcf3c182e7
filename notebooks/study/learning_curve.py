"""Would more labels pay: the accuracy of a probe by how much was labelled."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from cliplib.data.arrays import Ints
from cliplib.evaluation.intervals import share_with_interval
from cliplib.features.table import FeatureTable, groups_per_class
from cliplib.probes.out_of_fold import fit_folds, predict_fits, table_folds
from cliplib.reports.methods import MethodComparison
from cliplib.reports.plots import FIGURE_WIDTH

SHARES = (0.125, 0.25, 0.5, 1.0)
"""Of the groups, that the curve has points for."""


def learning_curve(results: MethodComparison) -> pd.DataFrame:
    """Test the best probe when it is trained on a growing share of the groups.

    Each fold is tested by a probe that is trained on this share of each class's groups
    in the other folds. Larger shares include the groups of smaller ones. Shares that
    leave a class with fewer than two groups are left out.

    Returns
    -------
    pd.DataFrame
        share; images and groups trained on, means over folds; value, low and high of
        the accuracy.
    """
    table = results.probe_table
    folds = table_folds(table, results.n_splits, results.seed)
    points = []
    for share in tqdm(SHARES, "learning curve", unit="share"):
        # Of each fold a part of its training rows.
        parts = [
            (_draw_groups(table, rows, share, results.seed), test_rows)
            for rows, test_rows in folds
        ]
        trained = [table.select(rows) for rows, _ in parts]
        if any(groups_per_class(part).min() < 2 for part in trained):
            continue
        proba = results.proba  # with all groups
        if share < 1:
            fits = fit_folds(results.probe, table, parts)
            proba = predict_fits(fits, table)
        is_right = proba.argmax(axis=1) == table.labels
        accuracy = share_with_interval(is_right, groups=table.groups, seed=results.seed)
        point = {
            "share": share,
            "images": np.mean([len(part) for part in trained]),
            "groups": np.mean([len(set(part.groups)) for part in trained]),
        }
        points.append(point | accuracy._asdict())
    return pd.DataFrame(points)


def _draw_groups(table: FeatureTable, rows: Ints, share: float, seed: int) -> Ints:
    """Draw a share of the groups of each class among `rows`, rounded up.

    Returns the row numbers, of `rows` and in their order, of the groups drawn. Each
    share takes the first groups of a class in the same random order, so that larger
    shares include the groups of smaller ones.
    """
    groups = table.groups[rows]
    place_of_group = np.random.default_rng(seed).permutation(table.groups.max() + 1)
    places = pd.Series(place_of_group[groups]).groupby(table.labels[rows])
    n_drawn = np.ceil(share * places.transform("nunique"))
    is_drawn = places.rank("dense") <= n_drawn
    return rows[np.isin(groups, groups[is_drawn])]


def curve_plot(points: pd.DataFrame) -> Figure:
    """Plot accuracy (%), with its 95% band, over the number of groups trained on."""
    figure, ax = plt.subplots(figsize=(FIGURE_WIDTH, 2.2))
    ax.fill_between(
        points["groups"], 100 * points["low"], 100 * points["high"], alpha=0.15
    )
    ax.plot(points["groups"], 100 * points["value"], marker="o")
    ax.set(xlabel="groups trained on", ylabel="accuracy by group (%)", ylim=(0, 100))
    return figure

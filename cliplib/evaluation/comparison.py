"""A paired comparison: whether one classifier is better than another."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from cliplib.data.arrays import Floats
from cliplib.evaluation.inputs import is_correct
from cliplib.evaluation.intervals import bootstrap, intervals, small_sample_factor
from cliplib.features.splits import checked_groups


def compare(
    y: ArrayLike,
    a: ArrayLike,
    b: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    n_boot: int = 2000,
    seed: int = 0,
) -> pd.Series:
    """Compare the accuracies of two classifiers on the same rows.

    Parameters
    ----------
    y
        Labels (n,); if `a` or `b` holds probabilities, as column numbers.
    a, b
        Predicted labels (n,), or probabilities (n, k).
    groups
        Group of each row, (n,); by default each row is a group of its own.
    n_boot, seed
        Number and random seed of the bootstrap draws, which keep groups together.

    Returns
    -------
    pd.Series
        difference (accuracy of a less that of b), low and high (its 95% interval), and
        p (two-sided, of no difference): the share of draws whose distance from the
        observed difference, times `small_sample_factor`, is at least the distance of
        that difference from 0. The sample counts as such a draw (Davison and Hinkley
        1997, section 4.4).

    Raises
    ------
    ValueError
        If labels and predictions do not fit together, or one is missing (NaN).
    """
    # For each row, (n,): 1 if only a is right, -1 if only b is right, and 0 otherwise.
    gain = is_correct(y, a).astype(float) - is_correct(y, b)
    group_of_row = checked_groups(groups, len(gain))
    n_groups = int(group_of_row.max()) + 1

    def mean_gain(weights: Floats) -> dict[str, Floats]:
        return {"gain": weights @ gain / weights.sum(axis=1)}

    resampled = bootstrap(mean_gain, group_of_row, n_boot=n_boot, seed=seed)["gain"]
    interval = intervals(resampled, n_groups).iloc[0]
    factor = small_sample_factor(n_groups)
    distance = factor * np.abs(resampled.on_draws - resampled.value)
    # The margin of 1e-12 keeps rounding from deciding ties.
    n_farther = (distance >= abs(resampled.value) - 1e-12).sum()
    return pd.Series(
        {
            "difference": interval["value"],
            "low": max(-1.0, interval["low"]),
            "high": min(1.0, interval["high"]),
            "p": (1 + n_farther) / (1 + n_boot),
        }
    )

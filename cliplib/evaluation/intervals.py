"""95% confidence intervals by the cluster bootstrap.

Whole groups of rows are drawn with replacement, and the classifier is held fixed: an
interval shows how much a number depends on which groups happened to be tested. The
percentiles of the draws are too narrow if there are few groups, and meaningless if
there are few errors, so `intervals` corrects them in both cases.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import betaincinv, ndtri, stdtrit

from cliplib.data.arrays import Bools, Floats, Ints
from cliplib.data.warn import warn_once
from cliplib.features.splits import checked_groups

# The normal quantile of two-sided 95% intervals, 1.96.
NORMAL_QUANTILE = float(ndtri(0.975))

# Computes statistics by name, (draws,) or (draws, m), from the weights of the rows,
# (draws, n). A weight is the number of times that a draw contains a row.
Statistic = Callable[[Floats], Mapping[str, Floats]]


class Resampled(NamedTuple):
    """The values of one statistic, or of m, on the sample and on each draw."""

    value: Floats  # () or (m,)
    on_draws: Floats  # (n_boot,) or (n_boot, m)


class Estimate(NamedTuple):
    """A number, usually a share or a difference of shares, with its 95% interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Estimate:
        """Make an estimate of the value, low and high of a table's row."""
        return cls(float(row["value"]), float(row["low"]), float(row["high"]))

    @classmethod
    def mean(cls, estimates: Sequence[Estimate]) -> Estimate:
        """Return the mean of independent estimates, with its interval.

        The squared distances from the values to their bounds add up, as in `minus`.
        """
        k = len(estimates)
        value = sum(e.value for e in estimates) / k
        to_low = math.hypot(*(e.value - e.low for e in estimates)) / k
        to_high = math.hypot(*(e.high - e.value for e in estimates)) / k
        return cls(value, value - to_low, value + to_high)

    def minus(self, other: Estimate) -> Estimate:
        """Subtract an independent estimate, and return the difference's interval, too.

        The interval follows from the two intervals, which need not be symmetric (Zou
        and Donner, Statistics in Medicine 27, 2008, 1693-1702), without any draws.
        """
        value = self.value - other.value
        to_low = math.hypot(self.value - self.low, other.high - other.value)
        to_high = math.hypot(self.high - self.value, other.value - other.low)
        return Estimate(value, value - to_low, value + to_high)


def bootstrap(
    statistic: Statistic, group_of_row: Ints, *, n_boot: int = 2000, seed: int = 0
) -> dict[str, Resampled]:
    """Compute statistics on the sample, and on draws of its groups with replacement.

    A draw is given to the statistic as weights of the rows, so that a product of
    matrices computes hundreds of draws at once; no library offers this. A warning is
    given if there are fewer than ten groups.

    Parameters
    ----------
    statistic
        Function from the weights of the rows, (draws, n), to arrays (draws,) or
        (draws, m) by name. In it, 0 / 0 and the mean of nothing are NaN, without a
        warning.
    group_of_row
        Group of each row, (n,), numbered from 0.
    n_boot
        Number of draws.
    seed
        Random seed. Calls with the same seed and the same number of groups make the
        same draws, so that their statistics are paired.

    Returns
    -------
    dict
        The values on the sample and on each draw, by the name of the statistic.
    """
    n_groups = int(group_of_row.max()) + 1
    if n_groups < 10:
        warn_once(
            f"There are only {n_groups} groups of images: the intervals are wide, and"
            " rest on the assumption that other groups vary as these do."
        )
    rng = np.random.default_rng(seed)
    n = len(group_of_row)
    draws_at_once = max(1, 2**20 // n)  # limits the memory
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
        # The sample itself counts as a draw that contains each row once.
        on_sample = statistic(np.ones((1, n)))
        by_batch = []
        for start in range(0, n_boot, draws_at_once):
            size = (min(draws_at_once, n_boot - start), n_groups)
            group_weights = _counts_by_draw(rng.integers(0, n_groups, size))
            # All draws of a row are adjacent in memory: statistics read them faster.
            weights = group_weights.T.astype(float, order="C")[group_of_row].T
            by_batch.append(statistic(weights))
    return {
        name: Resampled(value[0], np.concatenate([batch[name] for batch in by_batch]))
        for name, value in on_sample.items()
    }


def _counts_by_draw(drawn: Ints) -> Ints:
    """Count how often each draw contains each group, (draws, n_groups).

    Each row of `drawn`, (draws, n_groups), lists the group numbers of one draw, which
    is as large as the sample: [[0, 2, 2]] gives [[1, 0, 2]].
    """
    n_draws, n_groups = drawn.shape
    draw = np.arange(n_draws)[:, None]
    codes = draw * n_groups + drawn  # a unique code for each pair of draw and group
    return np.bincount(codes.ravel(), minlength=codes.size).reshape(codes.shape)


def intervals(
    resampled: Resampled,
    n_groups: ArrayLike,
    exact_bounds: Floats | None = None,
    names: Sequence[Any] | pd.Index | None = None,
) -> pd.DataFrame:
    """Turn the values and draws of m statistics into a table with 95% intervals.

    The interval of the draws' percentiles is corrected twice.

    1. Its distances from the value are enlarged, since the bootstrap is too narrow in
       small samples: 2.7 times for three groups, 1.06 times for thirty (Hesterberg,
       The American Statistician 69, 2015, 371-386).
    2. If the interval of a share then reaches 0 or 1, there are too few errors, or too
       few hits, for the draws to vary enough. It is extended to the exact interval,
       which needs no draws.

    Parameters
    ----------
    resampled
        Values on the sample and on the draws, from `bootstrap`.
    n_groups
        Number of groups that each statistic is based on, such as those with rows in its
        denominator, (m,), or one number for all.
    exact_bounds
        Exact lower and upper bounds (2, m) of shares and areas, from `clopper_pearson`
        or `newcombe`; NaN for statistics without exact bounds.
    names
        Index of the table, (m,).

    Returns
    -------
    pd.DataFrame
        value, low and high, a row for each statistic; NaN where the value is undefined
        on the sample. A single group cannot show how groups vary: its interval is 0 to
        1 for statistics with exact bounds, and NaN for others.
    """
    value = np.atleast_1d(resampled.value)  # (m,)
    on_draws = resampled.on_draws.reshape(-1, len(value))  # (n_boot, m)
    group_counts = np.broadcast_to(n_groups, value.shape)
    if exact_bounds is None:
        exact_bounds = np.full((2, len(value)), np.nan)
    is_share = ~np.isnan(exact_bounds[0])
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
        # All bounds are (2, m): the lower ones, then the upper ones.
        bounds = np.nanquantile(on_draws, [0.025, 0.975], axis=0)
    bounds = _widened_for_few_groups(value, bounds, group_counts)
    bounds = _extended_to_exact(bounds, exact_bounds)
    bounds = np.where(is_share, np.clip(bounds, 0, 1), bounds)
    bounds_of_one_group = np.where(is_share, [[0], [1]], np.nan)
    bounds = np.where(group_counts == 1, bounds_of_one_group, bounds)
    bounds = np.where(np.isnan(value), np.nan, bounds)
    low, high = bounds
    return pd.DataFrame({"value": value, "low": low, "high": high}, index=names)


def _widened_for_few_groups(value: Floats, bounds: Floats, n_groups: Ints) -> Floats:
    """Multiply the distances of bounds (2, m) from their values (m,).

    The multipliers are the `small_sample_factor` of the numbers of groups (m,). A bound
    on the wrong side of its value is not moved.
    """
    # The factor is undefined for one group, whose bounds `intervals` replaces.
    factor = small_sample_factor(np.maximum(n_groups, 2))
    low, high = bounds
    widened_low = value - factor * (value - low)
    widened_high = value + factor * (high - value)
    return np.stack([np.minimum(low, widened_low), np.maximum(high, widened_high)])


def _extended_to_exact(bounds: Floats, exact_bounds: Floats) -> Floats:
    """Extend bounds (2, m) to the exact ones where an interval reaches 0 or 1.

    No interval becomes narrower. Where the exact bounds are NaN, nothing changes.
    """
    low, high = bounds
    exact_low, exact_high = exact_bounds
    # fmin and fmax ignore NaN.
    extended = np.stack([np.fmin(low, exact_low), np.fmax(high, exact_high)])
    reaches_edge = (low <= 0) | (high >= 1)
    return np.where(reaches_edge, extended, bounds)


def small_sample_factor(n_groups: ArrayLike) -> Floats:
    """Return the factor above 1 by which bootstrap intervals of few groups are widened.

    For n groups, at least 2, it replaces the normal quantile by Student's, and the
    standard deviation with divisor n, which the bootstrap implies, by the one with
    divisor n - 1.
    """
    n = np.asarray(n_groups, float)
    students_quantile = stdtrit(n - 1, 0.975)
    return np.asarray(students_quantile / NORMAL_QUANTILE * np.sqrt(n / (n - 1)))


def clopper_pearson(share: ArrayLike, n: ArrayLike) -> Floats:
    """Return exact binomial 95% intervals (2, m) of shares (m,) of n (m,) trials.

    The method is that of Clopper and Pearson (1934). If share times n is not a whole
    number of hits, the beta distribution interpolates.
    """
    total = np.asarray(n, float)
    hits = np.asarray(share) * total
    low = betaincinv(hits, total - hits + 1, 0.025)
    high = betaincinv(hits + 1, total - hits, 0.975)
    # Without hits the interval begins at 0; without misses it ends at 1.
    return np.stack([np.where(hits == 0, 0, low), np.where(hits == total, 1, high)])


def newcombe(area: ArrayLike, n_positive: ArrayLike, n_negative: ArrayLike) -> Floats:
    """Return 95% intervals (2, m) of areas under ROC curves (m,), without any draws.

    The interval contains every area a that differs from the observed one by at most
    1.96 standard errors (Newcombe, Statistics in Medicine 25, 2006, 559-573, method 5).
    With p positives and q negatives, (m,) both, the squared standard error is ::

        a (1 - a) (1 + ((p + q) / 2 - 1) ((1 - a) / (2 - a) + a / (1 + a))) / (p q)

    (Hanley and McNeil 1982). Since this is the error of a, and not of the observed
    area, an observed area of 1 has an interval of some width, too.
    """
    observed = np.asarray(area, float)
    p = np.asarray(n_positive, float)
    q = np.asarray(n_negative, float)

    def is_in_interval(a: Floats) -> Bools:
        """Tell which areas a (2, m) belong to the intervals."""
        spread = (1 - a) / (2 - a) + a / (1 + a)
        pq_variance = a * (1 - a) * (1 + ((p + q) / 2 - 1) * spread)
        squared_distance = (observed - a) ** 2
        return np.asarray(squared_distance * p * q <= NORMAL_QUANTILE**2 * pq_variance)

    # Both bounds (2, m) are found by bisection, between the observed area, which is in
    # its interval, and 0 for the lower bound or 1 for the upper one.
    inside = np.stack([observed, observed])
    outside = np.stack([np.zeros_like(observed), np.ones_like(observed)])
    for _ in range(50):  # until the two agree to the last digit
        middle = (outside + inside) / 2
        is_inside = is_in_interval(middle)
        inside = np.where(is_inside, middle, inside)
        outside = np.where(is_inside, outside, middle)
    return inside  # NaN where the observed area is


def ratio_intervals(
    numerator: Any,
    denominator: Any = 1,
    *,
    groups: ArrayLike | None = None,
    n_boot: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Divide each column's sum by that of its denominator, with 95% intervals.

    The denominator of a mean is 1; a sensitivity divides the hits by the rows of the
    class.

    Parameters
    ----------
    numerator
        Array (n,) or (n, m), table, or mapping of columns. Columns of truth values are
        shares: if their interval reaches 0 or 1, it is extended to the exact binomial
        interval, in which each group is one trial.
    denominator
        Number, (n,) or (n, m). Only rows with a denominator above 0 count.
    groups
        Group of each row, (n,); by default each row is a group of its own.
    n_boot, seed
        Number and random seed of the bootstrap draws, which keep groups together.

    Returns
    -------
    pd.DataFrame
        value, low and high, a row for each column.
    """
    columns = pd.DataFrame(numerator)  # (n, m)
    denominators = np.asarray(denominator, float)
    if denominators.ndim == 1:
        denominators = denominators[:, None]
    denominators = np.broadcast_to(denominators, columns.shape)
    is_counted = denominators > 0
    numerators = np.where(is_counted, columns.to_numpy(float), 0)
    # A single group is allowed: its interval is 0 to 1, or NaN.
    group_of_row = checked_groups(groups, len(columns), at_least=1)

    def ratios(weights: Floats) -> dict[str, Floats]:
        return {"ratio": (weights @ numerators) / (weights @ denominators)}

    resampled = bootstrap(ratios, group_of_row, n_boot=n_boot, seed=seed)["ratio"]
    n_groups = count_groups(is_counted, group_of_row)
    is_share = [dtype.kind == "b" for dtype in columns.dtypes]
    exact = clopper_pearson(resampled.value, n_groups)
    exact_bounds = np.where(is_share, exact, np.nan)
    return intervals(resampled, n_groups, exact_bounds, columns.columns)


def share_with_interval(
    is_true: ArrayLike, *, groups: ArrayLike, seed: int = 0
) -> Estimate:
    """Return the share of rows (n,) that are true, with its interval over groups."""
    table = ratio_intervals({"share": is_true}, groups=groups, seed=seed)
    return Estimate.of(table.loc["share"])


def count_groups(is_counted: Bools, group_of_row: Ints) -> Ints:
    """Count the groups with at least one true row in each column (n, m), (m,)."""
    return np.array([len(np.unique(group_of_row[rows])) for rows in is_counted.T])


def auroc_statistic(positive: Bools, score: Floats) -> Callable[[Floats], Floats]:
    """Return a function from weights (draws, n) to areas under the ROC curve (draws,).

    A weight is the number of times that a draw contains a row. The area is the weighted
    share of pairs of a positive and a negative row in which the positive has the higher
    score; ties count half (Hanley and McNeil 1982). Scores are sorted only once.

    Parameters
    ----------
    positive
        Whether each row belongs to the class that should have high scores, (n,).
    score
        Score of each row, (n,), in any unit.
    """
    # Row numbers of the negatives, the lowest score first.
    negatives = np.flatnonzero(~positive)
    negatives = negatives[np.argsort(score[negatives], kind="stable")]
    # The number of negatives with a lower score than each positive, (positives,).
    n_lower = np.searchsorted(score[negatives], score[positive], "left")
    n_equal_or_lower = np.searchsorted(score[negatives], score[positive], "right")

    def area(weights: Floats) -> Floats:
        # Row i, (draws,), is the total weight of the i negatives with lowest scores.
        weight_of_lowest = np.zeros((len(negatives) + 1, len(weights)))
        np.cumsum(weights.T[negatives], axis=0, out=weight_of_lowest[1:])
        positive_weights = weights.T[positive]
        # Weight of the negatives that each positive beats, (positives, draws). The mean
        # of both sums counts ties half.
        beaten = (weight_of_lowest[n_lower] + weight_of_lowest[n_equal_or_lower]) / 2
        n_pairs = positive_weights.sum(axis=0) * weight_of_lowest[-1]
        # For each draw d, the sum over all positives p.
        n_won = np.einsum("pd,pd->d", positive_weights, beaten)
        return np.asarray(n_won / n_pairs)  # NaN if a draw has no positive or negative

    return area

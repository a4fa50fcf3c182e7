"""Intervals of 95% by the cluster bootstrap.

Groups are drawn with replacement, all rows of a group together, and the classifier is
held fixed: an interval says how a number varies with the groups that happened to be
tested. Percentiles of the draws are too narrow where groups are few, and say nothing
where errors are few, so they are amended twice (see `intervals`).
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

# 1.96, for two-sided intervals of 95%.
NORMAL_QUANTILE = float(ndtri(0.975))

# Maps weights of the rows (draws, n) to arrays (draws,) or (draws, m) by name. A weight
# is how often the draw holds the row.
Statistic = Callable[[Floats], Mapping[str, Floats]]


class Resampled(NamedTuple):
    """One statistic, or m of them, on the sample and on each draw."""

    value: Floats  # () or (m,)
    on_draws: Floats  # (n_boot,) or (n_boot, m)


class Estimate(NamedTuple):
    """A number, mostly a share or a difference of shares, with its 95% interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Estimate:
        """Take value, low and high from a row of a table."""
        return cls(float(row["value"]), float(row["low"]), float(row["high"]))

    @classmethod
    def mean(cls, estimates: Sequence[Estimate]) -> Estimate:
        """Return the mean of independent estimates, with its interval.

        Squared distances from value to end add up (Zou and Donner, as in `minus`).
        """
        k = len(estimates)
        value = sum(e.value for e in estimates) / k
        to_low = math.hypot(*(e.value - e.low for e in estimates)) / k
        to_high = math.hypot(*(e.high - e.value for e in estimates)) / k
        return cls(value, value - to_low, value + to_high)

    def minus(self, other: Estimate) -> Estimate:
        """Return this less an independent estimate, with the difference's interval.

        It follows from the two intervals, which need not be symmetric (Zou and Donner,
        Statistics in Medicine 27, 2008, 1693-1702); no draws are needed.
        """
        value = self.value - other.value
        to_low = math.hypot(self.value - self.low, other.high - other.value)
        to_high = math.hypot(self.high - self.value, other.value - other.low)
        return Estimate(value, value - to_low, value + to_high)


def bootstrap(
    statistic: Statistic, group_of_row: Ints, *, n_boot: int = 2000, seed: int = 0
) -> dict[str, Resampled]:
    """Compute statistics on the sample and on draws of its groups, with replacement.

    Own code, because no library draws groups as weights of the rows: a statistic then
    is a product of matrices, for hundreds of draws at once.

    Parameters
    ----------
    statistic
        Maps weights of the rows, (draws, n), to arrays (draws,) or (draws, m) by name.
        0 / 0 is NaN there, and so is the mean of nothing, without a warning.
    group_of_row
        Groups (n,), numbered from 0.
    n_boot
        Number of draws.
    seed
        With equal seeds and numbers of groups the draws are equal: statistics of
        separate calls stay paired.

    Returns
    -------
    dict
        By name, the statistic on the sample and on each draw. A warning says where
        there are fewer than ten groups.
    """
    n_groups = int(group_of_row.max()) + 1
    if n_groups < 10:
        warn_once(
            f"There are only {n_groups} groups of images: the intervals are wide, and"
            " rest on the assumption that other groups vary as these do."
        )
    rng = np.random.default_rng(seed)
    n = len(group_of_row)
    draws_at_once = max(1, 2**20 // n)  # bounds the memory
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
        # The sample itself is one draw, which holds each row once.
        on_sample = statistic(np.ones((1, n)))
        by_batch = []
        for start in range(0, n_boot, draws_at_once):
            size = (min(draws_at_once, n_boot - start), n_groups)
            group_weights = _counts_by_draw(rng.integers(0, n_groups, size))
            # The draws of a row lie side by side in memory, as statistics read them.
            weights = group_weights.T.astype(float, order="C")[group_of_row].T
            by_batch.append(statistic(weights))
    return {
        name: Resampled(value[0], np.concatenate([batch[name] for batch in by_batch]))
        for name, value in on_sample.items()
    }


def _counts_by_draw(drawn: Ints) -> Ints:
    """Return how often each draw holds each group, (draws, n_groups).

    A row of `drawn`, of the same shape, holds the numbers of the groups of one draw, as
    many as there are groups: [[0, 2, 2]] gives [[1, 0, 2]].
    """
    n_draws, n_groups = drawn.shape
    draw = np.arange(n_draws)[:, None]
    codes = draw * n_groups + drawn  # another code for each pair of draw and group
    return np.bincount(codes.ravel(), minlength=codes.size).reshape(codes.shape)


def intervals(
    resampled: Resampled,
    n_groups: ArrayLike,
    exact_bounds: Floats | None = None,
    names: Sequence[Any] | pd.Index | None = None,
) -> pd.DataFrame:
    """Turn values and draws of m statistics into a table with 95% intervals.

    Percentiles of the draws are amended twice.

    1. They are moved away from the value by what the bootstrap lacks in small samples,
       Student's quantile and the unbiased deviation (Hesterberg, The American
       Statistician 69, 2015, 371-386): 2.7 times for three groups, 1.06 for thirty.
    2. A share whose interval then reaches 0 or 1 has too few errors, or hits, to be
       resampled; in the extreme all draws are equal. The interval is extended to the
       exact one, which needs no draws.

    Parameters
    ----------
    resampled
        The values on the sample, and on the draws of `bootstrap`.
    n_groups
        Number of groups that each statistic rests on, (m,) or one for all, such as
        those with rows in its denominator.
    exact_bounds
        Lower and upper bounds (2, m) of statistics from 0 to 1, by `clopper_pearson` or
        `newcombe`; NaN for statistics that are no shares.
    names
        Index of the table, (m,).

    Returns
    -------
    pd.DataFrame
        value, low and high, a row for each statistic; NaN where the sample leaves the
        value undefined. One group says nothing of others: its interval is 0 to 1 for
        shares, or else NaN.
    """
    value = np.atleast_1d(resampled.value)  # (m,)
    on_draws = resampled.on_draws.reshape(-1, len(value))  # (n_boot, m)
    group_counts = np.broadcast_to(n_groups, value.shape)
    if exact_bounds is None:
        exact_bounds = np.full((2, len(value)), np.nan)
    is_share = ~np.isnan(exact_bounds[0])
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
        # (2, m), low and high, as all bounds below.
        bounds = np.nanquantile(on_draws, [0.025, 0.975], axis=0)
    bounds = _widened_for_few_groups(value, bounds, group_counts)
    bounds = _extended_to_exact(bounds, exact_bounds)
    bounds = np.where(is_share, np.clip(bounds, 0, 1), bounds)
    of_one_group = np.where(is_share, [[0], [1]], np.nan)  # [0, 1] for shares
    bounds = np.where(group_counts == 1, of_one_group, bounds)
    bounds = np.where(np.isnan(value), np.nan, bounds)
    low, high = bounds
    return pd.DataFrame({"value": value, "low": low, "high": high}, index=names)


def _widened_for_few_groups(value: Floats, bounds: Floats, n_groups: Ints) -> Floats:
    """Return bounds (2, m) moved away from their values (m,).

    Distances are multiplied by the `small_sample_factor` of the numbers of groups (m,).
    A bound on the wrong side of its value stays where it is.
    """
    factor = small_sample_factor(np.maximum(n_groups, 2))  # one group has no factor
    low, high = bounds
    widened_low = value - factor * (value - low)
    widened_high = value + factor * (high - value)
    return np.stack([np.minimum(low, widened_low), np.maximum(high, widened_high)])


def _extended_to_exact(bounds: Floats, exact_bounds: Floats) -> Floats:
    """Return bounds (2, m), extended to the exact ones if an interval reaches 0 or 1.

    Nothing is narrowed, and exact bounds that are NaN change nothing.
    """
    low, high = bounds
    exact_low, exact_high = exact_bounds
    # fmin and fmax take the other number where one is NaN.
    extended = np.stack([np.fmin(low, exact_low), np.fmax(high, exact_high)])
    reaches_edge = (low <= 0) | (high >= 1)
    return np.where(reaches_edge, extended, bounds)


def small_sample_factor(n_groups: ArrayLike) -> Floats:
    """Return the factor, above 1, for the distance of bootstrap bounds from the value.

    For n groups, 2 or more, it puts Student's quantile in place of the normal one, and
    a standard deviation divided by n - 1 in place of one divided by n.
    """
    n = np.asarray(n_groups, float)
    students_quantile = stdtrit(n - 1, 0.975)
    return np.asarray(students_quantile / NORMAL_QUANTILE * np.sqrt(n / (n - 1)))


def clopper_pearson(share: ArrayLike, n: ArrayLike) -> Floats:
    """Return exact binomial 95% intervals (2, m) of shares (m,) of n (m,) trials.

    Clopper and Pearson 1934; where share times n is no whole number of hits, the beta
    distribution interpolates.
    """
    total = np.asarray(n, float)
    hits = np.asarray(share) * total
    low = betaincinv(hits, total - hits + 1, 0.025)
    high = betaincinv(hits + 1, total - hits, 0.975)
    # Without hits, or without misses, the interval ends at 0 or 1.
    return np.stack([np.where(hits == 0, 0, low), np.where(hits == total, 1, high)])


def newcombe(area: ArrayLike, n_positive: ArrayLike, n_negative: ArrayLike) -> Floats:
    """Return 95% intervals (2, m) of areas under ROC curves (m,), without any draws.

    They follow from the numbers of positives p and negatives q, (m,). Method 5 of
    Newcombe (Statistics in Medicine 25, 2006, 559-573): the interval holds all areas a
    that are 1.96 standard errors or less from the one found. The squared error is ::

        a (1 - a) (1 + ((p + q) / 2 - 1) ((1 - a) / (2 - a) + a / (1 + a))) / (p q)

    (Hanley and McNeil 1982). It is that of a, not of the area found, so that an area of
    1 has an interval of some width, too.
    """
    found = np.asarray(area, float)
    p = np.asarray(n_positive, float)
    q = np.asarray(n_negative, float)

    def is_in_interval(a: Floats) -> Bools:
        """Tell which areas a (m,) are in the intervals of those found, (m,)."""
        spread = (1 - a) / (2 - a) + a / (1 + a)
        variance = a * (1 - a) * (1 + ((p + q) / 2 - 1) * spread)  # p q squared errors
        squared_distance = (found - a) ** 2
        return np.asarray(squared_distance * p * q <= NORMAL_QUANTILE**2 * variance)

    low = _last_inside(is_in_interval, found, np.zeros(found.shape))
    high = _last_inside(is_in_interval, found, np.ones(found.shape))
    return np.where(np.isnan(found), np.nan, np.stack([low, high]))


def _last_inside(
    is_in_interval: Callable[[Floats], Bools], inside: Floats, limit: Floats
) -> Floats:
    """Return the end of each of m intervals on the side of a limit, (m,), by bisection.

    `inside` (m,) holds a value of each interval; none reaches beyond its limit (m,).
    `is_in_interval` tells which of m values lie in their interval.
    """
    outside = limit
    for _ in range(50):  # until the distance is below any rounding
        middle = (outside + inside) / 2
        is_inside = is_in_interval(middle)
        inside = np.where(is_inside, middle, inside)
        outside = np.where(is_inside, outside, middle)
    return inside


def ratio_intervals(
    numerator: Any,
    denominator: Any = 1,
    *,
    groups: ArrayLike | None = None,
    n_boot: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Divide each column's sum by that of its denominator, with 95% intervals.

    For a mean the denominator is 1; a sensitivity divides hits by rows of the class.

    Parameters
    ----------
    numerator
        Array (n,) or (n, m), table or mapping of columns. Truth values are shares:
        where their interval reaches 0 or 1 it is extended to the exact binomial one, in
        which each group is a trial.
    denominator
        Number, (n,) or (n, m). A row counts where its denominator is above 0.
    groups
        Groups (n,); without them each row is its own.
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
    # A single group will do: its interval is 0 to 1, or NaN.
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
    """Return the share of rows (n,) that are true, by `ratio_intervals` over groups."""
    table = ratio_intervals({"share": is_true}, groups=groups, seed=seed)
    return Estimate.of(table.loc["share"])


def count_groups(is_counted: Bools, group_of_row: Ints) -> Ints:
    """Return how many groups have a row that is true in each column (n, m), (m,)."""
    return np.array([len(np.unique(group_of_row[rows])) for rows in is_counted.T])


def auroc_statistic(positive: Bools, score: Floats) -> Callable[[Floats], Floats]:
    """Return a function from weights (draws, n) to areas under the ROC curve (draws,).

    Weights say how often each draw holds each row. The area is the weighted share of
    pairs of a positive and a negative row in which the positive has the higher score,
    ties counting half (Hanley and McNeil 1982). Scores are sorted once for all draws.

    Parameters
    ----------
    positive
        Whether each row is of the class that high scores speak for, (n,).
    score
        The score of each row, (n,), in any unit.
    """
    # Row numbers of the negatives, by rising score.
    negatives = np.flatnonzero(~positive)
    negatives = negatives[np.argsort(score[negatives], kind="stable")]
    # How many negatives have a lower score than each positive, and an equal or lower.
    n_lower = np.searchsorted(score[negatives], score[positive], "left")
    n_equal_or_lower = np.searchsorted(score[negatives], score[positive], "right")

    def area(weights: Floats) -> Floats:
        # Row i, (draws,), is the weight of the i negatives of the lowest scores.
        weight_of_lowest = np.zeros((len(negatives) + 1, len(weights)))
        np.cumsum(weights.T[negatives], axis=0, out=weight_of_lowest[1:])
        positive_weights = weights.T[positive]
        # Weights of the negatives below each positive, (positives, draws): the mean of
        # both sums counts ties half.
        beaten = (weight_of_lowest[n_lower] + weight_of_lowest[n_equal_or_lower]) / 2
        n_pairs = positive_weights.sum(axis=0) * weight_of_lowest[-1]
        # The sum over positives of weight times beaten weight, for each draw.
        n_won = np.einsum("pd,pd->d", positive_weights, beaten)
        return np.asarray(n_won / n_pairs)  # NaN where a draw lacks one of both

    return area
